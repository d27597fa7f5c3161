"""The git server of agents that share code (`--git`): a container of the run's image."""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import docker

from cooperflow.openhands import NETWORK

PORT = 9418
SECONDS = 30

# Set by the agent's runner before it asks for a server: the image of the agent's container.
image = ""

_SCRIPT = (
    "mkdir -p /git && git init -q --bare /git/repo.git"
    " && exec git daemon --reuseaddr --export-all --enable=receive-pack --base-path=/git /git"
)
_lock = threading.Lock()
_servers: dict[str, list[Any]] = {}  # by run: the container, its URL, and how many use it


@dataclass(frozen=True)
class _Unused:
    url: None = None
    network_name: None = None

    def cleanup(self) -> None:
        pass


def unused(**_: Any) -> _Unused:
    """Return a placeholder for the git server of upstream's runner; the adapter starts another."""
    return _Unused()


def get(run_id: str, agents: list[str], timeout: int = 3600) -> str:
    """Return the URL of a run's git server, which the first request starts.

    Raises:
        RuntimeError: it does not serve; the image may lack `git daemon`.
    """
    with _lock:
        if run_id not in _servers:
            _servers[run_id] = [*_start(), 0]
        _servers[run_id][2] += 1
        return str(_servers[run_id][1])


def release(run_id: str) -> None:
    """Release a run's git server; the last release ends it."""
    with _lock:
        if run_id in _servers:
            _servers[run_id][2] -= 1
            if _servers[run_id][2] <= 0:
                _servers.pop(run_id)[0].remove(force=True, v=True)


def _start() -> tuple[Any, str]:
    network, name = os.environ[NETWORK], f"git-{uuid.uuid4().hex[:8]}"
    container = docker.from_env().containers.run(
        image, ["-c", _SCRIPT], entrypoint="sh", detach=True, init=True, network=network, name=name
    )
    url = f"git://{name}:{PORT}/repo.git"
    limit = time.monotonic() + SECONDS
    while time.monotonic() < limit:
        asked = container.exec_run(["git", "ls-remote", f"git://127.0.0.1:{PORT}/repo.git"])
        if asked.exit_code == 0:
            return container, url
        container.reload()
        if container.status != "running":
            break
        time.sleep(0.3)
    log_text = container.logs(tail=5).decode(errors="replace").strip()
    container.remove(force=True, v=True)
    raise RuntimeError(f"the git server does not serve: {log_text}")
