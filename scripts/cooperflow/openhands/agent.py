"""The agent `openhands_docker`: upstream's OpenHands with containers of this machine for Modal's.

cooperbench imports this as an external agent. All of upstream's runner stays (prompts, tools,
collaboration, the patch); what it takes from Modal is replaced where it looks for it.
"""

from __future__ import annotations

from typing import Any

from cooperflow.experiment.keys import OPENHANDS
from cooperflow.openhands import git_server, parts, sandbox

parts.importable()

import cooperbench.runner.coop  # noqa: E402
from cooperbench.agents.openhands_agent_sdk import adapter  # noqa: E402
from cooperbench.agents.registry import register  # noqa: E402


def _no_redis(run_id: str, agents: list[str], timeout: int = 3600) -> str:
    raise RuntimeError("the workflow gives a Redis that containers reach; there is none")


def replace_modal() -> None:
    """Put our own in the place of what upstream's adapter has in Modal."""
    adapter.ModalSandboxContext = sandbox.Sandbox
    adapter._get_or_create_redis = _no_redis
    adapter._get_or_create_git_server = git_server.get
    adapter._release_git_server = git_server.release
    # The runner makes a server of its own for any agent of another name than openhands_sdk.
    cooperbench.runner.coop.create_git_server = git_server.unused


replace_modal()


@register(OPENHANDS)
class OpenHandsDocker(adapter.OpenHandsSDKRunner):
    """Upstream's runner; `agent.config.agent` sets its three limits by upstream's names."""

    def run(self, task: str, image: str, **options: Any) -> Any:
        given = ((options.get("config") or {}).get("config") or {}).get("agent") or {}
        for name in ("max_iterations", "timeout", "cost_limit"):
            setattr(self, name, given.get(name, getattr(self, name)))
        git_server.image = self._get_oh_image(image)
        return super().run(task, image, **options)
