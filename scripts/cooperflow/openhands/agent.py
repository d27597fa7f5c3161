"""The agent `openhands_docker`: upstream's OpenHands, with containers instead of Modal sandboxes.

cooperbench imports this module as an external agent. Upstream's runner is unchanged (prompts,
tools, collaboration); only its functions for Modal are replaced. A failure to read the patch raises
an error, where upstream would return an empty patch from a slow server.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import docker

from cooperflow.experiment.config_schema import LONGEST_RUN, OPENHANDS
from cooperflow.openhands import NETWORK, agent_server
from cooperflow.openhands.agent_server import HEALTHY_SECONDS

agent_server.make_importable()

import cooperbench.runner.coop  # noqa: E402
from cooperbench.agents import _azure  # noqa: E402
from cooperbench.agents.openhands_agent_sdk import adapter  # noqa: E402
from cooperbench.agents.registry import register  # noqa: E402

GIT_PORT = 9418
GIT_SECONDS = 30

_SCRIPT = (
    "mkdir -p /git && git init -q --bare /git/repo.git"
    " && exec git daemon --reuseaddr --export-all --enable=receive-pack --base-path=/git /git"
)
_lock = threading.Lock()
_servers: dict[str, list[Any]] = {}  # by run: the container, its URL, and its number of users

_end_point = _azure.resolve_azure_config


def _named_end_point() -> dict[str, str] | None:
    """Return the gateway's address and the run's token, with the name of this thread's agent."""
    config = _end_point()
    agent = agent_server.thread_values.agent
    return config and {**config, "api_key": f"{config['api_key']}/{agent}"}


def _no_redis(run_id: str, agents: list[str], timeout: int = 3600) -> str:
    raise RuntimeError("no Redis that containers can reach; the workflow should have started it")


@dataclass(frozen=True)
class _Unused:
    url: None = None
    network_name: None = None

    def cleanup(self) -> None:
        pass


def unused_git_server(**_: Any) -> _Unused:
    """Return a placeholder for the git server of upstream's runner; the adapter starts another."""
    return _Unused()


def start_git_server(run_id: str, agents: list[str], timeout: int = 3600) -> str:
    """Return the URL of a run's git server, which the first call starts.

    Raises:
        RuntimeError: it does not work; the image may lack `git daemon`.
    """
    with _lock:
        if run_id not in _servers:
            _servers[run_id] = [*_start(), 0]
        _servers[run_id][2] += 1
        return str(_servers[run_id][1])


def release_git_server(run_id: str) -> None:
    """Release a run's git server; the last release ends it."""
    with _lock:
        if run_id in _servers:
            _servers[run_id][2] -= 1
            if _servers[run_id][2] <= 0:
                _servers.pop(run_id)[0].remove(force=True, v=True)


def _start() -> tuple[Any, str]:
    network, name = os.environ[NETWORK], f"git-{uuid.uuid4().hex[:8]}"
    container = docker.from_env().containers.run(
        agent_server.thread_values.image,
        ["-c", _SCRIPT],
        entrypoint="sh",
        detach=True,
        init=True,
        network=network,
        name=name,
    )
    url = f"git://{name}:{GIT_PORT}/repo.git"
    limit = time.monotonic() + GIT_SECONDS
    while time.monotonic() < limit:
        answer = container.exec_run(["git", "ls-remote", f"git://127.0.0.1:{GIT_PORT}/repo.git"])
        if answer.exit_code == 0:
            return container, url
        container.reload()
        if container.status != "running":
            break
        time.sleep(0.3)
    log_text = container.logs(tail=5).decode(errors="replace").strip()
    container.remove(force=True, v=True)
    raise RuntimeError(f"the git server does not answer: {log_text}")


def replace_modal() -> None:
    """Replace the Modal functions of upstream's adapter."""
    adapter.ModalSandboxContext = agent_server.Sandbox
    _azure.resolve_azure_config = _named_end_point
    adapter._extract_patch = agent_server.read_patch
    adapter._get_or_create_redis = _no_redis
    adapter._get_or_create_git_server = start_git_server
    adapter._release_git_server = release_git_server
    # The runner would start another server for an agent that is not named openhands_sdk.
    cooperbench.runner.coop.create_git_server = unused_git_server


replace_modal()


@functools.cache
def wait_until_it_runs() -> None:
    """Make the SDK wait until the server has started the agent.

    The SDK queries the state immediately and treats `idle` as finished, so that on a busy machine
    an agent would end without a model call.
    """
    from openhands.sdk.conversation.impl.remote_conversation import RemoteConversation

    original = RemoteConversation._handle_conversation_status

    def has_ended(self: Any, status: str | None) -> bool:
        if status != "idle":
            return bool(original(self, status))
        self.idle_since = getattr(self, "idle_since", time.monotonic())
        if time.monotonic() - self.idle_since > HEALTHY_SECONDS:
            raise TimeoutError(f"the agent did not start within {HEALTHY_SECONDS} s")
        return False

    RemoteConversation._handle_conversation_status = has_ended


@register(OPENHANDS)
class OpenHandsDocker(adapter.OpenHandsSDKRunner):
    """Upstream's runner; `agent.config.agent` sets its two limits under upstream's names."""

    def run(self, task: str, image: str, **options: Any) -> Any:
        settings = ((options.get("config") or {}).get("config") or {}).get("agent") or {}
        self.timeout = LONGEST_RUN  # the run's time limit applies first
        for name in ("max_iterations", "cost_limit"):
            setattr(self, name, settings.get(name, getattr(self, name)))
        agent_server.thread_values.image = self._get_oh_image(image)
        agent_server.thread_values.agent = options.get("agent_id", "agent")
        wait_until_it_runs()
        return super().run(task, image, **options)
