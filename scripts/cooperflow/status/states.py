"""The states of runs and experiments, and the sums over them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow.experiment.plan import Plan, Run
from cooperflow.outcomes import judgement
from cooperflow.tables import stats

# The states of a run, in the order it goes through them.
WAITING = "waiting"
RUNNING = "running"
TO_GRADE = "to grade"
DONE = "done"


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
        return self.outcomes.get(judgement.PASS, 0) + self.outcomes.get(judgement.FAIL, 0)

    @property
    def pass_rate(self) -> float:
        return stats.rate(self.outcomes.get(judgement.PASS, 0), self.decided)

    @property
    def interval(self) -> tuple[float, float]:
        return stats.wilson(self.outcomes.get(judgement.PASS, 0), self.decided)


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
    budget: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the present pace; None when nobody works or nothing is known."""
        at_once = sum(not one.dead for one in self.active)
        if not at_once or any(e.seconds_left is None for e in self.experiments):
            return None
        return sum(e.seconds_left or 0.0 for e in self.experiments) / at_once


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
