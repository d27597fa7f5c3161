"""The budget: no run starts once the money spent and committed exceeds `limits.budget_usd`.

Running runs finish and are evaluated; no agent is ended for the sake of the budget.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cooperflow import atomic_io, halt, locks, processes
from cooperflow.experiment.config_schema import RECORDED
from cooperflow.experiment.plan import Plan, Run
from cooperflow.outcomes import forecast, spending

SCHEMA = 1
REASON = "budget"
# How long another run may take to add up the costs, seconds.
CLAIM_SECONDS = 120
# How often a run that waits for the running ones looks, seconds.
LOOK = 1.0
# How long an evaluation may take to start after its run or the one before it, seconds; on a
# cluster its job is queued first.
QUIET, QUIET_ON_A_NODE = 10.0, 60.0


@dataclass(frozen=True)
class Position:
    """Where an experiment is in its budget, USD."""

    limit: float
    known: float
    open: float
    running: int
    expected: float

    @property
    def committed(self) -> float:
        return self.known + self.open + self.expected

    @property
    def reached(self) -> bool:
        return self.committed > self.limit

    @property
    def parts(self) -> str:
        """The sum and its parts."""
        text = f"{self.committed:.2f} of {self.limit:.2f} USD: {self.known:.2f} known"
        if self.open:
            text += f", at most {self.open:.2f} for calls without an answer"
        if self.running:
            text += f", {self.expected:.2f} expected for {self.running} running runs"
        return text

    def __str__(self) -> str:
        return self.parts + ("; reached, no further run starts" if self.reached else "")


def position(plan: Plan) -> Position | None:
    """Return where the experiment is in its budget, None without a budget."""
    limit = plan.config.limits.budget_usd
    if limit is None:
        return None
    spent = spending.read(plan.results)
    return Position(
        limit, spent.known, spent.open, len(spent.running), spent.expected(_assumed(plan))
    )


def line(plan: Plan) -> str | None:
    """Return the budget as a line of text, None without a budget."""
    now = position(plan)
    return None if now is None else f"budget: {now}"


def uncounted(plan: Plan, assumed: Mapping[str, float | None]) -> list[str]:
    """Return the run names whose cost is not known while they run, so that no budget holds it."""
    return [
        one.run_name
        for one in plan.experiments
        if one.run_name in assumed
        and (assumed[one.run_name] is None or _records_nothing(one.agent.name))
    ]


def _records_nothing(agent: str) -> bool:
    return agent in ("claude_code", "codex") and agent not in RECORDED


def remember(plan: Plan, assumed: Mapping[str, float | None]) -> None:
    """Write the assumed cost of a run of each experiment, for the jobs of this session."""
    atomic_io.write_json(_place(plan), {"schema": SCHEMA, "assumed_usd": dict(assumed)})


def _place(plan: Plan) -> Path:
    return plan.results.state / "budget.json"


def _assumed(plan: Plan) -> dict[str, float | None]:
    document = atomic_io.read_json(_place(plan)) or {}
    return dict(document.get("assumed_usd") or {})


@contextlib.contextmanager
def admission(plan: Plan, run: Run) -> Iterator[str]:
    """Admit a run to start; yield the reason why not, empty when it may.

    The body must note the attempt as running: until then no other run is admitted, so that two
    cannot start on the same money. When the budget is reached, the run waits until the running
    ones have finished and are evaluated: they may cost less than expected. If they do not, it
    halts the session.

    Raises:
        Interrupted: asked to end meanwhile.
    """
    if plan.config.limits.budget_usd is None or run.experiment.model.replay is not None:
        yield ""
        return
    others = _Others(plan)
    while not halt.current(plan.results):
        with locks.claim(plan.results.claims, "budget", CLAIM_SECONDS):
            now = position(plan)
            if now is None or not now.reached:
                yield ""
                return
        if not now.running and others.have_finished():
            yield message(plan, now)
            return
        processes.raise_if_orphaned()
        time.sleep(LOOK)
    yield "the session is halted"


class _Others:
    """Evaluations of runs that have finished: whether one is running or about to start."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._changed = time.monotonic()
        self._pending: list[str] = []

    def have_finished(self) -> bool:
        plan, now = self._plan, time.monotonic()
        folders = {run.key: run.folder(plan.results) for run in plan.runs}
        pending = [
            key for key, one in folders.items() if one.result.exists() and not one.eval.exists()
        ]
        claims = plan.results.claims
        running = any(locks.is_claimed(claims, f"eval {key}") for key in pending)
        if running or pending != self._pending:
            self._changed, self._pending = now, pending
        quiet = QUIET_ON_A_NODE if processes.on_a_node() else QUIET
        return not pending or now - self._changed > quiet


def message(plan: Plan, now: Position) -> str:
    """Return what remains when the budget is reached, and how to continue."""
    spent, assumed = spending.read(plan.results), _assumed(plan)
    names = [
        run.experiment.run_name
        for run in plan.runs
        if run.experiment.model.replay is None and not run.folder(plan.results).result.exists()
    ]
    rest = forecast.NOTHING
    for name in dict.fromkeys(names):
        further = forecast.total(assumed.get(name), spent.costs(name), names.count(name))
        rest += further or forecast.NOTHING
    enough = f"{now.committed + rest.high:.2f}"
    return (
        f"Budget reached: {now.parts}.\n"
        f"{len(names)} runs remain, about {rest.mid:.2f} USD ({rest.low:.2f} to {rest.high:.2f}). "
        f"To continue, raise limits.budget_usd (--config 'limits={{budget_usd: {enough}}}' is "
        "enough for all, 19 times of 20) and start again: finished runs stay."
    )
