"""Losses: the stage at which a coop run fails (own feature, merge or integration).

The functions are pure. docs/results.md defines the terms in "Where a run is lost".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cooperflow.outcomes import judgement, patch_text
from cooperflow.upstream import result_files

SCHEMA = 1

# Losses.
AGENT = "agent"  # an own feature fails alone
MERGE = "merge"  # both own features pass alone, and the patches conflict
INTEGRATION = "integration"  # both pass alone and merge cleanly, but tests fail
UNKNOWN = "unknown"
LOSSES = (AGENT, MERGE, INTEGRATION, UNKNOWN)

# Reason of an own feature that fails, in addition to those of judgement.py.
NO_PATCH = "no_patch"

AGENTS = ("agent1", "agent2")


@dataclass(frozen=True)
class OwnFeature:
    """Verdict on an agent's patch alone, by the tests of the agent's own feature."""

    feature: int  # the data set's number
    passed: bool | None  # None: unknown
    reason: str = ""  # of a feature that did not pass
    tests_passed: int = 0
    seconds: float = 0.0
    patch_sha256: str = ""  # empty without a patch

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> OwnFeature:
        """Return the verdict on one agent in own.json."""
        passed = document.get("passed")
        return cls(
            feature=int(document.get("feature") or 0),
            passed=passed if isinstance(passed, bool) else None,
            reason=str(document.get("reason") or ""),
            tests_passed=int(document.get("tests_passed") or 0),
            seconds=float(document.get("seconds") or 0.0),
            patch_sha256=str(document.get("patch_sha256") or ""),
        )

    @property
    def broke(self) -> bool:
        """True if its evaluation broke and is repeated."""
        return self.reason == judgement.EVAL_ERROR


def judge_untested(feature: int, patch: bytes | None, reason: str) -> OwnFeature | None:
    """Return the verdict if no test is needed, None if the patch must be tested.

    Args:
        patch: content of the agent's patch, None without one.
        reason: reason of the run's infrastructure error, empty without one.
    """
    if reason:
        return OwnFeature(feature, None, reason)
    if patch is None:
        return OwnFeature(feature, False, NO_PATCH)
    if patch_text.is_empty(patch):
        return OwnFeature(feature, False, judgement.EMPTY_PATCH, patch_sha256=_hash(patch))
    return None


def judge_tested(
    feature: int, number: int, patch: bytes, document: Mapping[str, Any] | None, seconds: float
) -> OwnFeature:
    """Return the verdict by an evaluation of one agent's patch as a solo run.

    Args:
        number: number of the agent and its feature in upstream's document, 1 or 2.
        document: upstream's eval.json, None if the evaluation broke.
        seconds: duration of the evaluation.
    """
    rounded, sha256 = round(seconds, 3), _hash(patch)
    verdict = judgement.judge_eval(document, [], largest_patch=len(patch))
    if verdict.outcome == judgement.INFRA_ERROR:
        return OwnFeature(feature, None, verdict.reason, 0, rounded, sha256)
    facts = document or {}
    tests = judgement.count_tests(result_files.output_of(facts, number))
    if result_files.has_passed(facts, number):
        return OwnFeature(feature, True, "", tests, rounded, sha256)
    reason = verdict.reason or judgement.TESTS_FAILED
    return OwnFeature(feature, False, reason, tests, rounded, sha256)


def make_document(base: Mapping[str, Any], own: Mapping[str, OwnFeature]) -> dict[str, Any]:
    """Return the document own.json.

    Args:
        base: repo, task_id and features of the run.
        own: the verdicts, by the agents' names.
    """
    agents = {name: asdict(verdict) for name, verdict in own.items()}
    return {"schema": SCHEMA, **base, "agents": agents}


def read_features(document: Any) -> dict[str, OwnFeature]:
    """Return the verdicts in own.json, by the agents' names."""
    agents = document.get("agents") if isinstance(document, dict) else None
    entries = agents.items() if isinstance(agents, dict) else ()
    return {str(n): OwnFeature.parse(entry) for n, entry in entries if isinstance(entry, dict)}


def passed(own: Mapping[str, OwnFeature]) -> tuple[bool | None, bool | None]:
    """Return whether the own feature of agent 1 and of agent 2 passed; None: unknown."""
    first, second = (own[name].passed if name in own else None for name in AGENTS)
    return first, second


def read_document(document: Any) -> tuple[bool | None, bool | None]:
    """Return whether the own features passed, from own.json; None: unknown."""
    return passed(read_features(document))


def loss(outcome: str, own: tuple[bool | None, bool | None], merge_status: str) -> str:
    """Return the loss of a coop run, empty for a pass and for a run without an outcome.

    Args:
        outcome: outcome of the run. The loss of an infra_error is unknown.
        own: whether the own feature of each agent passed alone.
        merge_status: upstream's status of the merge.
    """
    if outcome not in (judgement.FAIL, judgement.INFRA_ERROR):
        return ""
    if outcome == judgement.INFRA_ERROR:
        return UNKNOWN
    if False in own:
        return AGENT
    if None in own:
        return UNKNOWN
    by_status = {
        result_files.CONFLICTS: MERGE,
        result_files.CLEAN: INTEGRATION,
        result_files.IDENTICAL: INTEGRATION,
    }
    return by_status.get(merge_status, UNKNOWN)


def _hash(patch: bytes) -> str:
    return hashlib.sha256(patch).hexdigest()
