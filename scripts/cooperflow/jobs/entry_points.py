"""Entry points of all scripts: command line, log, error messages, and the choice of the job."""

from __future__ import annotations

import argparse
import contextlib
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
from cooperflow.jobs.launcher import TABLE_MODULES
from cooperflow.processes import Interrupted
from cooperflow.redaction import RedactedStream, Redactor

# Module and class of each job, by the name of its script.
JOBS = {
    "run": ("run_job", "RunJob"),
    "eval": ("evaluation_jobs", "EvalJob"),
    "own": ("evaluation_jobs", "OwnJob"),
    "oracle": ("evaluation_jobs", "OracleJob"),
}


class _TeeStream:
    """Text stream that writes to both the terminal and a log."""

    def __init__(self, log: Path, redactor: Redactor) -> None:
        self._redactor = redactor
        self._streams = [sys.stdout]
        with contextlib.suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            self._streams.append(log.open("a", encoding="utf-8", errors="replace"))

    def write(self, text: str) -> int:
        clean = self._redactor.text(text)
        for stream in self._streams:
            # A full disk or a closed terminal must not end a job with a paid result.
            with contextlib.suppress(OSError):
                stream.write(clean)
                stream.flush()
        return len(text)

    def flush(self) -> None:
        pass


def config_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option --configfile of the Makefile's commands."""
    result = argparse.ArgumentParser(description=text)
    result.add_argument("--configfile", type=Path, nargs="*", default=[])
    return result


def load_plan(files: Sequence[Path]) -> Plan:
    """Return the plan for the shipped config with ``files`` merged over it."""
    return planning.make(configuration.load(files))


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command of the Makefile, print expected errors and exit."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")


def run_rule(main: Callable[[Plan], int | None], text: str | None) -> NoReturn:
    """Run a rule's work with the session's plan, print expected errors and exit."""
    sys.exit(work_on_plan(main, parser(text).parse_args().log))


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option --log of all rule scripts."""
    result = argparse.ArgumentParser(description=text)
    result.add_argument("--log", type=Path, help="also write the output to this file")
    return result


def run_named_job(name: str, arguments: Sequence[str]) -> int:
    """Do the job of a script (`run`, `eval`, `aggregate`, ...); return the exit code."""
    options_parser = parser(name)
    if name in TABLE_MODULES:
        work: Callable[[Plan], None] = importlib.import_module(TABLE_MODULES[name]).perform
        return work_on_plan(work, options_parser.parse_args(arguments).log)
    options_parser.add_argument("--run", required=True, help="a run's folder below runs/")
    options_parser.add_argument("--try", dest="number", type=int, default=1, help="1, 2, ...")
    options = options_parser.parse_args(arguments)
    module, job_class = JOBS[name]
    job: Any = getattr(importlib.import_module(f"cooperflow.jobs.{module}"), job_class)
    processes.interrupt_on_signals()

    def perform_job(plan: Plan) -> int:
        last = options.number > int(os.environ.get(environment.RETRIES, "0"))
        return int(job(plan, job.find(plan, options.run), Try(options.number, last)).perform())

    return work_on_plan(perform_job, options.log)


def work_on_plan(work: Callable[[Plan], int | None], log: Path | None) -> int:
    """Call ``work`` with the session's plan, print expected errors, and return the exit code."""
    return report_errors(lambda: work(planning.make(configuration.from_environment())) or 0, log)


def report_errors(work: Callable[[], int], log: Path | None = None) -> int:
    """Call ``work``, print expected errors, and return the exit code.

    An interruption is not printed here: the session prints it once for all of its jobs.
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
