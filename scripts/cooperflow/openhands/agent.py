"""The agent `openhands_docker`: upstream's OpenHands with containers of this machine for Modal's.

cooperbench imports this as an external agent. All of upstream's runner stays (prompts, tools,
collaboration); only its functions for Modal are replaced. Reading the patch raises an error if
it fails: upstream would return an empty patch from a slow server.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from cooperflow.experiment.config_schema import LONGEST_RUN, OPENHANDS
from cooperflow.openhands import agent_server, git_server, sandbox
from cooperflow.openhands.agent_server import HEALTHY_SECONDS

agent_server.importable()

import cooperbench.runner.coop  # noqa: E402
from cooperbench.agents import _azure  # noqa: E402
from cooperbench.agents.openhands_agent_sdk import adapter  # noqa: E402
from cooperbench.agents.registry import register  # noqa: E402

_end_point = _azure.resolve_azure_config


def _named() -> dict[str, str] | None:
    """Return the gateway's address and the run's token, with the name of this thread's agent."""
    known = _end_point()
    return known and {**known, "api_key": f"{known['api_key']}/{sandbox.this.agent}"}


def _no_redis(run_id: str, agents: list[str], timeout: int = 3600) -> str:
    raise RuntimeError("no Redis that containers reach; the workflow should have started it")


def replace_modal() -> None:
    """Replace the Modal functions of upstream's adapter."""
    adapter.ModalSandboxContext = sandbox.Sandbox
    _azure.resolve_azure_config = _named
    adapter._extract_patch = sandbox.patch
    adapter._get_or_create_redis = _no_redis
    adapter._get_or_create_git_server = git_server.get
    adapter._release_git_server = git_server.release
    # The runner makes another server for any agent that is not named openhands_sdk.
    cooperbench.runner.coop.create_git_server = git_server.unused


replace_modal()


@functools.cache
def wait_until_it_runs() -> None:
    """Make the SDK wait until its server has started the agent.

    The SDK asks for the state at once and takes `idle` for finished: on a busy machine an agent
    would end without a call of its model.
    """
    from openhands.sdk.conversation.impl.remote_conversation import RemoteConversation

    ended = RemoteConversation._handle_conversation_status

    def has_ended(self: Any, status: str | None) -> bool:
        if status != "idle":
            return bool(ended(self, status))
        self.idle_since = getattr(self, "idle_since", time.monotonic())
        if time.monotonic() - self.idle_since > HEALTHY_SECONDS:
            raise TimeoutError(f"the agent did not start within {HEALTHY_SECONDS} s")
        return False

    RemoteConversation._handle_conversation_status = has_ended


@register(OPENHANDS)
class OpenHandsDocker(adapter.OpenHandsSDKRunner):
    """Upstream's runner; `agent.config.agent` sets its two limits by upstream's names."""

    def run(self, task: str, image: str, **options: Any) -> Any:
        given = ((options.get("config") or {}).get("config") or {}).get("agent") or {}
        self.timeout = LONGEST_RUN  # the run's own time limit comes first
        for name in ("max_iterations", "cost_limit"):
            setattr(self, name, given.get(name, getattr(self, name)))
        git_server.image = self._get_oh_image(image)
        sandbox.this.agent = options.get("agent_id", "agent")
        wait_until_it_runs()
        return super().run(task, image, **options)
