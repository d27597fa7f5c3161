"""OpenHands' agent server: its installed files and its image, layered onto a task's image."""

from __future__ import annotations

import io
import json
import sys
import time

import docker
import docker.errors

from cooperflow import layout
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import UserError
from cooperflow.upstream import published

PLACE = layout.REPOSITORY / ".tools" / "openhands"
# The SDK and the tools for processes of this machine.
HOST = PLACE / "host"
# Path in containers, as in upstream's images.
PREFIX = "/opt/agent-server-venv"
PYTHON = f"{PREFIX}/bin/python"
PORT = 8000
SERVER = (PYTHON, "-m", "openhands.agent_server", "--host", "0.0.0.0", "--port", str(PORT))
# Variables that keep a starting server from fetching litellm's prices, which it cannot reach, and
# from starting an editor and a browser, which no agent here uses.
ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OH_ENABLE_VSCODE": "0",
    "OH_PRELOAD_TOOLS": "0",
}

LAYERED = "layered"
LABEL = "cooperflow.openhands"
BASE_LABEL = "cooperflow.openhands.base"

# Time limit for a server to become healthy, seconds: it takes 5 on an idle machine, far more
# when several start at once on a busy machine.
HEALTHY_SECONDS = 240

# Queries the server from inside, so that no network is needed.
_ASK = (
    "import sys, urllib.request as r\n"
    f"at = 'http://127.0.0.1:{PORT}/'\n"
    "r.urlopen(at + 'health', timeout=5).read()\n"
    "sys.stdout.write(r.urlopen(at + 'server_info', timeout=5).read().decode())"
)


def stamp() -> str:
    """Return the short hash of the parts' sources.

    Raises:
        UserError: they are missing.
    """
    try:
        return (PLACE / "stamp").read_text().strip()
    except OSError:
        raise UserError(
            "OpenHands' agent server and SDK are not installed. Run `make openhands`, which makes "
            "them from Debian's and Python's packages."
        ) from None


def server_image() -> str:
    """Return the name of the image that holds the parts for containers.

    Raises:
        UserError: the parts are missing.
    """
    return f"cooperflow/openhands:{stamp()}"


def importable() -> None:
    """Make the SDK and the tools importable in this process."""
    if str(HOST) not in sys.path:
        sys.path.append(str(HOST))


def layer(client: docker.DockerClient, image: str) -> None:
    """Add the parts to the task's image, which is local and verified.

    Raises:
        UserError: the parts or their image are missing.
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
            f"LABEL {LABEL}={stamp()} {BASE_LABEL}={base}",
            f"EXPOSE {PORT}",
            f"ENTRYPOINT {json.dumps(list(SERVER))}",
            "CMD []",
        )
    )
    client.images.build(fileobj=io.BytesIO(recipe.encode()), tag=image, rm=True, forcerm=True)


def is_stale(client: docker.DockerClient, image: str) -> bool:
    """Return whether an image was layered onto a base that has changed since.

    An image layered with other parts is stale too.
    """
    try:
        labels = client.images.get(image).labels
    except docker.errors.ImageNotFound:
        return False
    if BASE_LABEL not in labels:
        return False
    task = published.task_image(image)
    # Images of older versions have the base's id.
    base = (containers.image_content(client, task), containers.image_id(client, task))
    return labels[BASE_LABEL] not in base or labels.get(LABEL) != stamp()


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
            code, output = container.exec_run([PYTHON, "-c", _ASK])
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
