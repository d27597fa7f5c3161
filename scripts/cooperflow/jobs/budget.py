"""Budget: no run starts once the money spent and committed exceeds `limits.budget_usd`.

Running runs finish and are evaluated; no agent is ended for the sake of the budget.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, locks, processes, session_state
from cooperflow.experiment.config_schema import RECORDED
from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import Results, RunFolder
from cooperflow.outcomes import forecast, judgement, run_result, usage
from cooperflow.outcomes.run_result import RUNNING, AttemptRecord, RunRecord
from cooperflow.processes import Process

SCHEMA = 1
REASON = "budget"
# Longest wait while another run adds up the costs, seconds.
CLAIM_SECONDS = 120
# Interval at which a run that waits for running runs checks the budget, seconds.
POLL_SECONDS = 1.0
# Time limit for an evaluation to start after its run or the previous evaluation, seconds; on a
# cluster its job is queued first.
QUIET_SECONDS, QUIET_SECONDS_ON_NODE = 10.0, 60.0


@dataclass(frozen=True)
class Position:
    """The state of a budget, USD."""

    limit: float
    known: float
    open: float
    running: int
    expected: float

    @property
    def committed(self) -> float:
        """Money spent and expected to be spent by running runs."""
        return self.known + self.open + self.expected

    @property
    def reached(self) -> bool:
        """True if the budget admits no more runs."""
        return self.committed > self.limit

    @property
    def parts(self) -> str:
        """The committed sum and its parts, as text."""
        text = f"{self.committed:.2f} of {self.limit:.2f} USD: {self.known:.2f} known"
        if self.open:
            text += f", at most {self.open:.2f} for calls without an answer"
        if self.running:
            text += f", {self.expected:.2f} expected for {self.running} running runs"
        return text

    def __str__(self) -> str:
        return self.parts + ("; reached, no more runs start" if self.reached else "")


def read_position(plan: Plan) -> Position | None:
    """Return the state of the budget, None without a budget."""
    limit = plan.config.limits.budget_usd
    if limit is None:
        return None
    spent = read_spending(plan.results)
    return Position(
        limit, spent.known, spent.open, len(spent.running), spent.expected(_assumptions(plan))
    )


def describe(plan: Plan) -> str | None:
    """Return the budget as a line of text, None without a budget."""
    position = read_position(plan)
    return None if position is None else f"budget: {position}"


def find_uncounted(plan: Plan, assumed: Mapping[str, float | None]) -> list[str]:
    """Return the experiments whose cost is unknown while they run, so that no budget limits it."""
    return [
        experiment.run_name
        for experiment in plan.experiments
        if experiment.run_name in assumed
        and (assumed[experiment.run_name] is None or _records_nothing(experiment.agent.name))
    ]


def _records_nothing(agent: str) -> bool:
    return agent in ("claude_code", "codex") and agent not in RECORDED


def save_assumptions(plan: Plan, assumed: Mapping[str, float | None]) -> None:
    """Write the assumed cost of a run of each experiment, for the jobs of this session."""
    atomic_io.write_json(_path(plan), {"schema": SCHEMA, "assumed_usd": dict(assumed)})


def _path(plan: Plan) -> Path:
    return plan.results.state / "budget.json"


def _assumptions(plan: Plan) -> dict[str, float | None]:
    document = atomic_io.read_json(_path(plan)) or {}
    return dict(document.get("assumed_usd") or {})


@contextlib.contextmanager
def admission(plan: Plan, run: Run) -> Iterator[str]:
    """Admit a run; yield the reason if it must not start, otherwise an empty text.

    The body must record the attempt as running: until then no other run is admitted, so that two
    runs cannot start on the same money. When the budget is reached, the run waits until the running
    ones have finished and are evaluated, because they may cost less than expected. If they do not,
    the caller halts the session.

    Raises:
        Interrupted: asked to end meanwhile.
    """
    if plan.config.limits.budget_usd is None or run.experiment.model.replay is not None:
        yield ""
        return
    others = _Others(plan)
    while not session_state.halt_message(plan.results):
        with locks.claim(plan.results.claims, "budget", CLAIM_SECONDS):
            position = read_position(plan)
            if position is None or not position.reached:
                yield ""
                return
        if not position.running and others.have_finished():
            yield compose_message(plan, position)
            return
        processes.raise_if_orphaned()
        time.sleep(POLL_SECONDS)
    yield "the session is halted"


class _Others:
    """Evaluations of finished runs that are running or about to start."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._changed = time.monotonic()
        self._pending: list[str] = []

    def have_finished(self) -> bool:
        """Return whether no evaluation is running or about to start."""
        plan, now = self._plan, time.monotonic()
        folders = {run.key: run.folder(plan.results) for run in plan.runs}
        pending = [
            key
            for key, folder in folders.items()
            if folder.result.exists() and not folder.eval.exists()
        ]
        claims = plan.results.claims
        running = any(locks.is_claimed(claims, f"eval {key}") for key in pending)
        if running or pending != self._pending:
            self._changed, self._pending = now, pending
        quiet = QUIET_SECONDS_ON_NODE if processes.on_a_node() else QUIET_SECONDS
        return not pending or now - self._changed > quiet


