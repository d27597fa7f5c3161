"""Circuit breaker: after consecutive infrastructure failures new attempts wait.

While the failures last, one attempt at a time is admitted as a trial, with growing pauses between
trials, and only when the engine answers and the provider's host is reachable; both checks are
free. The first trial that succeeds admits all others.
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
from cooperflow.engine import containers
from cooperflow.errors import EngineError
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import notification
from cooperflow.layout import Results

# The longest pause between two trials, seconds.
LONGEST_PAUSE = 600
# First interval at which a waiting job prints its reason, and interval of its probes, seconds.
MESSAGE_SECONDS, PROBE_SECONDS = 60, 5
# Length of the record of attempts that is read, bytes: some hundred attempts.
TAIL = 65_536
# Time limit of a probe, seconds.
PATIENCE = 5.0


@dataclass(frozen=True)
class Trouble:
    """Several consecutive runs that failed because of the infrastructure."""

    runs: int
    reason: str  # of the last run
    until: float  # time of the next trial, seconds since the epoch


def judge(records: Sequence[Mapping[str, Any]], failures: int, pause: float) -> Trouble | None:
    """Return the trouble that ended attempts (the newest last) show, None if there is none. Pure.

    Args:
        failures: consecutive runs that open the breaker; 0: it stays closed.
        pause: before the first trial, seconds.
    """
    failed = list(takewhile(lambda record: record["reason"], reversed(records)))
    runs = len({record["run"] for record in failed})
    if failures < 1 or runs < failures:
        return None
    wait = min(pause * 2.0 ** min(len(failed) - failures, 16), LONGEST_PAUSE)
    return Trouble(runs, str(failed[0]["reason"]), float(failed[0]["time"]) + wait)


def record_end(results: Results, run: Run, reason: str) -> None:
    """Record the end of an attempt; ``reason``: of an infrastructure failure, otherwise empty."""
    record = {"time": time.time(), "owner": str(processes.session_process()), "run": run.key}
    with contextlib.suppress(OSError):  # a full disk is reported as an outcome
        line = json.dumps({**record, "reason": reason})
        atomic_io.append_line(results.breaker, line, shared=True)


def reset(results: Results) -> None:
    """Discard the records of earlier sessions."""
    Path(results.breaker).unlink(missing_ok=True)


@contextlib.contextmanager
def admission(plan: Plan, run: Run, evaluation: bool = False) -> Iterator[None]:
    """Wait until an attempt at ``run`` may start; while the body is a trial, others wait.

    Args:
        evaluation: an evaluation starts, which needs only the engine.

    Raises:
        Interrupted: asked to end meanwhile.
    """
    with contextlib.ExitStack() as stack:
        is_trial = False
        printed, interval = 0.0, float(MESSAGE_SECONDS)
        started = time.monotonic()
        while (
            obstacle := _obstacle(plan, run, evaluation, is_trial)
        ) and not session_state.halt_message(plan.results):
            if not is_trial and not evaluation:
                is_trial = _try_lock(plan.results, stack)
            if not printed or time.monotonic() - printed > interval:
                interval = min(2 * interval, LONGEST_PAUSE) if printed else interval
                printed = time.monotonic()
                print(f"{run.key}: waiting: {obstacle}", flush=True)
            minutes = (time.monotonic() - started) / 60
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
    """Return the reason why no attempt may start now, empty if it may."""
    config = plan.config.breaker
    if config.failures < 1:
        return ""
    trouble = None
    if not evaluation:
        session = str(processes.session_process())
        records = atomic_io.read_lines(plan.results.breaker, TAIL)
        ends = [record for record in records if record.get("owner") == session]
        trouble = judge(ends, config.failures, config.pause_seconds)
    engine_error = engine_problem() if plan.config.docker else ""
    if engine_error:
        return f"{engine_error}. It continues when the engine answers."
    if trouble is None:
        return ""
    failures = f"the last {trouble.runs} runs ended as {trouble.reason}"
    unreachable = provider_problem(run.experiment.api_base)
    if unreachable:
        return f"{failures}; {unreachable}. It continues when the provider is reachable."
    if not is_trial:
        return f"{failures}; another run is the trial."
    if time.time() < trouble.until:
        return f"{failures}; next trial in {trouble.until - time.time():.0f} s."
    return ""


def _try_lock(results: Results, stack: contextlib.ExitStack) -> bool:
    """Take the lock of the trial; return whether it was free."""
    stream = results.breaker.with_suffix(".lock").open("a")
    if not locks.try_lock(stream.fileno()):
        stream.close()
        return False
    stack.enter_context(stream)
    return True


def engine_problem() -> str:
    """Return why the engine cannot start a run, empty if it can."""
    try:
        containers.engine(PATIENCE).close()
    except EngineError as error:
        return f"Docker does not answer ({str(error)[:120]})"
    return ""


def provider_problem(url: str | None) -> str:
    """Return why the provider's host cannot be reached, empty if it can (or is not known).

    The client library of the calls makes the request, so that a proxy is used for both or for
    neither. No model is called, so nothing is paid; any answer, or a time-out, counts as reached.
    """
    import httpx

    if not url:
        return ""
    try:
        # Nothing secret is sent, and certificates are not verified here.
        httpx.head(url, timeout=PATIENCE, verify=False)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        where = httpx.URL(url)
        port = where.port or (80 if where.scheme == "http" else 443)
        return f"{where.host}:{port} cannot be reached ({error or type(error).__name__})"
    except Exception:  # a broken answer is an answer; an unknown kind of proxy fails the call
        return ""
    return ""
