"""OpenHands in local containers: its agent, agent server, images and sandboxes."""

from pathlib import Path

MODULE = "cooperflow.openhands.agent"
NETWORK = "COOPERFLOW_NETWORK"
LOGS = "COOPERFLOW_LOGS"


def agent_environment(network: str, gateway: str, token: str, logs: Path) -> dict[str, str]:
    """Return the variables that the agent's module and upstream's adapter read.

    Two of upstream's variables, intended for Azure, make its adapters call an OpenAI-compatible end
    point instead of a provider. The gateway is such an end point.
    """
    return {
        "COOPERBENCH_EXTERNAL_AGENTS": MODULE,
        NETWORK: network,
        LOGS: str(logs.absolute()),
        "AZURE_OPENAI_ENDPOINT": gateway,
        "AZURE_OPENAI_API_KEY": token,
        "OPENHANDS_SUPPRESS_BANNER": "1",
    }
