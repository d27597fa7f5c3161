"""Container with OpenHands' agent server: starting, health checks and removal.

It replaces upstream's sandbox in Modal and takes the same arguments: the image, a time limit
(ignored: the run has one) and the agents' shared services; entering it returns the URL.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
import httpx
from docker.models.containers import Container

from cooperflow.openhands import LOGS, NETWORK, agent_server
from cooperflow.openhands.agent_server import HEALTHY_SECONDS

# Interval of the health checks while an agent runs, seconds.
EVERY = 5.0
# Time without an answer after which a server counts as hung, seconds.
PATIENCE = 60.0
# Size limit of a server's log, bytes.
LOG_BYTES = 20_000_000
# Path of the repository in a task's image.
REPOSITORY = "/workspace/repo"
# The highest exit code of git itself (128: fatal, 129: usage); above it a signal ended it.
GIT_REFUSES = 129
# Exit codes of a command that could not be started.
_NOT_GITS = (126, 127)

# Values of each agent's thread: its name (`agent`) and its `sandbox`.
this = threading.local()


def environment(coop_info: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the variables of an agent's container: upstream's, without any key. Pure.

    The model's address and the run's token reach the server with the agent itself.
    """
    variables = dict(agent_server.ENVIRONMENT)
    info = coop_info or {}
    names = {"REDIS_URL": "redis_url", "GIT_URL": "git_url", "AGENT_ID": "agent_id"}
    variables |= {variable: str(info[name]) for variable, name in names.items() if info.get(name)}
    if info.get("agents"):
        variables["AGENTS"] = ",".join(info["agents"])
    variables |= {name: str(value) for name, value in (info.get("team_env") or {}).items() if value}
    return variables


class Sandbox:
    """A context manager whose value is the agent server's URL."""

    def __init__(self, image_name: str, timeout: int, coop_info: dict[str, Any] | None = None):
        self._image = image_name
        self._coop_info = coop_info
        self._client = docker.from_env()
        self._container: Container | None = None
        self._left = threading.Event()
        self._base = ""
        this.sandbox = self

    def __enter__(self) -> str:
        network = os.environ[NETWORK]
        # Labels and limits are added by instrumentation/sdk_patches.py.
        self._container = self._client.containers.run(
            self._image,
            detach=True,
            init=True,
            # Not in the repository: its modules would shadow the server's.
            working_dir="/",
            network=network,
            environment=environment(self._coop_info),
        )
        threading.Thread(target=self._keep_log, args=(this.agent,), daemon=True, name="log").start()
        try:
            self._container.reload()
            settings = self._container.attrs["NetworkSettings"]["Networks"]
            url = f"http://{settings[network]['IPAddress']}:{agent_server.PORT}"
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
        """Return all changes since the container started, by upstream's two commands.

        Empty also if git refuses, as in upstream: then the agent has broken its repository.

        Raises:
            RuntimeError: git could not be started, or was killed.
            DockerException: the engine or the container did not serve.
        """
        self._git("add", "-A")
        return self._git("diff", self._base)

    def _git(self, *arguments: str) -> str:
        """Return git's output; empty if it refuses."""
        assert self._container is not None
        command = ["git", *arguments]
        done = self._container.exec_run(command, workdir=REPOSITORY, demux=True)
        out, err = cast("tuple[bytes | None, bytes | None]", done.output)
        if done.exit_code is None or done.exit_code in _NOT_GITS or done.exit_code > GIT_REFUSES:
            log_text = (err or b"").decode(errors="replace").strip()
            raise RuntimeError(f"{' '.join(command)} ended with {done.exit_code}: {log_text}")
        # sdk_patches.keep_patches_exact writes the same bytes again.
        return "" if done.exit_code else (out or b"").decode("utf-8", "surrogateescape")

    def _wait(self, url: str) -> None:
        assert self._container is not None
        limit = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < limit:
            if healthy(url):
                return
            self._container.reload()
            if self._container.status != "running":
                break
            time.sleep(0.3)
        log_text = self._container.logs(tail=20).decode(errors="replace")
        raise TimeoutError(f"the agent server was not healthy in {HEALTHY_SECONDS} s: {log_text}")

    def _keep_log(self, agent: str) -> None:
        """Write the server's log as it appears, so that an interrupted run has it too."""
        assert self._container is not None
        # A separate client: two threads must not share a connection.
        client = docker.from_env()
        try:
            server = client.containers.get(str(self._container.id))
            with (Path(os.environ[LOGS]) / f"agent-server-{agent}.log").open("ab") as kept:
                for log_text in server.logs(stream=True, follow=True):
                    if kept.tell() > LOG_BYTES:
                        break
                    kept.write(log_text)
                    kept.flush()
        except (docker.errors.DockerException, OSError) as error:
            print(f"the agent server's log: {error}", flush=True)
        finally:
            client.close()

    def _watch(self, url: str) -> None:
        """Kill the container of a hung server: the run ends like one with a dead container."""
        assert self._container is not None
        heard = time.monotonic()
        while not self._left.wait(EVERY):
            if healthy(url):
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE and not self._left.is_set():
                print(f"{url}: no answer for {PATIENCE:g} s: the agent server hangs", flush=True)
                try:
                    self._container.kill()
                except docker.errors.APIError as error:
                    print(error, flush=True)
                return

    def _remove(self) -> None:
        self._left.set()
        if self._container is not None:
            try:
                self._container.remove(force=True, v=True)
            except docker.errors.APIError as error:
                print(f"{self._image}: {error}", flush=True)  # the supervisor removes it
        self._client.close()


def patch(_workspace: object, _base_commit: str | None) -> str:
    """Replacement of upstream's function: return the patch of this thread's agent."""
    return str(this.sandbox.patch())


def healthy(url: str) -> bool:
    """Return whether an agent server reports that it is healthy."""
    try:
        return httpx.get(f"{url}/health", timeout=EVERY, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
