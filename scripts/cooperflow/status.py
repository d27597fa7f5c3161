"""How far an experiment is, from its files alone: whoever runs it, wherever it runs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow import atomic, layout, outcome, publish, stats, usage
from cooperflow.plan import Plan, Run
from cooperflow.processes import Process

# The states of a run, in the order it goes through them.
WAITING = "waiting"
RUNNING = "running"
TO_GRADE = "to grade"
DONE = "done"

# A running attempt on another machine that has not called its model for so long may be dead.
SILENT = 1800


@dataclass(frozen=True)
class RunState:
    """How far one run is."""

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
    """An attempt that is at work, or says so."""

    run: Run
    attempt: int
    started: float
    steps: int  # model calls that were answered
    last: float  # time of the last sign of life
    trouble: str  # what its last calls met
    here: bool  # its process can be looked at from this machine
    dead: bool  # and is gone


@dataclass(frozen=True)
class ExperimentState:
    """The sums of an experiment."""

    name: str
    replay: bool
    of: int
    states: Mapping[str, int]
    outcomes: Mapping[str, int]
    reasons: Mapping[str, int]
    cost: float
    cost_complete: bool
    expected_cost: float | None
    seconds_left: float | None  # of work, one run after the other

    @property
    def decided(self) -> int:
        return self.outcomes.get(outcome.PASS, 0) + self.outcomes.get(outcome.FAIL, 0)

    @property
    def pass_rate(self) -> float:
        return stats.rate(self.outcomes.get(outcome.PASS, 0), self.decided)

    @property
    def interval(self) -> tuple[float, float]:
        return stats.wilson(self.outcomes.get(outcome.PASS, 0), self.decided)


@dataclass(frozen=True)
class Status:
    """All that `make status` shows."""

    root: Path
    now: float
    holder: Mapping[str, Any] | None  # who is at work, as the lock says
    at_work: bool
    experiments: Sequence[ExperimentState]
    active: Sequence[Active]
    wrong: Sequence[str]

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the present pace; None when nobody works or nothing is known."""
        at_once = sum(not one.dead for one in self.active)
        if not at_once or any(e.seconds_left is None for e in self.experiments):
            return None
        return sum(e.seconds_left or 0.0 for e in self.experiments) / at_once


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
            [*_halted(self.plan), *wrong(states, active, now), *_broken(self.plan)],
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
        result = atomic.read_json(folder.result)
        if isinstance(result, dict) and "workflow" in result:
            return _of_result(run, result, TO_GRADE), None
        return _unfinished(run, folder, now)


def _mark(*paths: Path) -> tuple[int, ...] | None:
    try:
        return tuple(os.stat(path).st_mtime_ns for path in paths)
    except OSError:
        return None


def _finished(run: Run, folder: layout.RunFolder) -> RunState | None:
    result, evaluation = atomic.read_json(folder.result), atomic.read_json(folder.eval)
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
    books = publish.books(folder)
    place = folder.attempt(numbers[-1])
    record = atomic.read_json(place / layout.ATTEMPT) or {}
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
    calls = publish.attempt_calls(place)
    started = float(record.get("started") or now)
    process = Process.parse(str(record.get("process") or ""))
    signs = [started, *(call.end or call.start for call in calls)]
    return Active(
        run,
        number,
        started,
        sum(call.kind == usage.ANSWERED for call in calls),
        max(signs),
        trouble(calls, now),
        process is not None and process.here,
        process is not None and not process.alive(),
    )


def trouble(calls: Sequence[usage.Call], now: float) -> str:
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


def experiments(plan: Plan, states: Sequence[RunState]) -> list[ExperimentState]:
    """Return the sums of each experiment, in the plan's order."""
    groups: dict[str, list[RunState]] = {one.run_name: [] for one in plan.experiments}
    for state in states:
        groups[state.run.experiment.run_name].append(state)
    done = [s for s in states if s.state in (DONE, TO_GRADE)]
    return [
        _experiment(one.run_name, one.model.replay is not None, groups[one.run_name], done)
        for one in plan.experiments
    ]


def _experiment(
    name: str, replay: bool, group: Sequence[RunState], all_done: Sequence[RunState]
) -> ExperimentState:
    mine = [s for s in group if s.state in (DONE, TO_GRADE)]
    # Before an experiment has a finished run of its own, the others tell what one is like.
    known = mine or all_done
    left = [s for s in group if s.state in (WAITING, RUNNING)]
    spent = sum(s.cost for s in group)
    expected = _mean(s.cost for s in known)
    lasts = _mean(s.seconds for s in known)
    in_hand = sum(s.cost for s in left)
    return ExperimentState(
        name,
        replay,
        len(group),
        Counter(s.state for s in group),
        Counter(s.outcome for s in group if s.outcome),
        Counter(s.reason for s in group if s.state == DONE and s.reason),
        spent,
        all(s.cost_complete for s in group),
        spent if not left else None if expected is None else max(
            spent - in_hand + expected * len(left), spent
        ),
        0.0 if not left else None if lasts is None else lasts * len(left),
    )  # fmt: skip


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


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
        s.reason for s in states if s.state == DONE and s.outcome == outcome.INFRA_ERROR
    )
    if ended:
        told = ", ".join(f"{reason} x {n}" for reason, n in ended.most_common())
        lines.append(
            f"{sum(ended.values())} runs ended as infra_error ({told}): "
            "`make retry-infra` puts them back."
        )
    return lines


def _halted(plan: Plan) -> list[str]:
    note = atomic.read_json(plan.results.halt)
    if not isinstance(note, dict):
        return []
    # Words of a provider: they must not move the terminal's cursor.
    told = "".join(c for c in str(note.get("message") or "") if c.isprintable() or c == "\n")
    return [f"Halted: {line}" for line in told.splitlines()[:3]]


def _broken(plan: Plan) -> list[str]:
    try:
        names = {name.rpartition(".")[0] for name in os.listdir(plan.results.broken_evals)}
    except OSError:
        return []
    return [f"{len(names)} gradings broke and will be done again."] if names else []


def _holder(plan: Plan) -> tuple[Mapping[str, Any] | None, bool]:
    """Return who holds the results folder by its lock, and whether that one may be alive."""
    holder = atomic.read_json(plan.results.lock)
    if not isinstance(holder, dict):
        return None, False
    process = Process.parse(str(holder.get("process") or ""))
    return holder, process is not None and process.alive()
