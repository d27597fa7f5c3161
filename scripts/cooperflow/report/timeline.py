"""How events are laid beside each other on one time axis. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cooperflow.report.trajectory import Event

# Steps of two agents stand in one row when they began within this share of the whole time.
SAME = 0.02
LEAST_SAME = 1.0  # seconds


@dataclass(frozen=True)
class Row:
    """Events that stand in one line: at most one per agent, or one across all columns."""

    time: float | None  # seconds since the first row
    cells: Mapping[str, Event]
    wide: Event | None = None


def rows(events: Sequence[Event], agents: Sequence[str], start: float | None = None) -> list[Row]:
    """Return the rows of a time line, in order; times count from ``start``, or the first event."""
    times = [event.time for event in events if event.time is not None]
    zero = start if start is not None else min(times, default=0.0)
    same = max(LEAST_SAME, SAME * (max(times, default=zero) - zero))
    made: list[Row] = []
    for event in events:
        at = None if event.time is None else max(event.time - zero, 0.0)
        if event.kind == "message" or event.agent not in agents:
            made.append(Row(at, {}, event))
            continue
        last = made[-1] if made else None
        if (
            last is not None
            and last.wide is None
            and event.agent not in last.cells
            and at is not None
            and last.time is not None
            and at - last.time <= same
        ):
            made[-1] = Row(last.time, {**last.cells, event.agent: event})
        else:
            made.append(Row(at, {event.agent: event}))
    return made
