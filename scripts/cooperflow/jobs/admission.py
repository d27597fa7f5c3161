"""Admission of runs and evaluations: the circuit breaker and the budget.

Circuit breaker: after consecutive infrastructure failures, one attempt at a time is admitted as a
trial, with growing pauses between trials, and only if the engine answers and the provider's host is
reachable; both checks are free. The first successful trial admits all others.

Budget: no run starts once the money spent and committed exceeds `limits.budget_usd`. Running runs
    finish and are evaluated.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, locks, processes, session_state
from cooperflow.errors import EngineError
from cooperflow.experiment.config_schema import UNRECORDED
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import notification
from cooperflow.layout import Results, RunFolder
from cooperflow.outcomes import judgement, run_result, usage
from cooperflow.outcomes.run_result import ENDED, RUNNING, AttemptRecord, RunRecord
from cooperflow.processes import Process
from cooperflow.tables import stats

# The longest pause between two trials, seconds.
LONGEST_PAUSE = 600
# First interval at which a waiting job prints its reason, and interval of probes, seconds.
MESSAGE_SECONDS, PROBE_SECONDS = 60, 5
# Maximum length that is read of the record of attempts, bytes: some hundred attempts.
TAIL = 65_536
# Time limit of a probe, seconds.
REACH_SECONDS = 5.0

SCHEMA = 1
BUDGET_REASON = "budget"
# Longest wait while another run sums up the costs, seconds.
BUDGET_CLAIM_SECONDS = 120
# Interval at which a waiting run checks the budget, seconds.
POLL_SECONDS = 1.0
# Time limit for an evaluation to start after its run or the previous evaluation, seconds. On a
# cluster the job is queued first.
QUIET_SECONDS, QUIET_SECONDS_ON_NODE = 10.0, 60.0


@dataclass(frozen=True)
class Trouble:
    """Consecutive runs that failed because of the infrastructure."""

    runs: int
    reason: str  # reason of the last run
    until: float  # time of the next trial, seconds since the epoch


def find_trouble(
    records: Sequence[Mapping[str, Any]], failures: int, pause: float
) -> Trouble | None:
    """Return the trouble shown by ended attempts (the newest last), None without any. Pure.

    The pause doubles with each failed trial. A failure before the end of a pause is not a failed
    trial, because its attempt had started earlier.

    Args:
        failures: number of consecutive failures that open the breaker; 0: never.
        pause: pause before the first trial, seconds.
    """
    if failures < 1:
        return None
    failed = list(takewhile(lambda record: record["reason"], reversed(records)))
    runs: set[str] = set()
    wait, until = pause, 0.0
    for record in reversed(failed):
        is_trial = len(runs) >= failures and float(record["time"]) >= until
        runs.add(str(record["run"]))
        wait = min(2 * wait, LONGEST_PAUSE) if is_trial else wait
        until = float(record["time"]) + wait
    if len(runs) < failures:
        return None
    return Trouble(len(runs), str(failed[0]["reason"]), until)


def record_end(results: Results, run: Run, reason: str) -> None:
    """Record an attempt's end; ``reason``: that of an infrastructure failure, otherwise empty."""
    record = {"time": time.time(), "owner": str(processes.session_process()), "run": run.key}
    with contextlib.suppress(OSError):  # a full disk is reported as an outcome
        line = json.dumps({**record, "reason": reason})
        atomic_io.append_line(results.breaker, line, shared=True)


@contextlib.contextmanager
def breaker_admission(plan: Plan, run: Run, evaluation: bool = False) -> Iterator[None]:
    """Wait until an attempt at ``run`` may start. If it is a trial, others wait for its end.

    Args:
        evaluation: True for an evaluation, which needs only the engine.

    Raises:
        Interrupted: the process was asked to end while it waited.
    """
    with contextlib.ExitStack() as stack:
        is_trial = False
        printed, interval = 0.0, float(MESSAGE_SECONDS)
        start = time.monotonic()
        while (
            obstacle := _obstacle(plan, run, evaluation, is_trial)
        ) and not session_state.halt_message(plan.results):
            if not is_trial and not evaluation:
                is_trial = _try_lock(plan.results, stack)
            if not printed or time.monotonic() - printed > interval:
                interval = min(2 * interval, LONGEST_PAUSE) if printed else interval
                printed = time.monotonic()
                print(f"{run.key}: waiting: {obstacle}", flush=True)
            minutes = (time.monotonic() - start) / 60
            if minutes >= plan.config.breaker.notify_minutes:
                notification.send(
                    plan, notification.WAITING, f"Runs wait for {minutes:.0f} min: {obstacle}"
                )
            for _ in range(PROBE_SECONDS * 5):
                processes.raise_if_orphaned()
                time.sleep(0.2)
        if printed:
            print(f"{run.key}: continues", flush=True)
        yield


