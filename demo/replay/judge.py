"""Recorded answers of a judge to requests of `snakemake judge`, found by the transcript.

The file is `judge.jsonl` beside the recordings. Each line has `contains` (texts in the transcript)
and `answers` (one for each matching request in order; the last one is repeated).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from .conversation import InvalidRequest, Message
from .recordings import Turn

FILE = "judge.jsonl"
MARK = "# Judge of a CooperBench run"


@dataclass(frozen=True)
class Verdict:
    """Recorded answers for the transcripts that contain certain texts."""

    contains: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass
class Judge:
    """Recorded answers for all requests of the judge."""

    verdicts: tuple[Verdict, ...] = ()
    requests: dict[int, int] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path | None) -> Judge:
        """Load the judge of a directory of recordings; it has no answers without a file."""
        path = directory / FILE if directory else None
        if path is None or not path.is_file():
            return cls()
        verdicts = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                entry = json.loads(line)
                verdicts.append(Verdict(tuple(entry["contains"]), tuple(entry["answers"])))
        return cls(tuple(verdicts))

    def turn(self, messages: list[Message]) -> Turn | None:
        """Return the answer to a request of the judge, None for a request of an agent.

        InvalidRequest if there is no answer for the transcript.
        """
        first = next((message.text for message in messages if message.role == "user"), "")
        if not first.startswith(MARK):
            return None
        for number, verdict in enumerate(self.verdicts):
            if all(text in first for text in verdict.contains):
                count = self.requests.get(number, 0)
                self.requests[number] = count + 1
                return Turn(verdict.answers[min(count, len(verdict.answers) - 1)], ())
        raise InvalidRequest("no recorded answer of a judge matches this transcript")
