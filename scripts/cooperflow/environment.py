"""Environment of a session: its interpreter, its packages and the variables its jobs inherit.

Standard library only: it must work in any environment, and every job imports it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

# The validated config, as JSON.
CONFIG = "COOPERFLOW_CONFIG"
# The session process; it names the session on all machines.
OWNER = "COOPERFLOW_OWNER"
# On a cluster's node: the Snakemake process there that runs this job of the session.
NODE = "COOPERFLOW_NODE"
# `off` makes every job a plain process; set from the config's `launcher`.
LAUNCHER = "COOPERFLOW_LAUNCHER"
# The retries of a job after its first attempt.
RETRIES = "COOPERFLOW_RETRIES"


def make_portable(environment: MutableMapping[str, str]) -> None:
    """Give every process of a session the same text encoding and warnings on all machines.

    Upstream opens its files with the locale's encoding, and `PYTHONWARNINGS=error` would end a
    run for a deprecation in a library.
    """
    environment["PYTHONUTF8"] = "1"
    environment.pop("PYTHONWARNINGS", None)


# The oldest Snakemake that the workflow supports, and the packages that its rules import.
SNAKEMAKE = (9, 27)
PACKAGES = ("cooperbench", "docker", "litellm", "pandas", "pydantic", "rich", "yaml")


def interpreter_problem(
    version: str, checkout: Path, packages: Sequence[str] = PACKAGES, executable: str | None = None
) -> str:
    """Return why this Snakemake cannot run the workflow and which command to use; empty if it can.

    Args:
        version: of Snakemake.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= SNAKEMAKE and not missing:
        return ""
    problems = []
    if numbers < SNAKEMAKE:
        problems.append(f"it is version {version}, and {SNAKEMAKE[0]}.{SNAKEMAKE[1]} is needed")
    if missing:
        problems.append(f"its environment has no {', '.join(missing)}")
    command = checkout / ".venv" / "bin" / "snakemake"
    hint = f"Use {command}" if command.exists() else f"Run `make setup`, then use {command}"
    return (
        f"Wrong Snakemake: {executable or sys.executable}: {'; '.join(problems)}.\n"
        f"{hint} instead of `snakemake`."
    )