def _obstacle(plan: Plan, run: Run, evaluation: bool, is_trial: bool) -> str:
    """Return the reason why an attempt must wait now, empty if it may start."""
    config = plan.config.breaker
    if config.failures < 1:
        return ""
    trouble = None
    if not evaluation:
        session = str(processes.session_process())
        records = atomic_io.read_lines(plan.results.breaker, TAIL)
        ends = [record for record in records if record.get("owner") == session]
        trouble = find_trouble(ends, config.failures, config.pause_seconds)
    engine_error = engine_problem() if plan.config.docker else ""
    if engine_error:
        return f"{engine_error}. Runs continue when the engine answers."
    if trouble is None:
        return ""
    failures = f"the last {trouble.runs} runs ended as {trouble.reason}"
    unreachable = provider_problem(run.experiment.api_base)
    if unreachable:
        return f"{failures}; {unreachable}. Runs continue when the provider is reachable."
    if not is_trial:
        return f"{failures}; waiting for the trial of another run."
    seconds = trouble.until - time.time()
    # The pause can only be longer if the clock was set back.
    if 0 < seconds <= max(LONGEST_PAUSE, config.pause_seconds):
        return f"{failures}; next trial in {seconds:.0f} s."
    return ""


def _try_lock(results: Results, stack: contextlib.ExitStack) -> bool:
    """Take the trial's lock; return False if another run holds it."""
    stream = results.breaker.with_suffix(".lock").open("a")
    if not locks.try_lock(stream.fileno()):
        stream.close()
        return False
    stack.enter_context(stream)
    return True


def engine_problem() -> str:
    """Return the reason why the engine cannot start a run, empty if it can."""
    from cooperflow.engine import containers  # here: slow, and `make status` does not need it

    try:
        containers.engine(REACH_SECONDS).close()
    except EngineError as error:
        return f"Docker does not answer ({str(error)[:120]})"
    return ""


def provider_problem(url: str | None) -> str:
    """Return why the provider's host cannot be reached, empty if it can or is unknown.

    The request uses the same client library as model calls, and therefore the same proxy. No model
    is called, so nothing is paid. Any answer, or a timeout, counts as reached.
    """
    import httpx

    if not url:
        return ""
    try:
        # Certificates are not verified, since nothing secret is sent.
        httpx.head(url, timeout=REACH_SECONDS, verify=False)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        address = httpx.URL(url)
        port = address.port or (80 if address.scheme == "http" else 443)
        return f"{address.host}:{port} cannot be reached ({error or type(error).__name__})"
    except Exception:  # a broken answer counts too; an unknown kind of proxy fails the call itself
        return ""
    return ""


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
        """Money spent so far or expected for running runs."""
        return self.known + self.open + self.expected

    @property
    def reached(self) -> bool:
        """True if the budget admits no more runs."""
        return self.committed > self.limit

    @property
    def parts(self) -> str:
        """The committed sum and its components, as text."""
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
    spending = read_spending(plan.results)
    return Position(
        limit,
        spending.known,
        spending.open,
        len(spending.running),
        spending.expected(_assumptions(plan)),
    )


def describe_budget(plan: Plan) -> str | None:
    """Return the budget as a line of text, None without a budget."""
    position = read_position(plan)
    return None if position is None else f"budget: {position}"


def find_uncounted(plan: Plan, assumed: Mapping[str, float | None]) -> list[str]:
    """Return the experiments without a known cost, which a budget cannot limit."""
    return [
        experiment.run_name
        for experiment in plan.experiments
        if experiment.run_name in assumed
        and (assumed[experiment.run_name] is None or experiment.agent.name in UNRECORDED)
    ]


def save_assumptions(plan: Plan, assumed: Mapping[str, float | None]) -> None:
    """Save the assumed cost of a run of each experiment for the jobs of this session."""
    atomic_io.write_json(_path(plan), {"schema": SCHEMA, "assumed_usd": dict(assumed)})


def _path(plan: Plan) -> Path:
    return plan.results.state / "budget.json"


def _assumptions(plan: Plan) -> dict[str, float | None]:
    document = atomic_io.read_object(_path(plan))
    return dict(document.get("assumed_usd") or {})


@contextlib.contextmanager
def budget_admission(plan: Plan, run: Run) -> Iterator[str]:
    """Admit a run; yield the reason if it must not start, otherwise an empty string.

    The body must record the attempt as running. No other run is admitted until then, so that two
    runs cannot claim the same part of the budget. If the budget is reached, the run waits until the
    running runs are finished and evaluated, because they may cost less than expected. If they do
    not, the caller halts the session.

    Raises:
        Interrupted: the process was asked to end while it waited.
    """
    if plan.config.limits.budget_usd is None or run.experiment.model.replay is not None:
        yield ""
        return
    pending = _PendingVerdicts(plan)
    while not session_state.halt_message(plan.results):
        with locks.claim(plan.results.claims, "budget", BUDGET_CLAIM_SECONDS):
            position = read_position(plan)
            if position is None or not position.reached:
                yield ""
                return
        if not position.running and pending.have_finished():
            yield budget_message(plan, position)
            return
        processes.raise_if_orphaned()
        time.sleep(POLL_SECONDS)
    yield "the session is halted"


