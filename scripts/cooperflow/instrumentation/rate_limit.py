"""Rate limit of a provider, shared by all processes that call it. Standard library only."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cooperflow import locks
from cooperflow.layout import Results

# Longest queue, seconds: a longer queue was written before the clock was set back.
LONGEST = 3600.0


def next_turn(due: float | None, now: float, interval: float) -> tuple[float, float]:
    """Return the time of the next call, and the earliest time of the call after it. Pure.

    Calls are spaced evenly, so that no minute has more than the limit.

    Args:
        due: earliest time of a call, None before the first call; seconds.
        now: current time; seconds.
        interval: between two calls; seconds.
    """
    turn = now if due is None or due > now + LONGEST else max(due, now)
    return turn, turn + interval


@dataclass(frozen=True)
class RateLimit:
    """The limit of one provider, kept in a file that all its runs share."""

    path: Path
    per_minute: float

    def reserve(self) -> float:
        """Take the next turn and return how long to wait for it, seconds.

        A turn whose process is killed meanwhile is lost, which costs one interval.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked(self.path) as handle:
            now = time.time()
            turn, after = next_turn(_number(os.pread(handle, 64, 0)), now, 60.0 / self.per_minute)
            text = f"{after:.6f}\n".encode()
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))
            return turn - now


def _number(raw: bytes) -> float | None:
    try:
        return float(raw)
    except ValueError:
        return None


def reset(results: Results) -> None:
    """Remove the state of earlier sessions."""
    shutil.rmtree(results.rate_limits, ignore_errors=True)
