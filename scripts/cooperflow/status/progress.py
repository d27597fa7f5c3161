"""How far an experiment is, from its files alone: whoever runs it, wherever it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import budget
from cooperflow.outcomes import publication, usage
from cooperflow.processes import Process
from cooperflow.status import problems
from cooperflow.status.states import (
    DONE,
    RUNNING,
    TO_GRADE,
    WAITING,
    Active,
    RunState,
    Status,
    experiments,
)


@dataclass
class Reader:
    """Reads the runs of a plan, again and again; finished ones only once."""

    plan: Plan
    _done: dict[str, tuple[tuple[int, ...], RunState]] = field(default_factory=dict)

    def status(self) -> Status:
        """Return how far the experiment is now."""
        now = time.time()
        states, active = [], []
        for run in self.plan.runs:
            state, attempt = self._run(run, now)
            states.append(state)
            if attempt is not None:
                active.append(attempt)
        holder, at_work = _holder(self.plan)
        return Status(
            self.plan.results.root,
            now,
            holder,
            at_work,
            experiments(self.plan, states),
            active,
            [
                *problems.halted(self.plan),
                *fingerprint.notes(self.plan),
                *problems.wrong(states, active, now),
                *problems.broken(self.plan),
            ],
            budget.line(self.plan),
        )

    def _run(self, run: Run, now: float) -> tuple[RunState, Active | None]:
        folder = run.folder(self.plan.results)
        mark = _mark(folder.result, folder.eval)
        if mark is not None:
            known = self._done.get(run.key)
            if known is not None and known[0] == mark:
                return known[1], None
            state = _finished(run, folder)
            if state is not None:
                self._done[run.key] = (mark, state)
                return state, None
        result = atomic_io.read_json(folder.result)
        if isinstance(result, dict) and "workflow" in result:
            return _of_result(run, result, TO_GRADE), None
        return _unfinished(run, folder, now)


def _mark(*paths: Path) -> tuple[int, ...] | None:
    try:
        return tuple(os.stat(path).st_mtime_ns for path in paths)
    except OSError:
        return None


def _finished(run: Run, folder: layout.RunFolder) -> RunState | None:
    result, evaluation = atomic_io.read_json(folder.result), atomic_io.read_json(folder.eval)
    if not isinstance(result, dict) or not isinstance(evaluation, dict):
        return None
    verdict = evaluation.get("workflow") or {}
    if not verdict.get("outcome"):
        return None
    return _of_result(run, result, DONE, verdict["outcome"], verdict.get("reason") or "")


def _of_result(
    run: Run, result: Mapping[str, Any], state: str, ended_as: str = "", reason: str = ""
) -> RunState:
    told = result.get("workflow") or {}
    return RunState(
        run,
        state,
        ended_as,
        reason,
        told.get("attempts", 0),
        told.get("cost_usd", 0.0),
        told.get("cost_complete", True),
        told.get("ended", 0.0) - told.get("started", 0.0),
        told.get("ended"),
    )


def _unfinished(run: Run, folder: layout.RunFolder, now: float) -> tuple[RunState, Active | None]:
    numbers = folder.attempt_numbers()
    if not numbers:
        return RunState(run, WAITING), None
    books = publication.books(folder)
    place = folder.attempt(numbers[-1])
    record = atomic_io.read_json(place / layout.ATTEMPT) or {}
    active = _active(run, numbers[-1], place, record, now)
    state = RunState(
        run,
        RUNNING if active is not None and not active.dead else WAITING,
        reason=str(record.get("reason") or ""),
        attempts=len(numbers),
        cost=books.cost_usd,
        cost_complete=books.cost_complete,
    )
    return state, active


def _active(
    run: Run, number: int, place: Path, record: Mapping[str, Any], now: float
) -> Active | None:
    if record.get("state") != "running":
        return None
    calls = publication.attempt_calls(place)
    started = float(record.get("started") or now)
    process = Process.parse(str(record.get("process") or ""))
    signs = [started, *(call.end or call.start for call in calls)]
    return Active(
        run,
        number,
        started,
        sum(call.kind == usage.ANSWERED for call in calls),
        max(signs),
        problems.of_calls(calls, now),
        process is not None and process.here,
        process is not None and not process.alive(),
    )


def _holder(plan: Plan) -> tuple[Mapping[str, Any] | None, bool]:
    """Return who holds the results folder by its lock, and whether that one may be alive."""
    holder = atomic_io.read_json(plan.results.lock)
    if not isinstance(holder, dict):
        return None, False
    process = Process.parse(str(holder.get("process") or ""))
    return holder, process is not None and process.alive()
