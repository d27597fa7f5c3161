"""Names and readers of the files that cooperbench writes for a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cooperflow.upstream.trajectory import Tokens

RESULT = "result.json"
EVAL = "eval.json"
# Upstream's tables of all runs of one invocation.
TABLES = ("config.json", "summary.json")

# Statuses of a merge that was tried.
CLEAN = "clean"
CONFLICTS = "conflicts"
IDENTICAL = "identical"
MERGED = (CLEAN, CONFLICTS, IDENTICAL)

# Statuses of an agent.
ERROR = "Error"
LIMITS_EXCEEDED = "LimitsExceeded"  # of steps or of cost
COST_EXCEEDED = "CostLimitExceeded"

# Anthropic's usage: input_tokens without what was read from or written to the cache.
INPUT_WITHOUT_CACHE = frozenset({"claude_code"})


@dataclass(frozen=True)
class AgentEnd:
    """How one agent ended."""

    agent: str
    status: str
    error: str = ""
    steps: int = 0
    cost: float = 0.0


def patch_name(feature: int) -> str:
    """Return upstream's name of the patch of the agent with this feature, in a coop run."""
    return f"agent{feature}.patch"


def workflow(document: Any) -> Mapping[str, Any]:
    """Return the object `workflow`, which this project adds; empty where there is none."""
    part = document.get("workflow") if isinstance(document, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def agent_entries(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return result.json's entry of each agent by name."""
    return document.get("agents") or {"solo": document.get("agent") or {}}


def agent_ends(document: Mapping[str, Any] | None) -> tuple[AgentEnd, ...]:
    """Return how each agent ended, by result.json."""
    if document is None:
        return ()
    return tuple(
        AgentEnd(
            agent=name,
            status=str(entry.get("status") or ERROR),
            error=str(entry.get("error") or ""),
            steps=int(entry.get("steps") or 0),
            cost=float(entry.get("cost") or 0.0),
        )
        for name, entry in agent_entries(document).items()
    )


def tokens(document: Mapping[str, Any]) -> Tokens:
    """Return the tokens of all agents; cached tokens are part of the input."""
    total = {"input": 0, "output": 0, "read": 0, "written": 0}
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    for entry in agent_entries(document).values():
        for key, name in zip(total, names, strict=True):
            total[key] += int(entry.get(name) or 0)
    is_separate = document.get("agent_framework") in INPUT_WITHOUT_CACHE
    if is_separate or total["read"] > total["input"]:
        total["input"] += total["read"] + total["written"]
    return Tokens(total["input"], total["output"], total["read"])


@dataclass(frozen=True)
class Evaluation:
    """The facts of an eval.json; pairs are by feature."""

    error: str = ""
    merge_status: str = ""
    merge_strategy: str = ""
    applied: tuple[str, ...] = ()  # status of each agent's patch
    both_passed: bool = False
    passed: tuple[bool, bool] = (False, False)
    outputs: tuple[str, str] = ("", "")  # of the tests

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Evaluation:
        merge = document.get("merge") or {}
        return cls(
            error=str(document.get("error") or ""),
            merge_status=str(merge.get("status") or ""),
            merge_strategy=str(merge.get("strategy") or ""),
            applied=tuple(map(str, (document.get("apply_status") or {}).values())),
            both_passed=document.get("both_passed") is True,
            passed=(has_passed(document, 1), has_passed(document, 2)),
            outputs=(output_of(document, 1), output_of(document, 2)),
        )

    @property
    def lead_alone(self) -> bool:
        """True if the first agent's patch alone was tested, after a conflict."""
        return self.merge_strategy.startswith("solo-")


def has_passed(document: Mapping[str, Any], number: int) -> bool:
    """Return whether the tests of a feature (1 or 2) passed, by eval.json."""
    return bool((document.get(f"feature{number}") or {}).get("passed"))


def output_of(document: Mapping[str, Any], number: int) -> str:
    """Return the test output of a feature (1 or 2).

    Upstream uses another key where the patches of both agents are identical.
    """
    feature = document.get(f"feature{number}") or {}
    return str(feature.get("test_output") or feature.get("output") or "")
