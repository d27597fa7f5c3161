"""One finding of the preflight, and how it is written. Pure."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from datetime import datetime

OK, BAD, NOTE = "ok", "NO", "--"
# Clocks may differ by so much before signatures and tokens are refused, seconds.
CLOCK = 120


@dataclass(frozen=True)
class Line:
    """One thing that was looked at. NOTE: no obstacle, but worth knowing."""

    name: str
    state: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<3} {self.name:<12} {self.text}"


def clock(name: str, theirs: str, whose: str) -> Line:
    """Return how far this machine's clock is off another, whose time is ISO 8601 or HTTP's."""
    try:
        moment = datetime.fromisoformat(theirs[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        moment = _http_date(theirs)
    if not moment:
        return Line(name, NOTE, f"{whose} time is not told")
    off = abs(moment - time.time())
    if off > CLOCK:
        return Line(name, BAD, f"{off:.0f} s off {whose}: set this machine's clock (NTP).")
    return Line(name, OK, f"within {max(off, 1):.0f} s of {whose}")


def _http_date(text: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
