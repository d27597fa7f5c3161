"""The ledger: a JSON line for each call, which is on disk before the answer is complete."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """One call. time: seconds since the epoch. Tokens: from the answer's usage.

    purpose: "turn" or "summary". fault: the action of the applied rule, or None. answered: the
        complete answer was sent; its last byte follows after this line is on disk. A failed call
        has answered false and 0 tokens. usage_sent: false if the tokens were billed but not
        reported. Cohere bills the billed units, others the tokens.
    """

    time: float
    conversation: str | None
    repo: str | None
    task: int | None
    features: tuple[int, ...]
    kind: str | None
    agent: str | None
    step: int | None
    purpose: str
    input_tokens: int
    output_tokens: int
    billed_input_tokens: int
    billed_output_tokens: int
    status: int
    model: str
    wire: str
    fault: str | None
    answered: bool
    error: str | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    reported_cost: float | None = None
    usage_sent: bool = True


class Ledger:
    """All entries in memory and, with a path, in a file to which each is appended immediately."""

    def __init__(self, path: Path | None) -> None:
        self.entries: list[Entry] = []
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def write(self, entry: Entry) -> None:
        """Append the entry; it is on the disk when this returns."""
        self.entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(self.line(entry), ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    @staticmethod
    def line(entry: Entry) -> dict[str, Any]:
        """Return the entry as in the file."""
        return {"schema": SCHEMA, **asdict(entry)}

    def stats(self) -> dict[str, Any]:
        """Return sums over all entries."""
        entries = self.entries
        return {
            "calls": len(entries),
            "answered": sum(entry.answered for entry in entries),
            "input_tokens": sum(entry.input_tokens for entry in entries),
            "output_tokens": sum(entry.output_tokens for entry in entries),
            "status": dict(Counter(str(entry.status) for entry in entries)),
            "faults": dict(Counter(entry.fault for entry in entries if entry.fault)),
            "conversations": len({entry.conversation for entry in entries if entry.conversation}),
        }

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
