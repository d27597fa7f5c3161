"""A finding of the preflight."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from datetime import datetime

OK, BAD, NOTE = "ok", "NO", "--"
# Clocks may differ by this much before signatures and tokens are refused, seconds.
CLOCK = 120


@dataclass(frozen=True)
class Finding:
    """Result of a check. NOTE: worth knowing, but no obstacle."""

    name: str
    state: str
    text: str

    @property
    def title(self) -> str:
        return self.name[:1].upper() + self.name[1:]

    def __str__(self) -> str:
        return f"{self.state:<3} {self.name:<12} {self.text}"


def check_clock(time_text: str, owner: str) -> Finding:
    """Compare this machine's clock with another, whose time is ISO 8601 or HTTP's."""
    try:
        moment = datetime.fromisoformat(time_text[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        moment = _parse_http_date(time_text)
    if not moment:
        return Finding("clock", NOTE, f"{owner} time is unknown")
    offset = abs(moment - time.time())
    if offset > CLOCK:
        return Finding("clock", BAD, f"{offset:.0f} s off {owner}: set this machine's clock (NTP).")
    return Finding("clock", OK, f"within {max(offset, 1):.0f} s of {owner}")


def _parse_http_date(text: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