def compose_message(plan: Plan, position: Position) -> str:
    """Return the message of a reached budget: the remaining runs and how to continue."""
    spent, assumed = read_spending(plan.results), _assumptions(plan)
    names = [
        run.experiment.run_name
        for run in plan.runs
        if run.experiment.model.replay is None and not run.folder(plan.results).result.exists()
    ]
    remaining = forecast.NOTHING
    for name in dict.fromkeys(names):
        cost = forecast.total(assumed.get(name), spent.costs(name), names.count(name))
        remaining += cost or forecast.NOTHING
    enough = f"{position.committed + remaining.high:.2f}"
    return (
        f"Budget reached: {position.parts}.\n"
        f"{len(names)} runs remain, about {remaining.mid:.2f} USD "
        f"({remaining.low:.2f} to {remaining.high:.2f}). "
        f"To continue, raise limits.budget_usd (--config 'limits={{budget_usd: {enough}}}' is "
        "enough for all, 19 times of 20) and start again: finished runs are kept."
    )


@dataclass(frozen=True)
class Spending:
    """Costs in USD of the paid runs of a results folder, whatever the config now selects."""

    known: float = 0.0  # cost of all calls whose cost is known
    open: float = 0.0  # upper bound of the calls without an answer: in flight, or cut off
    running: tuple[tuple[str, float], ...] = ()  # run name, cost so far of each running attempt
    finished: tuple[tuple[str, float], ...] = ()  # run name, cost of each finished run

    def costs(self, run_name: str) -> list[float]:
        """Return the costs of the finished runs of an experiment."""
        return [cost for name, cost in self.finished if name == run_name]

    def expected(self, assumed: Mapping[str, float | None]) -> float:
        """Return what the running attempts are expected to cost beyond what they have cost."""
        total = 0.0
        for name, spent in self.running:
            mean = forecast.mean(assumed.get(name), self.costs(name))
            total += max((mean or 0.0) - spent, 0.0)
        return total


def read_spending(results: Results) -> Spending:
    """Return the spending of all runs, finished, running and interrupted ones."""
    known, unanswered = 0.0, 0.0
    running, finished = [], []
    for name, folder in _paid(results):
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is None:
            spent, latest = run_result.usage_of_run(folder), _running(folder)
            if latest is not None:
                calls = usage.total(run_result.attempt_calls(latest))
                running.append((name, calls.cost_bound_usd or calls.cost_usd))
        elif record.is_paid:
            spent = record.usage
            if record.outcome != judgement.INFRA_ERROR:
                finished.append((name, spent.cost_usd))
        else:
            continue
        known += spent.cost_usd
        unanswered += max((spent.cost_bound_usd or 0.0) - spent.cost_usd, 0.0)
    return Spending(known, unanswered, tuple(running), tuple(finished))


def _paid(results: Results) -> Iterator[tuple[str, RunFolder]]:
    for experiment in _folders(results.runs):
        document: Any = atomic_io.read_json(experiment / "experiment.json") or {}
        if document.get("replay") or document.get("adopted"):
            continue
        for folder in sorted(experiment.glob("*/*_task/*/f*_f*")):
            yield experiment.name, RunFolder(folder)


def _folders(root: Path) -> Sequence[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _running(folder: RunFolder) -> Path | None:
    """Return the folder of the run's running attempt, None without one."""
    for number in folder.attempt_numbers()[-1:]:
        record = AttemptRecord.read(folder, number)
        process = Process.parse(record.process)
        if record.state == RUNNING and process is not None and process.is_alive():
            return folder.attempt(number)
    return None
