"""Recorded answers of a judge: a request of `snakemake judge` is recognized by its transcript.

The file is `judge.jsonl` beside the recordings; each line has `contains` (texts that a transcript
holds) and `answers` (the first for the first request that fits, and so on; the last one stays).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from .conversation import Message, NotUnderstood
from .recordings import Turn

FILE = "judge.jsonl"
MARK = "# Judge of a CooperBench run"


@dataclass(frozen=True)
class Verdict:
    """A recorded answer, and the transcripts that it is for."""

    contains: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass
class Judge:
    """Answers requests of the judge from a file."""

    verdicts: tuple[Verdict, ...] = ()
    requests: dict[int, int] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path | None) -> Judge:
        """The judge of a directory of recordings; without answers where it has no file."""
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
        """The answer to a request of the judge; None for a request of an agent.

        NotUnderstood when there is none for this transcript.
        """
        first = next((message.text for message in messages if message.role == "user"), "")
        if not first.startswith(MARK):
            return None
        for number, verdict in enumerate(self.verdicts):
            if all(text in first for text in verdict.contains):
                count = self.requests.get(number, 0)
                self.requests[number] = count + 1
                return Turn(verdict.answers[min(count, len(verdict.answers) - 1)], ())
        raise NotUnderstood("no recorded answer of a judge fits this transcript")
