"""Base class of the rules' jobs: lock, admission, execution, then retry or publication."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, locks, processes, session_state
from cooperflow.experiment.plan import Plan
from cooperflow.processes import Interrupted

# Exit codes of a job, from sysexits.h.
DONE = 0
FAILED = 1
TRY_AGAIN = 75
HALTED = 77
INTERRUPTED = 130

# Longest wait for a process of an earlier session that is ending, seconds.
CLAIM_SECONDS = 90


@dataclass(frozen=True)
class Try:
    """One of Snakemake's tries of a job."""

    number: int  # 1, 2, 3
    last: bool


@dataclass(frozen=True)
class Conclusion:
    """Result of a job's execution, which is tried again if possible, and otherwise published."""

    summary: str
    again: bool
    publish: Callable[[], int]  # returns the exit code of the job


def corrupt_result(path: Path) -> Conclusion:
    """Print that a run's result.json is corrupt, and return a failure that is not retried."""
    print(f"{path} is corrupt. Remove it to restore it from an attempt or to repeat the run.")
    return Conclusion("", False, lambda: FAILED)


class Job(abc.ABC):
    """One invocation of a rule: orphan check, lock, admission, execution, retry or publication."""

    def __init__(self, plan: Plan, key: str, this_try: Try, lock: str | None = None) -> None:
        """``key`` names the job in messages; ``lock`` names its lock and is the key by default."""
        self.plan, self.key, self.this_try = plan, key, this_try
        self._lock = lock or key

    @staticmethod
    def find(plan: Plan, key: str) -> Any:
        """Return the subject of a job, by default a run, for the key in its script's arguments."""
        return plan.run(key)

    def perform(self) -> int:
        """Do the job and return its exit code."""
        results = self.plan.results
        try:
            if reason := session_state.orphan_reason(results):
                print(f"{self.key}: not started: {reason}.")
                return INTERRUPTED
            with locks.claim(results.claims, self._lock, claim_seconds(self.plan)):
                for folder in self.folders():
                    atomic_io.remove_temporary_files(folder)
                code = self._execute_admitted()
            self.release()
            return code
        except Interrupted as reason:
            print(f"{self.key}: interrupted: {reason}")
            return INTERRUPTED

    def _execute_admitted(self) -> int:
        if self.is_finished():
            return DONE
        self.prepare()
        with self.admission():
            conclusion = self.execute()
            if conclusion.again and not self.this_try.last:
                print(f"{self.key}: {conclusion.summary}; retrying.")
                return TRY_AGAIN
            return conclusion.publish()

    def folders(self) -> Iterable[Path]:
        """Return the folders that may contain partial files of killed processes."""
        return ()

    def is_finished(self) -> bool:
        """Return whether the job already has a result; restore the result if necessary."""
        return False

    def prepare(self) -> None:  # noqa: B027
        """Wait or clean up before admission."""

    def admission(self) -> contextlib.AbstractContextManager[None]:
        """Return the admission (circuit breaker, budget) of this job."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def execute(self) -> Conclusion:
        """Do the work of the job and judge its result."""

    def release(self) -> None:  # noqa: B027
        """Release resources that no other job needs any more."""


def claim_seconds(plan: Plan) -> float:
    """Return the longest wait for the lock of a job, seconds.

    On a cluster the lock may belong to a job of an earlier session that still runs and whose result
    is used; elsewhere the other job is ending.
    """
    limits = plan.config.limits
    longest = max(limits.run_seconds, limits.eval_seconds)
    return CLAIM_SECONDS + (longest if processes.on_a_node() else 0)
