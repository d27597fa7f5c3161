"""The `workflow` object of result.json and eval.json, and what each attempt notes of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cooperflow.outcomes.usage import Usage

SCHEMA = 1


@dataclass(frozen=True)
class RunRecord:
    """`workflow` in result.json. outcome None: the tests are still to decide.

    Costs and tokens are sums over all attempts; seconds and steps are of the last one.
    """

    outcome: str | None
    reason: str
    attempts: int
    usage: Usage
    model_name: str
    setting: str
    replay: bool
    image_id: str | None
    fingerprint: str | None
    seconds: float
    waited_seconds: float
    model_seconds: float
    steps: int
    messages_sent: int
    patch_lines: int
    started: float
    ended: float
    cut_answers: int = 0  # ended at the limit of output tokens, in the last attempt
    adopted: bool = False  # plain cooperbench made it; there is no record of its calls

    def as_dict(self) -> dict[str, Any]:
        document = asdict(replace(self))
        books = document.pop("usage")
        return {"schema": SCHEMA, **document, **books}


@dataclass(frozen=True)
class EvalRecord:
    """`workflow` in eval.json: the run's final outcome."""

    outcome: str
    reason: str
    caveat: str
    seconds: float
    tests_passed: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class AttemptRecord:
    """attempt.json: written when an attempt begins, and again when it has ended.

    state: running, ended, interrupted.
    """

    number: int
    state: str
    started: float
    process: str
    ended: float | None = None
    outcome: str | None = None
    reason: str = ""
    evidence: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}
