"""Is it of any use to begin another attempt now? After failures in a row the next ones wait.

While the trouble lasts one attempt at a time is let through to see, with growing pauses between
them, and only when the engine answers and the provider's host can be reached: neither costs
anything. The first one that goes well lets all others go on.
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

from cooperflow import atomic_io, halt, locks, processes
from cooperflow.engine import probes
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import notification
from cooperflow.layout import Results

# The longest pause between two attempts that look whether the trouble is over, seconds.
LONGEST = 600
# How often a waiting job says so (at first), and how often it probes, seconds.
SAY, LOOK = 60, 5
# How much of the attempts' ends is read: some hundred, of a file that grows with each run, bytes.
TAIL = 65_536


@dataclass(frozen=True)
class Trouble:
    """Several runs in a row ended for reasons of infrastructure."""

    runs: int
    reason: str  # of the last one
    until: float  # when the next attempt may look whether it is over, seconds since the epoch


def judge(records: Sequence[Mapping[str, Any]], failures: int, pause: float) -> Trouble | None:
    """Return the trouble that the ends of attempts (the newest last) tell of. Pure."""
    bad = list(takewhile(lambda record: record["reason"], reversed(records)))
    runs = len({record["run"] for record in bad})
    if failures < 1 or runs < failures:
        return None
    wait = min(pause * 2.0 ** min(len(bad) - failures, 16), LONGEST)
    return Trouble(runs, str(bad[0]["reason"]), float(bad[0]["time"]) + wait)


def note(results: Results, run: Run, reason: str) -> None:
    """Note how an attempt ended; ``reason``: of an infrastructure failure, else empty."""
    record = {"time": time.time(), "owner": str(processes.session_process()), "run": run.key}
    with contextlib.suppress(OSError):  # a full disk is told of elsewhere
        line = json.dumps({**record, "reason": reason})
        atomic_io.append_line(results.breaker, line, shared=True)


def forget(results: Results) -> None:
    """Begin a start with a clean slate."""
    Path(results.breaker).unlink(missing_ok=True)


@contextlib.contextmanager
def passage(plan: Plan, run: Run, graded: bool = False) -> Iterator[None]:
    """Wait until an attempt at ``run`` may begin, and keep others waiting if it is a trial.

    Args:
        graded: it is to be graded, which needs the engine alone.

    Raises:
        Interrupted: asked to end meanwhile.
    """
    with contextlib.ExitStack() as stack:
        trial = False
        said, silence = 0.0, float(SAY)
        since = time.monotonic()
        while (why := _obstacle(plan, run, graded, trial)) and not halt.current(plan.results):
            if not trial and not graded:
                trial = _try_hold(plan.results, stack)
            if not said or time.monotonic() - said > silence:
                silence = min(2 * silence, LONGEST) if said else silence
                said = time.monotonic()
                print(f"{run.key}: waits: {why}", flush=True)
            waited = (time.monotonic() - since) / 60
            if waited >= plan.config.breaker.notify_minutes:
                notification.send(
                    plan, notification.WAITING, f"Runs wait for {waited:.0f} min: {why}"
                )
            for _ in range(LOOK * 5):
                processes.raise_if_orphaned()
                time.sleep(0.2)
        if said:
            print(f"{run.key}: goes on", flush=True)
        yield


def _obstacle(plan: Plan, run: Run, graded: bool, trial: bool) -> str:
    """Return why no attempt may begin now, empty if one may."""
    config = plan.config.breaker
    if config.failures < 1:
        return ""
    trouble = None
    if not graded:
        mine = str(processes.session_process())
        records = atomic_io.read_lines(plan.results.breaker, TAIL)
        ends = [record for record in records if record.get("owner") == mine]
        trouble = judge(ends, config.failures, config.pause_seconds)
    lost = probes.engine_problem() if plan.config.docker else ""
    if lost:
        return f"{lost}. It goes on when it does."
    if trouble is None:
        return ""
    told = f"the last {trouble.runs} runs ended as {trouble.reason}"
    unreachable = probes.provider_problem(run.experiment.model.api_base)
    if unreachable:
        return f"{told}; {unreachable}. It goes on when it can."
    if not trial:
        return f"{told}; another run is to see whether it is over."
    if time.time() < trouble.until:
        return f"{told}; tried again in {trouble.until - time.time():.0f} s."
    return ""


def _try_hold(results: Results, stack: contextlib.ExitStack) -> bool:
    """Be the one that sees whether the trouble is over, if there is none yet."""
    stream = results.breaker.with_suffix(".lock").open("a")
    if not locks.try_lock(stream.fileno()):
        stream.close()
        return False
    stack.enter_context(stream)
    return True
