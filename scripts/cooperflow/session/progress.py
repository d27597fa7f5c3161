"""Progress of an experiment, read from its files: states of runs, sums and problems."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout
from cooperflow.errors import UserError
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import admission
from cooperflow.outcomes import judgement, run_result, usage
from cooperflow.outcomes.run_result import AttemptRecord, EvalRecord, RunRecord
from cooperflow.processes import Process
from cooperflow.tables import stats

# Format version of the document that Reader.save() writes.
SCHEMA = 1

# The states of a run, in their order.
WAITING = "waiting"
RUNNING = "running"
TO_EVALUATE = "to evaluate"
DONE = "done"

# Time without a model call after which an attempt on another machine may be dead, seconds.
SILENT = 1800
# Time after which an open call counts as a problem, seconds.
SLOW_CALL = 60


@dataclass(frozen=True)
class RunState:
    """State of one run."""

    run: Run
    state: str
    outcome: str = ""
    reason: str = ""
    attempts: int = 0
    cost: float = 0.0
    cost_complete: bool = True
    seconds: float = 0.0
    ended: float | None = None


_SAVED = [entry.name for entry in fields(RunState) if entry.name != "run"]


@dataclass(frozen=True)
class ActiveAttempt:
    """An attempt that is running according to its record."""

    run: Run
    attempt: int
    started: float
    steps: int  # answered model calls
    last: float  # time of the last model call, or of the attempt's start
    problem: str  # failures of its last calls
    is_local: bool  # its process is on this machine
    is_dead: bool  # its process has ended without recording the end


@dataclass(frozen=True)
class ExperimentState:
    """Sums over the runs of an experiment."""

    name: str
    replay: bool
    runs: int
    states: Mapping[str, int]
    outcomes: Mapping[str, int]
    reasons: Mapping[str, int]
    cost: float
    cost_complete: bool
    expected_cost: float | None
    seconds_left: float | None  # if its runs are made one after the other

    @property
    def decided(self) -> int:
        return self.outcomes.get(judgement.PASS, 0) + self.outcomes.get(judgement.FAIL, 0)

    @property
    def pass_rate(self) -> float:
        return stats.rate(self.outcomes.get(judgement.PASS, 0), self.decided)

    @property
    def interval(self) -> tuple[float, float]:
        return stats.wilson(self.outcomes.get(judgement.PASS, 0), self.decided)


@dataclass(frozen=True)
class OwnFeatures:
    """Numbers of coop runs: with own features evaluated, ready for it, and in total."""

    done: int = 0
    ready: int = 0  # the run has a result
    total: int = 0


@dataclass(frozen=True)
class Status:
    """Everything that `make status` shows."""

    root: Path
    now: float
    holder: Mapping[str, Any] | None  # the session process that the lock file names
    is_held: bool  # whether that process may be alive
    experiments: Sequence[ExperimentState]
    active: Sequence[ActiveAttempt]
    problems: Sequence[str]
    budget: str | None = None
    findings: Sequence[str] = ()  # of the tables, once they exist
    own_features: OwnFeatures = OwnFeatures()

    @property
    def seconds_left(self) -> float | None:
        """Remaining time with the current number of concurrent runs; None if unknown."""
        running = sum(not attempt.is_dead for attempt in self.active)
        if not running or any(e.seconds_left is None for e in self.experiments):
            return None
        return sum(e.seconds_left or 0.0 for e in self.experiments) / running


def summarize(plan: Plan, states: Sequence[RunState]) -> list[ExperimentState]:
    """Return the sums of each experiment, in the plan's order."""
    groups: dict[str, list[RunState]] = {e.run_name: [] for e in plan.experiments}
    for state in states:
        groups[state.run.experiment.run_name].append(state)
    finished = [s for s in states if s.state in (DONE, TO_EVALUATE)]
    return [
        _summarize_experiment(e.run_name, e.model.replay is not None, groups[e.run_name], finished)
        for e in plan.experiments
    ]


