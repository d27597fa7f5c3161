"""Records: the `workflow` object of result.json and eval.json, and attempt.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from cooperflow import atomic_io, layout
from cooperflow.layout import RunFolder
from cooperflow.outcomes.usage import Usage
from cooperflow.upstream import result_files

SCHEMA = 1

# States of an attempt.
RUNNING, ENDED, INTERRUPTED = "running", "ended", "interrupted"


class _Record:
    """A record that other versions may have written with fewer or more keys."""

    @classmethod
    def _from(cls, part: Mapping[str, Any], **others: Any) -> Self:
        """Return the record of a JSON object; a key that is missing or null has its default."""
        names = {each.name for each in fields(cls)}  # type: ignore[arg-type]
        given = {k: v for k, v in part.items() if k in names and v is not None}
        return cls(**{**given, **others})


@dataclass(frozen=True)
class RunRecord(_Record):
    """`workflow` in result.json. outcome None: the tests are still to decide.

    Costs and tokens are sums over all attempts; seconds and steps are of the last one.
    """

    outcome: str | None = None
    reason: str = ""
    attempts: int = 0
    usage: Usage = field(default_factory=Usage)
    model_name: str = ""
    setting: str = ""
    replay: bool = False
    image_id: str | None = None
    fingerprint: str | None = None
    seconds: float = 0.0
    waited_seconds: float = 0.0
    model_seconds: float = 0.0
    steps: int = 0
    messages_sent: int = 0
    patch_lines: int = 0
    started: float | None = None
    ended: float | None = None
    cut_answers: int = 0  # ended at the limit of output tokens, in the last attempt
    adopted: bool = False  # plain cooperbench made it, without a call log
    caveats: Sequence[str] = ()  # of an adopted run

    @classmethod
    def read(cls, document: Any) -> RunRecord | None:
        """Return the record in a result.json, None where it has none."""
        part = result_files.workflow(document)
        return cls._from(part, usage=Usage.read(part)) if part else None

    @property
    def is_paid(self) -> bool:
        """True if this workflow called a model for the run."""
        return not (self.replay or self.adopted)

    def as_dict(self) -> dict[str, Any]:
        document = asdict(replace(self))
        books = document.pop("usage")
        if not self.caveats:
            del document["caveats"]
        return {"schema": SCHEMA, **document, **books}


@dataclass(frozen=True)
class EvalRecord(_Record):
    """`workflow` in eval.json: the run's final outcome. tests_passed None: none was run."""

    outcome: str = ""
    reason: str = ""
    caveat: str = ""
    seconds: float = 0.0
    tests_passed: tuple[int, int] | None = None

    @classmethod
    def read(cls, document: Any) -> EvalRecord:
        """Return the record in an eval.json; without an outcome where it has none."""
        return cls._from(result_files.workflow(document))

    def as_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class AttemptRecord(_Record):
    """attempt.json: written at an attempt's start, and again at its end.

    state: RUNNING, ENDED, INTERRUPTED; empty where the file is missing or incomplete.
    """

    number: int
    state: str = ""
    started: float = 0.0  # 0: unknown
    process: str = ""
    ended: float | None = None
    outcome: str | None = None
    reason: str = ""
    evidence: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def read(cls, folder: RunFolder, number: int) -> AttemptRecord:
        """Return the record of an attempt at a run."""
        document = atomic_io.read_json(folder.attempt(number) / layout.ATTEMPT)
        return cls._from(document if isinstance(document, dict) else {}, number=number)
