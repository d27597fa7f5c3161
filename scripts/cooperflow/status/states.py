"""States of runs and experiments, the sums over them, and the problems they show."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io
from cooperflow.experiment.plan import Plan, Run
from cooperflow.outcomes import judgement, usage
from cooperflow.tables import stats

# The states of a run, in their order.
WAITING = "waiting"
RUNNING = "running"
TO_EVALUATE = "to evaluate"
DONE = "done"

# A running attempt on another machine that made no model call for this long may be dead, seconds.
SILENT = 1800
# An open call is a problem after this many seconds.
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


@dataclass(frozen=True)
class Active:
    """An attempt that its record calls running."""

    run: Run
    attempt: int
    started: float
    steps: int  # answered model calls
    last: float  # time of the last model call, or of the attempt's start
    problem: str  # failures of its last calls
    is_local: bool  # its process is visible from this machine
    is_dead: bool  # its process has ended without a record


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
    seconds_left: float | None  # if its runs are run one after the other

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
class Status:
    """Everything that `make status` shows."""

    root: Path
    now: float
    holder: Mapping[str, Any] | None  # the session process that the lock file names
    is_held: bool  # and it may be alive
    experiments: Sequence[ExperimentState]
    active: Sequence[Active]
    problems: Sequence[str]
    budget: str | None = None
    findings: Sequence[str] = ()  # of the tables, once they exist

    @property
    def seconds_left(self) -> float | None:
        """Time to the end with the runs at a time that are running now; None if unknown."""
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
    # Until an experiment has a finished run, those of the others serve as its sample.
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


def find_problems(states: Sequence[RunState], active: Sequence[Active], now: float) -> list[str]:
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
    # The message quotes a provider: control characters must not reach the terminal.
    message = "".join(c for c in str(note.get("message") or "") if c.isprintable() or c == "\n")
    return [f"Halted: {line}" for line in message.splitlines()[:3]]


def broken_evaluation_lines(plan: Plan) -> list[str]:
    """Return the number of evaluations that failed and will be repeated, empty for none."""
    try:
        names = {name.rpartition(".")[0] for name in os.listdir(plan.results.broken_evals)}
    except OSError:
        return []
    return [f"{len(names)} evaluations failed and will be repeated."] if names else []


def call_problem(calls: Sequence[usage.Call], now: float) -> str:
    """Return the failures of an attempt's last calls, empty when they were answered."""
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
