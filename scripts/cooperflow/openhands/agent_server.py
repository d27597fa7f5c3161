"""OpenHands' agent server: installed files, images, and the container of a running agent."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
from docker.models.containers import Container

from cooperflow import layout
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import UserError
from cooperflow.openhands import LOGS, NETWORK
from cooperflow.upstream import published

FOLDER = layout.REPOSITORY / ".tools" / "openhands"
# The SDK and the tools for processes on this machine.
HOST = FOLDER / "host"
# Path in containers, as in upstream's images.
PREFIX = "/opt/agent-server-venv"
PYTHON = f"{PREFIX}/bin/python"
PORT = 8000
SERVER = (PYTHON, "-m", "openhands.agent_server", "--host", "0.0.0.0", "--port", str(PORT))
# Variables that prevent a starting server from fetching litellm's prices, which it cannot reach,
# and from starting an editor and a browser, which the agent does not use.
ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OH_ENABLE_VSCODE": "0",
    "OH_PRELOAD_TOOLS": "0",
}

LAYERED = "layered"
LABEL = "cooperflow.openhands"
BASE_LABEL = "cooperflow.openhands.base"

# Time limit for a server to become healthy, seconds. It takes 5 s on an idle machine, but far more
# when several start at once on a busy one.
HEALTHY_SECONDS = 240

# Queries the server from inside the container, so that no network is needed.
_QUERY = (
    "import sys, urllib.request as r\n"
    f"at = 'http://127.0.0.1:{PORT}/'\n"
    "r.urlopen(at + 'health', timeout=5).read()\n"
    "sys.stdout.write(r.urlopen(at + 'server_info', timeout=5).read().decode())"
)

# Interval of the health checks while an agent runs, seconds.
EVERY = 5.0
# Time without an answer after which a server counts as hung, seconds.
SILENCE_SECONDS = 60.0
# Size limit of a server's log, bytes.
LOG_BYTES = 20_000_000
# Path of the repository in a task's image.
REPOSITORY = "/workspace/repo"
# The highest exit code of git itself (128: fatal, 129: usage); above it, a signal ended git.
GIT_REFUSES = 129
# Exit codes of a command that could not be started.
_NOT_GITS = (126, 127)

# Values of each agent's thread: `agent` (its name), `image` and `sandbox`.
thread_values = threading.local()


def sources_hash() -> str:
    """Return the short hash of the installed files' sources.

    Raises:
        UserError: the files are missing.
    """
    try:
        return (FOLDER / "stamp").read_text().strip()
    except OSError:
        raise UserError(
            "OpenHands' agent server and SDK are not installed. Run `make openhands`, which builds "
            "them from Debian's and Python's packages."
        ) from None


def server_image() -> str:
    """Return the name of the image with the files for containers.

    Raises:
        UserError: the files are missing.
    """
    return f"cooperflow/openhands:{sources_hash()}"


def make_importable() -> None:
    """Make the SDK and the tools importable in this process."""
    if str(HOST) not in sys.path:
        sys.path.append(str(HOST))


def layer(client: docker.DockerClient, image: str) -> None:
    """Build an image with an agent server on the task's image, which is local and verified.

    Raises:
        UserError: the files or their image are missing.
        DockerException: Docker could not build the image.
    """
    source, task = server_image(), published.task_image(image)
    base = containers.image_content(client, task)
    if base is None:
        raise UserError(f"its base image {task} is missing")
    if containers.image_id(client, source) is None:
        raise UserError(f"{source} is missing. Run `make openhands`.")
    recipe = "\n".join(
        (
            f"FROM {task}",
            f"COPY --from={source} {PREFIX} {PREFIX}",
            f"LABEL {LABEL}={sources_hash()} {BASE_LABEL}={base}",
            f"EXPOSE {PORT}",
            f"ENTRYPOINT {json.dumps(list(SERVER))}",
            "CMD []",
        )
    )
    client.images.build(fileobj=io.BytesIO(recipe.encode()), tag=image, rm=True, forcerm=True)


def is_stale(client: docker.DockerClient, image: str) -> bool:
    """Return whether an image was built on a base or from files that have changed since.

    The result is False for an image that was not built here.
    """
    try:
        labels = client.images.get(image).labels
    except docker.errors.ImageNotFound:
        return False
    if BASE_LABEL not in labels:
        return False
    task = published.task_image(image)
    # Images of older versions record the base's id.
    base = (containers.image_content(client, task), containers.image_id(client, task))
    return labels[BASE_LABEL] not in base or labels.get(LABEL) != sources_hash()


def verify(client: docker.DockerClient, image: str, labels: Labels) -> dict[str, str]:
    """Start the agent server of an image; return its version once it is healthy.

    Raises:
        UserError: it does not start, or is not healthy in time.
    """
    try:
        container = client.containers.run(
            image,
            detach=True,
            init=True,
            working_dir="/",
            network_mode="none",
            environment=dict(ENVIRONMENT),
            labels=labels.as_dict(),
        )
        limit = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < limit:
            code, output = container.exec_run([PYTHON, "-c", _QUERY])
            if code == 0 and isinstance(output, bytes):
                return {"agent_server": str(json.loads(output)["version"])}
            container.reload()
            if container.status != "running":
                break
            time.sleep(0.5)
        output_text = container.logs(tail=5).decode(errors="replace").strip()
    except docker.errors.APIError as error:
        output_text = str(error)
    finally:
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
    raise UserError(
        f"{image}: its agent server is not healthy after {HEALTHY_SECONDS} s, or ended. Output: "
        f"{output_text or 'none'}. Remove the image, then start again."
    )


def container_environment(coop_info: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the variables of an agent's container: upstream's, without keys. Pure.

    The server receives the model's address and the run's token together with the agent.
    """
    variables = dict(ENVIRONMENT)
    info = coop_info or {}
    names = {"REDIS_URL": "redis_url", "GIT_URL": "git_url", "AGENT_ID": "agent_id"}
    variables |= {variable: str(info[name]) for variable, name in names.items() if info.get(name)}
    if info.get("agents"):
        variables["AGENTS"] = ",".join(info["agents"])
    variables |= {name: str(value) for name, value in (info.get("team_env") or {}).items() if value}
    return variables


