"""Files of OpenHands' agent server and SDK, as `make openhands` installs them."""

from __future__ import annotations

import sys

from cooperflow import layout
from cooperflow.errors import UserError

PLACE = layout.REPOSITORY / ".tools" / "openhands"
# The SDK and the tools, for the side of this machine.
HOST = PLACE / "host"
# In containers; upstream's own images have it there too.
PREFIX = "/opt/agent-server-venv"
PYTHON = f"{PREFIX}/bin/python"
PORT = 8000
SERVER = (PYTHON, "-m", "openhands.agent_server", "--host", "0.0.0.0", "--port", str(PORT))
# What a server is to leave alone as it starts: fetching litellm's prices, from where nothing is
# reached, and starting an editor and a browser, which no agent here is given.
ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OH_ENABLE_VSCODE": "0",
    "OH_PRELOAD_TOOLS": "0",
}


def stamp() -> str:
    """Return the short hash of all that the parts were made from.

    Raises:
        UserError: they are missing.
    """
    try:
        return (PLACE / "stamp").read_text().strip()
    except OSError:
        raise UserError(
            "OpenHands' agent server and SDK are not here. Run `make openhands`, which makes them "
            "from Debian's and Python's packages."
        ) from None


def image() -> str:
    """Return the name of the image that holds the parts for containers.

    Raises:
        UserError: the parts are missing.
    """
    return f"cooperflow/openhands:{stamp()}"


def importable() -> None:
    """Make the SDK and the tools importable in this process."""
    if str(HOST) not in sys.path:
        sys.path.append(str(HOST))