class _PendingVerdicts:
    """Runs that have made their last call and whose evaluation has not ended."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._changed = time.monotonic()
        self._pending: list[str] = []

    def have_finished(self) -> bool:
        """Return whether all these runs have a verdict, or none has made progress for a while."""
        plan, now = self._plan, time.monotonic()
        folders = {run.key: run.folder(plan.results) for run in plan.runs}
        pending = [key for key, folder in folders.items() if _is_unfinished(folder)]
        claims = plan.results.claims
        running = any(locks.is_claimed(claims, f"eval {key}") for key in pending)
        if running or pending != self._pending:
            self._changed, self._pending = now, pending
        patience = QUIET_SECONDS_ON_NODE if processes.on_a_node() else QUIET_SECONDS
        return not pending or now - self._changed > patience


def _is_unfinished(folder: RunFolder) -> bool:
    """Return whether a run's result or evaluation is still expected."""
    if folder.result.exists():
        return not folder.eval.exists()
    record = AttemptRecord.read_newest(folder)
    return record is not None and record.state == ENDED


def budget_message(plan: Plan, position: Position) -> str:
    """Return the message for a reached budget, with the remaining runs and how to continue."""
    spending, assumed = read_spending(plan.results), _assumptions(plan)
    names = [
        run.experiment.run_name
        for run in plan.runs
        if run.experiment.model.replay is None and not run.folder(plan.results).result.exists()
    ]
    remaining = stats.NOTHING
    for name in dict.fromkeys(names):
        cost = stats.forecast_total(assumed.get(name), spending.costs(name), names.count(name))
        remaining += cost or stats.NOTHING
    needed = f"{position.committed + remaining.high:.2f}"
    return (
        f"Budget reached: {position.parts}.\n"
        f"{len(names)} runs remain, about {remaining.mid:.2f} USD "
        f"({remaining.low:.2f} to {remaining.high:.2f}). "
        f"To continue, raise limits.budget_usd (--config 'limits={{budget_usd: {needed}}}' is "
        "enough for all, 19 times out of 20) and start again: finished runs are kept."
    )


@dataclass(frozen=True)
class Spending:
    """Costs in USD of all paid runs in a results folder, whether the config selects them or not."""

    known: float = 0.0  # cost of all calls whose cost is known
    open: float = 0.0  # upper bound of calls without an answer: in progress, or interrupted
    running: tuple[tuple[str, float], ...] = ()  # run name and cost so far of each running attempt
    finished: tuple[tuple[str, float], ...] = ()  # run name and cost of each finished run

    def costs(self, run_name: str) -> list[float]:
        """Return the costs of an experiment's finished runs."""
        return [cost for name, cost in self.finished if name == run_name]

    def expected(self, assumed: Mapping[str, float | None]) -> float:
        """Return the expected further cost of the running attempts."""
        total = 0.0
        for name, cost in self.running:
            mean = stats.forecast_mean(assumed.get(name), self.costs(name))
            total += max((mean or 0.0) - cost, 0.0)
        return total


def read_spending(results: Results) -> Spending:
    """Return the spending of all finished, running and interrupted runs."""
    known, unanswered = 0.0, 0.0
    running, finished = [], []
    for name, folder in _paid(results):
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is None:
            total, latest = run_result.usage_of_run(folder), _running(results, folder)
            if latest is not None:
                calls = usage.total(run_result.attempt_calls(latest))
                running.append((name, calls.cost_bound_usd or calls.cost_usd))
        elif record.is_paid:
            total = record.usage
            if record.outcome != judgement.INFRA_ERROR:
                finished.append((name, total.cost_usd))
        else:
            continue
        known += total.cost_usd
        unanswered += max((total.cost_bound_usd or 0.0) - total.cost_usd, 0.0)
    return Spending(known, unanswered, tuple(running), tuple(finished))


def _paid(results: Results) -> Iterator[tuple[str, RunFolder]]:
    for experiment in _folders(results.runs):
        document: Any = atomic_io.read_object(experiment / "experiment.json")
        if document.get("replay") or document.get("adopted"):
            continue
        for folder in sorted(experiment.glob("*/*_task/*/f*_f*")):
            yield experiment.name, RunFolder(folder)


def _folders(root: Path) -> Sequence[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _running(results: Results, folder: RunFolder) -> Path | None:
    """Return the folder of the run's running attempt, None without one.

    It is unknown whether a process on another machine runs, but the job of a running attempt holds
    the run's claim. Every new container counts as another machine.
    """
    record = AttemptRecord.read_newest(folder)
    process = None if record is None else Process.parse(record.process)
    if record is None or record.state != RUNNING or process is None or not process.is_alive():
        return None
    key = str(folder.path.relative_to(results.runs))
    if not process.is_local and not locks.is_claimed(results.claims, key):
        return None
    return folder.attempt(record.number)