class Sandbox:
    """Container with an agent server, which replaces upstream's sandbox in Modal.

    It takes the same arguments: the image, a time limit (ignored, because the run has one) and the
    agents' shared services. Entering it returns the server's URL.
    """

    def __init__(self, image_name: str, timeout: int, coop_info: dict[str, Any] | None = None):
        self._image = image_name
        self._coop_info = coop_info
        self._client = docker.from_env()
        self._container: Container | None = None
        self._is_removed = threading.Event()
        self._base = ""
        thread_values.sandbox = self

    def __enter__(self) -> str:
        network = os.environ[NETWORK]
        # Labels and limits are added by instrumentation/upstream_patches.py.
        self._container = self._client.containers.run(
            self._image,
            detach=True,
            init=True,
            # Not in the repository, whose modules would shadow the server's.
            working_dir="/",
            network=network,
            environment=container_environment(self._coop_info),
        )
        threading.Thread(
            target=self._keep_log, args=(thread_values.agent,), daemon=True, name="log"
        ).start()
        try:
            self._container.reload()
            settings = self._container.attrs["NetworkSettings"]["Networks"]
            url = f"http://{settings[network]['IPAddress']}:{PORT}"
            self._wait(url)
            self._base = self._git("rev-parse", "HEAD").strip()
            if not self._base:
                raise RuntimeError(f"{self._image} has no repository at {REPOSITORY}")
        except BaseException:
            self._remove()
            raise
        threading.Thread(target=self._watch, args=(url,), daemon=True, name="health").start()
        return url

    def __exit__(self, *_: object) -> None:
        self._remove()

    def patch(self) -> str:
        """Return all changes since the container started, read by upstream's two commands.

        As in upstream, the patch is empty if git refuses, because the agent has broken its
        repository.

        Raises:
            RuntimeError: git could not be started, or was killed.
            DockerException: the engine or the container failed.
        """
        self._git("add", "-A")
        return self._git("diff", self._base)

    def _git(self, *arguments: str) -> str:
        """Return git's output; empty if it refuses."""
        assert self._container is not None
        command = ["git", *arguments]
        result = self._container.exec_run(command, workdir=REPOSITORY, demux=True)
        out, err = cast("tuple[bytes | None, bytes | None]", result.output)
        if (
            result.exit_code is None
            or result.exit_code in _NOT_GITS
            or result.exit_code > GIT_REFUSES
        ):
            log_text = (err or b"").decode(errors="replace").strip()
            raise RuntimeError(f"{' '.join(command)} ended with {result.exit_code}: {log_text}")
        # upstream_patches.keep_patches_exact writes the same bytes again.
        return "" if result.exit_code else (out or b"").decode("utf-8", "surrogateescape")

    def _wait(self, url: str) -> None:
        assert self._container is not None
        limit = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < limit:
            if is_healthy(url):
                return
            self._container.reload()
            if self._container.status != "running":
                break
            time.sleep(0.3)
        log_text = self._container.logs(tail=20).decode(errors="replace")
        raise TimeoutError(f"the agent server was not healthy in {HEALTHY_SECONDS} s: {log_text}")

    def _keep_log(self, agent: str) -> None:
        """Write the server's log continuously, so that an interrupted run has it too."""
        assert self._container is not None
        # A separate client: two threads must not share a connection.
        client = docker.from_env()
        try:
            server = client.containers.get(str(self._container.id))
            with (Path(os.environ[LOGS]) / f"agent-server-{agent}.log").open("ab") as file:
                for log_text in server.logs(stream=True, follow=True):
                    if file.tell() > LOG_BYTES:
                        break
                    file.write(log_text)
                    file.flush()
        except (docker.errors.DockerException, OSError) as error:
            print(f"the agent server's log: {error}", flush=True)
        finally:
            client.close()

    def _watch(self, url: str) -> None:
        """Kill the container if its server hangs; the run then ends as with any dead container."""
        assert self._container is not None
        last_answer = time.monotonic()
        while not self._is_removed.wait(EVERY):
            if is_healthy(url):
                last_answer = time.monotonic()
            elif time.monotonic() - last_answer > SILENCE_SECONDS and not self._is_removed.is_set():
                print(
                    f"{url}: no answer for {SILENCE_SECONDS:g} s: the agent server hangs",
                    flush=True,
                )
                try:
                    self._container.kill()
                except docker.errors.APIError as error:
                    print(error, flush=True)
                return

    def _remove(self) -> None:
        self._is_removed.set()
        if self._container is not None:
            try:
                self._container.remove(force=True, v=True)
            except docker.errors.APIError as error:
                print(f"{self._image}: {error}", flush=True)  # the supervisor removes it
        self._client.close()


def read_patch(_workspace: object, _base_commit: str | None) -> str:
    """Replacement for upstream's function: return the patch of this thread's agent."""
    return str(thread_values.sandbox.patch())


def is_healthy(url: str) -> bool:
    """Return whether an agent server reports that it is healthy."""
    import httpx  # here, because sessions do not need it

    try:
        return httpx.get(f"{url}/health", timeout=EVERY, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
