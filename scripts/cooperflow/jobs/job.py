"""Jobs of scripts: the entry point (arguments, log, errors), and the steps that jobs share."""

from __future__ import annotations

import abc
import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cooperflow import atomic_io, environment, locks, processes, redaction, session_state
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import config as configuration
from cooperflow.experiment import plan as planning
from cooperflow.experiment.plan import Plan
from cooperflow.jobs.launcher import TABLE_MODULES
from cooperflow.processes import Interrupted
from cooperflow.redaction import RedactedStream, Redactor

# Exit codes of a job, as in sysexits.h.
DONE = 0
FAILED = 1
TRY_AGAIN = 75
HALTED = 77
INTERRUPTED = 130

# Longest wait for an ending process of an earlier session, seconds.
CLAIM_SECONDS = 90

# Module and class of the job that a script names.
JOBS = {
    "run": ("run_job", "RunJob"),
    "eval": ("evaluation_jobs", "EvalJob"),
    "own": ("evaluation_jobs", "OwnJob"),
    "oracle": ("evaluation_jobs", "OracleJob"),
}


class _TeeStream:
    """Text stream that writes to the terminal and to a log."""

    def __init__(self, log: Path, redactor: Redactor) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._redactor = redactor
        self._streams = (sys.stdout, log.open("a", encoding="utf-8", errors="replace"))

    def write(self, text: str) -> int:
        clean = self._redactor.text(text)
        for stream in self._streams:
            stream.write(clean)
            stream.flush()
        return len(text)

    def flush(self) -> None:
        pass


def config_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the argument of the commands of the Makefile."""
    result = argparse.ArgumentParser(description=text)
    result.add_argument("--configfile", type=Path, nargs="*", default=[])
    return result


def load_plan(files: Sequence[Path]) -> Plan:
    """Return the plan of the shipped config with ``files`` merged over it."""
    return planning.make(configuration.load(files))


def run_command(main: Callable[[], int]) -> NoReturn:
    """Do a command's work, print expected errors and exit."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")


def run_rule(main: Callable[[Plan], int | None], text: str | None) -> NoReturn:
    """Do a rule's work on the session's plan, print expected errors and exit."""
    sys.exit(_work_on_plan(main, parser(text).parse_args().log))


def _work_on_plan(work: Callable[[Plan], int | None], log: Path | None) -> int:
    return report_errors(lambda: work(planning.make(configuration.from_environment())) or 0, log)


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the argument of all rule scripts."""
    result = argparse.ArgumentParser(description=text)
    result.add_argument("--log", type=Path, help="also write the output to this file")
    return result


def job_parser(text: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of a script for one run."""
    result = parser(text)
    result.add_argument("--run", required=True, help="a run's folder below runs/")
    result.add_argument("--try", dest="number", type=int, default=1, help="1, 2, ...")
    return result


def report_errors(work: Callable[[], int], log: Path | None = None) -> int:
    """Do a script's work and print expected errors. Return the exit code.

    An interruption is printed by the session, once for all of its jobs.
    """
    redactor = _redactor()
    sys.stderr = RedactedStream(sys.stderr, redactor)
    if log is not None:
        sys.stdout = _TeeStream(log, redactor)
    try:
        return work()
    except (UserError, EngineError) as error:
        print(error)
        return 1
    except (KeyboardInterrupt, Interrupted):
        return INTERRUPTED


def _redactor() -> Redactor:
    """Return a redactor of the session's secrets."""
    try:
        config = configuration.from_environment()
    except (UserError, ValueError):
        return Redactor(())
    return Redactor.of(redaction.secrets(config.key_names, os.environ, config.redis.url))


def run_named_job(name: str, arguments: Sequence[str]) -> int:
    """Do the job that a script names (`run`, `eval`, `aggregate`, ...); return the exit code."""
    if name in TABLE_MODULES:
        return _run_table(name, arguments)
    module, job_class = JOBS[name]
    job: Any = getattr(importlib.import_module(f"cooperflow.jobs.{module}"), job_class)
    options = job_parser(name).parse_args(arguments)
    processes.interrupt_on_signals()

    def perform_job() -> int:
        plan = planning.make(configuration.from_environment())
        last = options.number > int(os.environ.get(environment.RETRIES, "0"))
        return int(job(plan, job.find(plan, options.run), Try(options.number, last)).perform())

    return report_errors(perform_job, options.log)


def _run_table(name: str, arguments: Sequence[str]) -> int:
    work: Callable[[Plan], None] = importlib.import_module(TABLE_MODULES[name]).perform
    return _work_on_plan(work, parser(name).parse_args(arguments).log)


@dataclass(frozen=True)
class Try:
    """Snakemake's count of tries at a job."""

    number: int  # 1, 2, 3
    last: bool


@dataclass(frozen=True)
class Conclusion:
    """Result of a job's execution: tried again if possible, otherwise published."""

    summary: str
    again: bool
    publish: Callable[[], int]  # returns the exit code of the job


def corrupt_result(path: Path) -> Conclusion:
    """Print that a run's result.json is corrupt and return a failure that no retry changes."""
    print(f"{path} is corrupt. Remove it to have it restored or the run repeated.")
    return Conclusion("", False, lambda: FAILED)


class Job(abc.ABC):
    """One invocation of a rule, from the orphan check to a retry or the publication."""

    def __init__(self, plan: Plan, key: str, this_try: Try, lock: str | None = None) -> None:
        """``key`` names the job in messages; ``lock``: the name of its lock, the key by default."""
        self.plan, self.key, self.this_try = plan, key, this_try
        self._lock = lock or key

    @staticmethod
    def find(plan: Plan, key: str) -> Any:
        """Return the subject of a job from the key in its script's arguments: a run."""
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
        """Return the folders that may hold partial files of killed processes."""
        return ()

    def is_finished(self) -> bool:
        """Return whether the job has a result already, which is restored if necessary."""
        return False

    def prepare(self) -> None:  # noqa: B027
        """Wait or clean up before the execution."""

    def admission(self) -> contextlib.AbstractContextManager[None]:
        """Return the circuit breaker's admission of this job."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def execute(self) -> Conclusion:
        """Do the work of the job and judge its result."""

    def release(self) -> None:  # noqa: B027
        """Release resources that no other job needs."""


def claim_seconds(plan: Plan) -> float:
    """Return the longest wait for the lock of a job, seconds.

    On a cluster it may be a job of an earlier session, which continues and whose result is waited
    for; elsewhere it is ending.
    """
    limits = plan.config.limits
    longest = max(limits.run_seconds, limits.eval_seconds)
    return CLAIM_SECONDS + (longest if processes.on_a_node() else 0)
