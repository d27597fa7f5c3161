"""Entry point of the scripts: arguments, log, and errors printed without a traceback."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cooperflow import environment, processes, redaction
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import config as configuration
from cooperflow.experiment import plan as planning
from cooperflow.experiment.plan import Plan
from cooperflow.jobs.job import INTERRUPTED, Try
from cooperflow.jobs.launcher_client import TABLE_MODULES
from cooperflow.redaction import RedactedStream, Redactor

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


def run(main: Callable[[], int]) -> NoReturn:
    """Do a command's work, print expected errors and exit."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")


def run_rule(main: Callable[[Plan], int | None], text: str | None) -> NoReturn:
    """Do a rule's work on the session's plan, print expected errors and exit."""
    sys.exit(_perform_on_plan(main, parser(text).parse_args().log))


def _perform_on_plan(work: Callable[[Plan], int | None], log: Path | None) -> int:
    return perform(lambda: work(planning.make(configuration.from_environment())) or 0, log)


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


def perform(work: Callable[[], int], log: Path | None = None) -> int:
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
    except (KeyboardInterrupt, processes.Interrupted):
        return INTERRUPTED


def _redactor() -> Redactor:
    """Return a redactor of the keys of the session's models."""
    try:
        names = configuration.from_environment().key_names
    except (UserError, ValueError):
        return Redactor(())
    return Redactor.of(redaction.raw_values(names, os.environ))


def perform_named(name: str, arguments: Sequence[str]) -> int:
    """Do the job that a script names (`run`, `eval`, `aggregate`, ...); return the exit code."""
    if name in TABLE_MODULES:
        return _perform_table(name, arguments)
    module, job_class = JOBS[name]
    job: Any = getattr(importlib.import_module(f"cooperflow.jobs.{module}"), job_class)
    options = job_parser(name).parse_args(arguments)
    processes.interrupt_on_signals()

    def perform_job() -> int:
        plan = planning.make(configuration.from_environment())
        last = options.number > int(os.environ.get(environment.RETRIES, "0"))
        return int(job(plan, job.find(plan, options.run), Try(options.number, last)).perform())

    return perform(perform_job, options.log)


def _perform_table(name: str, arguments: Sequence[str]) -> int:
    work: Callable[[Plan], None] = importlib.import_module(TABLE_MODULES[name]).perform
    return _perform_on_plan(work, parser(name).parse_args(arguments).log)