def _summarize_experiment(
    name: str, replay: bool, group: Sequence[RunState], finished: Sequence[RunState]
) -> ExperimentState:
    # Until an experiment has a finished run, the runs of the other experiments are its sample.
    sample = [s for s in group if s.state in (DONE, TO_EVALUATE)] or finished
    pending = [s for s in group if s.state in (WAITING, RUNNING)]
    cost = sum(s.cost for s in group)
    expected_cost: float | None = cost
    seconds_left: float | None = 0.0
    if pending:
        run_cost, run_seconds = _mean(s.cost for s in sample), _mean(s.seconds for s in sample)
        expected_cost = seconds_left = None
        if run_cost is not None:
            pending_cost = sum(s.cost for s in pending)
            expected_cost = max(cost - pending_cost + run_cost * len(pending), cost)
        if run_seconds is not None:
            seconds_left = run_seconds * len(pending)
    return ExperimentState(
        name,
        replay,
        len(group),
        Counter(s.state for s in group),
        Counter(s.outcome for s in group if s.outcome),
        Counter(s.reason for s in group if s.state == DONE and s.reason),
        cost,
        all(s.cost_complete for s in group),
        expected_cost,
        seconds_left,
    )


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def find_problems(
    states: Sequence[RunState], active: Sequence[ActiveAttempt], now: float
) -> list[str]:
    """Return the problems of running and finished runs, one line each."""
    lines = []
    for attempt in active:
        name = f"{attempt.run.key}: attempt {attempt.attempt}"
        if attempt.is_dead:
            lines.append(f"{name} was killed; the next session resumes the run.")
        elif attempt.problem:
            lines.append(f"{name}: {attempt.problem}")
        elif not attempt.is_local and now - attempt.last > SILENT:
            lines.append(f"{name}: no model call for {(now - attempt.last) / 60:.0f} min.")
    retried = Counter(s.reason for s in states if s.state == WAITING and s.attempts and s.reason)
    lines += [f"{count} runs will be retried after {reason}." for reason, count in retried.items()]
    broken = Counter(
        s.reason for s in states if s.state == DONE and s.outcome == judgement.INFRA_ERROR
    )
    if broken:
        reasons = ", ".join(f"{reason} x {count}" for reason, count in broken.most_common())
        lines.append(
            f"{sum(broken.values())} runs ended as infra_error ({reasons}): "
            "`make retry-infra` requeues them."
        )
    return lines


def halt_lines(plan: Plan) -> list[str]:
    """Return why the session starts no more paid runs, empty unless it is halted."""
    note = atomic_io.read_json(plan.results.halt)
    if not isinstance(note, dict):
        return []
    # The message quotes a provider, whose control characters must not reach the terminal.
    message = "".join(c for c in str(note.get("message") or "") if c.isprintable() or c == "\n")
    return [f"Halted: {line}" for line in message.splitlines()[:3]]


def broken_evaluation_lines(plan: Plan) -> list[str]:
    """Return the number of evaluations that failed and will be repeated, empty for none."""
    try:
        names = {name.rpartition(".")[0] for name in os.listdir(plan.results.redo_markers)}
    except OSError:
        return []
    return [f"{len(names)} evaluations failed and will be repeated."] if names else []


def count_own_features(plan: Plan, states: Sequence[RunState]) -> OwnFeatures:
    """Return the progress of the evaluations of own features."""
    names = {e.run_name for e in plan.experiments if plan.has_own_features(e)}
    coop = [state for state in states if state.run.experiment.run_name in names]
    runs = plan.results.runs
    done = [os.path.isfile(f"{runs}/{state.run.key}/{layout.OWN}") for state in coop]
    ready = [
        state.state in (DONE, TO_EVALUATE) and not is_done
        for state, is_done in zip(coop, done, strict=True)
    ]
    return OwnFeatures(sum(done), sum(ready), len(coop))


def call_problem(calls: Sequence[usage.Call], now: float) -> str:
    """Return the failures of an attempt's last calls, empty if they were answered."""
    failures: Counter[str] = Counter()
    for thread in usage.threads(calls):
        for call in reversed(thread):
            if call.kind == usage.OPEN:
                if now - call.start > SLOW_CALL:
                    failures["no answer yet"] += 1
                continue
            if call.kind == usage.ANSWERED:
                break
            failures[call.kind] += 1
    return ", ".join(f"{kind} x {n}" if n > 1 else kind for kind, n in failures.items())


