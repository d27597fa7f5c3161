"""What is wrong with an experiment, and what to do about it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from cooperflow import atomic_io
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import judgement, usage
from cooperflow.status.states import DONE, WAITING, Active, RunState

# A running attempt on another machine that has not called its model for so long may be dead.
SILENT = 1800


def wrong(states: Sequence[RunState], active: Sequence[Active], now: float) -> list[str]:
    """Return what a person should know now, each as a line."""
    lines = []
    for one in active:
        if one.dead:
            lines.append(f"{one.run.key}: attempt {one.attempt} was killed; a start goes on.")
        elif one.trouble:
            lines.append(f"{one.run.key}: attempt {one.attempt}: {one.trouble}")
        elif not one.here and now - one.last > SILENT:
            minutes = (now - one.last) / 60
            lines.append(f"{one.run.key}: no sign of life for {minutes:.0f} min.")
    again = Counter(s.reason for s in states if s.state == WAITING and s.attempts and s.reason)
    lines += [f"{n} runs are tried again after {reason}." for reason, n in again.items()]
    ended = Counter(
        s.reason for s in states if s.state == DONE and s.outcome == judgement.INFRA_ERROR
    )
    if ended:
        told = ", ".join(f"{reason} x {n}" for reason, n in ended.most_common())
        lines.append(
            f"{sum(ended.values())} runs ended as infra_error ({told}): "
            "`make retry-infra` puts them back."
        )
    return lines


def halted(plan: Plan) -> list[str]:
    """Return why no further paid run is begun, if it is so."""
    note = atomic_io.read_json(plan.results.halt)
    if not isinstance(note, dict):
        return []
    # Words of a provider: they must not move the terminal's cursor.
    told = "".join(c for c in str(note.get("message") or "") if c.isprintable() or c == "\n")
    return [f"Halted: {line}" for line in told.splitlines()[:3]]


def broken(plan: Plan) -> list[str]:
    try:
        names = {name.rpartition(".")[0] for name in os.listdir(plan.results.broken_evals)}
    except OSError:
        return []
    return [f"{len(names)} gradings broke and will be done again."] if names else []


def of_calls(calls: Sequence[usage.Call], now: float) -> str:
    """Return what the last calls of an attempt met, empty when they were answered.

    A call that is still open is trouble only once it takes longer than a minute.
    """
    bad: Counter[str] = Counter()
    for thread in usage.threads(calls):
        for call in reversed(thread):
            if call.kind == usage.OPEN:
                if now - call.start > 60:
                    bad["no answer yet"] += 1
                continue
            if call.kind == usage.ANSWERED:
                break
            bad[call.kind] += 1
    return ", ".join(f"{kind} x {count}" if count > 1 else kind for kind, count in bad.items())
