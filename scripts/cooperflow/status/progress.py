"""Progress of an experiment, read from its files alone, on any machine that sees them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout
from cooperflow.errors import UserError
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import budget
from cooperflow.outcomes import publication, records, usage
from cooperflow.outcomes.records import AttemptRecord, EvalRecord, RunRecord
from cooperflow.processes import Process
from cooperflow.status import states
from cooperflow.status.states import DONE, RUNNING, TO_EVALUATE, WAITING, Active, RunState, Status


@dataclass
class Reader:
    """Reads the runs of a plan repeatedly; finished runs only once."""

    plan: Plan
    _finished: dict[str, tuple[tuple[int, ...], RunState]] = field(default_factory=dict)
    _findings: tuple[tuple[int, ...], list[str]] | None = None

    def status(self) -> Status:
        """Return the experiment's progress now."""
        now = time.time()
        run_states, active = [], []
        for run in self.plan.runs:
            state, attempt = self._read_run(run, now)
            run_states.append(state)
            if attempt is not None:
                active.append(attempt)
        holder, is_held = _read_holder(self.plan)
        return Status(
            self.plan.results.root,
            now,
            holder,
            is_held,
            states.summarize(self.plan, run_states),
            active,
            [
                *states.halt_lines(self.plan),
                *fingerprint.notes(self.plan),
                *states.find_problems(run_states, active, now),
                *states.broken_evaluation_lines(self.plan),
            ],
            budget.describe(self.plan),
            self._read_findings(),
        )

    def _read_findings(self) -> list[str]:
        """Return the findings of runs.csv, none before it exists; read again when it changes."""
        times = _modification_times(self.plan.results.runs_csv)
        if times is None:
            return []
        if self._findings is None or self._findings[0] != times:
            from cooperflow.tables import findings, run_table  # pandas takes a while

            try:
                runs = run_table.read_runs(self.plan.results.runs_csv)
                self._findings = times, findings.of_plan(self.plan, runs)
            except (UserError, OSError, ValueError, KeyError):
                self._findings = times, []  # another version wrote it; the session makes it again
        return self._findings[1]

    def _read_run(self, run: Run, now: float) -> tuple[RunState, Active | None]:
        folder = run.folder(self.plan.results)
        times = _modification_times(folder.result, folder.eval)
        if times is not None:
            cached = self._finished.get(run.key)
            if cached is not None and cached[0] == times:
                return cached[1], None
            state = _read_finished(run, folder)
            if state is not None:
                self._finished[run.key] = (times, state)
                return state, None
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is not None:
            return _state_of_result(run, record, TO_EVALUATE), None
        return _read_unfinished(run, folder, now)


def _modification_times(*paths: Path) -> tuple[int, ...] | None:
    try:
        return tuple(os.stat(path).st_mtime_ns for path in paths)
    except OSError:
        return None


def _read_finished(run: Run, folder: layout.RunFolder) -> RunState | None:
    record = RunRecord.read(atomic_io.read_json(folder.result))
    final = EvalRecord.read(atomic_io.read_json(folder.eval))
    if record is None or not final.outcome:
        return None
    return _state_of_result(run, record, DONE, final.outcome, final.reason)


def _state_of_result(
    run: Run, record: RunRecord, state: str, outcome: str = "", reason: str = ""
) -> RunState:
    return RunState(
        run,
        state,
        outcome,
        reason,
        record.attempts,
        record.usage.cost_usd,
        record.usage.cost_complete,
        (record.ended or 0.0) - (record.started or 0.0),
        record.ended,
    )


def _read_unfinished(
    run: Run, folder: layout.RunFolder, now: float
) -> tuple[RunState, Active | None]:
    numbers = folder.attempt_numbers()
    if not numbers:
        return RunState(run, WAITING), None
    spent = publication.books(folder)
    attempt = folder.attempt(numbers[-1])
    record = AttemptRecord.read(folder, numbers[-1])
    active = _read_active(run, attempt, record, now)
    state = RunState(
        run,
        RUNNING if active is not None and not active.is_dead else WAITING,
        reason=record.reason,
        attempts=len(numbers),
        cost=spent.cost_usd,
        cost_complete=spent.cost_complete,
    )
    return state, active


def _read_active(run: Run, attempt: Path, record: AttemptRecord, now: float) -> Active | None:
    if record.state != records.RUNNING:
        return None
    calls = publication.attempt_calls(attempt)
    started = record.started or now
    process = Process.parse(record.process)
    return Active(
        run,
        record.number,
        started,
        sum(call.kind == usage.ANSWERED for call in calls),
        max([started, *(call.end or call.start for call in calls)]),
        states.call_problem(calls, now),
        process is not None and process.is_local,
        process is not None and not process.is_alive(),
    )


def _read_holder(plan: Plan) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the session process that the lock file names, and whether it may be alive."""
    holder = atomic_io.read_json(plan.results.lock)
    if not isinstance(holder, dict):
        return None, False
    process = Process.parse(str(holder.get("process") or ""))
    return holder, process is not None and process.is_alive()
