"""Check that Snakemake is the one of this workflow's environment. Standard library only."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

# The oldest Snakemake that the workflow runs with, and the packages that its rules import.
SNAKEMAKE = (9, 27)
PACKAGES = ("cooperbench", "docker", "litellm", "pandas", "pydantic", "rich", "yaml")


def problem(
    version: str, checkout: Path, packages: Sequence[str] = PACKAGES, executable: str | None = None
) -> str:
    """Return why this Snakemake cannot run the workflow and which command to use; else nothing.

    Args:
        version: Snakemake's own version.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= SNAKEMAKE and not missing:
        return ""
    wrong = []
    if numbers < SNAKEMAKE:
        wrong.append(f"it is version {version}, and {SNAKEMAKE[0]}.{SNAKEMAKE[1]} is needed")
    if missing:
        wrong.append(f"its environment has no {', '.join(missing)}")
    command = checkout / ".venv" / "bin" / "snakemake"
    hint = f"Use {command}" if command.exists() else f"Run `make setup`, then use {command}"
    return (
        f"Wrong Snakemake: {executable or sys.executable}: {'; '.join(wrong)}.\n"
        f"{hint} instead of `snakemake`."
    )
