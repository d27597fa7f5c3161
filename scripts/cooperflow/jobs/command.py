"""What the rules' scripts share: their arguments, their log, their way to fail."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cooperflow import environment, processes, redaction
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import config as configuration
from cooperflow.experiment import plan as planning
from cooperflow.experiment.plan import Plan
from cooperflow.jobs.attempt_number import Try
from cooperflow.redaction import RedactedStream, Redactor


class _Both:
    """Prints to the terminal and to a log."""

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


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the argument that all scripts of rules have."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--log", type=Path, help="also write what is printed to this file")
    return made


def job_parser(text: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of a script that works at one run."""
    made = parser(text)
    made.add_argument("--run", required=True, help="a run's folder below runs/")
    made.add_argument("--try", dest="number", type=int, default=1, help="1, 2, ...")
    return made


def perform(work: Callable[[], int], log: Path | None = None) -> int:
    """Do a script's work; tell a user's error in its own words. Return the exit code."""
    redactor = _redactor()
    sys.stderr = RedactedStream(sys.stderr, redactor)
    if log is not None:
        sys.stdout = _Both(log, redactor)
    try:
        return work()
    except (UserError, EngineError) as error:
        print(error)
        return 1


def _redactor() -> Redactor:
    """Return what removes the keys of the session's models from everything printed here."""
    try:
        models = configuration.from_environment().models.values()
    except (UserError, ValueError):
        return Redactor(())
    names = [model.api_key for model in models if model is not None]
    return Redactor.of(redaction.raw_values(names, os.environ))


def perform_named(name: str, arguments: Sequence[str]) -> int:
    """Do the job that a rule's script names (`run`, `eval`, `oracle`); return the exit code."""
    module = importlib.import_module(f"cooperflow.jobs.{name}_job")
    work: Callable[[Plan, Any, Try], int] = module.perform
    find: Callable[[Plan, str], Any] = getattr(module, "find", Plan.run)
    given = job_parser(name).parse_args(arguments)
    processes.interrupt_on_signals()

    def found() -> int:
        plan = planning.make(configuration.from_environment())
        last = given.number > int(os.environ.get(environment.RETRIES, "0"))
        return work(plan, find(plan, given.run), Try(given.number, last))

    return perform(found, given.log)
