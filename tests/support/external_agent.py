"""An external module with an agent that is not part of cooperbench."""

from typing import Any

from cooperbench.agents.mini_swe_agent_v2.adapter import MiniSweAgentV2Runner
from cooperbench.agents.registry import register


@register("tested_agent")
class TestedAgent(MiniSweAgentV2Runner):
    """The shipped agent under another name."""

    def run(self, task: str, image: str, **options: Any) -> Any:
        result = super().run(task, image, **options)
        print("tested_agent ran", flush=True)
        return result