@dataclass
class Reader:
    """Reads the runs of a plan repeatedly, but finished runs only once."""

    plan: Plan
    _finished: dict[str, tuple[tuple[int, ...], RunState]] = field(default_factory=dict)
    _findings: tuple[list[Any], list[str]] | None = None
    _is_saved: bool = True

    def __post_init__(self) -> None:
        self._runs = str(self.plan.results.runs)

    @classmethod
    def open(cls, plan: Plan) -> Reader:
        """Return a reader with the saved state of an earlier one; entries are checked before use.

        Otherwise reading thousands of documents takes seconds, and importing pandas for the
        findings another second.
        """
        reader = cls(plan)
        saved = atomic_io.read_json(plan.results.progress)
        if not isinstance(saved, dict) or saved.get("schema") != SCHEMA:
            return reader
        runs = {run.key: run for run in plan.runs}
        try:
            finished = {
                key: (tuple(times), RunState(runs[key], **values))
                for key, (times, values) in saved["finished"].items()
                if key in runs
            }
            saved_findings = saved["findings"] and tuple(saved["findings"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return reader  # the file is of another version
        reader._finished, reader._findings = finished, saved_findings
        return reader

    def save(self) -> None:
        """Save the state for the next reader, if it has changed."""
        if self._is_saved or not self.plan.results.state.is_dir():
            return
        finished = {
            key: (times, {name: getattr(state, name) for name in _SAVED})
            for key, (times, state) in self._finished.items()
        }
        document = {"schema": SCHEMA, "finished": finished, "findings": self._findings}
        with contextlib.suppress(OSError):  # the folder may belong to another user
            atomic_io.write_text(self.plan.results.progress, json.dumps(document))
            self._is_saved = True

    def status(self) -> Status:
        """Return the experiment's current progress."""
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
            summarize(self.plan, run_states),
            active,
            [
                *halt_lines(self.plan),
                *fingerprint.notes(self.plan),
                *find_problems(run_states, active, now),
                *broken_evaluation_lines(self.plan),
            ],
            admission.describe_budget(self.plan),
            self._read_findings(),
            count_own_features(self.plan, run_states),
        )

    def _read_findings(self) -> list[str]:
        """Return the findings from runs.csv, computed again when the file changes."""
        try:
            table = os.stat(self.plan.results.runs_csv)
        except OSError:
            return []
        # The findings also depend on the plan's settings, models and pairs.
        names = [experiment.run_name for experiment in self.plan.experiments]
        source = [table.st_mtime_ns, table.st_size, len(self.plan.pairs), *names]
        if self._findings is None or self._findings[0] != source:
            from cooperflow.tables import findings, run_table  # here: slow because of pandas

            try:
                runs = run_table.read_runs(self.plan.results.runs_csv)
                self._findings = source, findings.describe_plan(self.plan, runs)
                self._is_saved = False
            except (UserError, OSError, ValueError, KeyError):
                return []  # written by another version; the next session makes it again
        return self._findings[1]

    def _read_run(self, run: Run, now: float) -> tuple[RunState, ActiveAttempt | None]:
        key = run.key
        # Strings, because joining paths would take longer than reading the times.
        path = f"{self._runs}/{key}"
        times = _modification_times(f"{path}/{layout.RESULT}", f"{path}/{layout.EVAL}")
        cached = self._finished.get(key)
        if times is not None and cached is not None and cached[0] == times:
            return cached[1], None
        folder = run.folder(self.plan.results)
        if times is not None:
            state = _read_finished(run, folder)
            if state is not None:
                self._finished[key] = (times, state)
                self._is_saved = False
                return state, None
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is not None:
            return _state_of_result(run, record, TO_EVALUATE), None
        return _read_unfinished(run, folder, now)


def _modification_times(*paths: str | Path) -> tuple[int, ...] | None:
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
) -> tuple[RunState, ActiveAttempt | None]:
    numbers = folder.attempt_numbers()
    if not numbers:
        return RunState(run, WAITING), None
    spent = run_result.usage_of_run(folder, run.experiment.agent.name)
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


def _read_active(
    run: Run, attempt: Path, record: AttemptRecord, now: float
) -> ActiveAttempt | None:
    if record.state != run_result.RUNNING:
        return None
    calls = run_result.attempt_calls(attempt)
    started = record.started or now
    process = Process.parse(record.process)
    return ActiveAttempt(
        run,
        record.number,
        started,
        sum(call.kind == usage.ANSWERED for call in calls),
        max([started, *(call.end or call.start for call in calls)]),
        call_problem(calls, now),
        process is not None and process.is_local,
        process is not None and not process.is_alive(),
    )


def _read_holder(plan: Plan) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the session process named in the lock file, and whether it may be alive."""
    holder = atomic_io.read_json(plan.results.lock)
    if not isinstance(holder, dict):
        return None, False
    process = Process.parse(str(holder.get("process") or ""))
    return holder, process is not None and process.is_alive()
