"""What the rules' scripts share: their arguments, their log, their way to fail."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cooperflow import config as configuration
from cooperflow import plan as planning
from cooperflow import processes
from cooperflow.containers import EngineError
from cooperflow.errors import UserError
from cooperflow.plan import Plan
from cooperflow.run_job import Try


class _Both:
    """Prints to the terminal and to a log."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._streams = (sys.stdout, log.open("a", encoding="utf-8", errors="replace"))

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
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
    made.add_argument("--run-name", required=True)
    made.add_argument("--repo", required=True)
    made.add_argument("--task", type=int, required=True)
    made.add_argument("--features", required=True, help="two feature numbers, as 1,2")
    made.add_argument("--try", dest="number", type=int, default=1, help="1, 2, ...")
    made.add_argument("--retries", type=int, default=0, help="how many tries may follow the first")
    return made


def perform(work: Callable[[], int], log: Path | None = None) -> int:
    """Do a script's work; tell a user's error in its own words. Return the exit code."""
    if log is not None:
        sys.stdout = _Both(log)
    try:
        return work()
    except (UserError, EngineError) as error:
        print(error)
        return 1


def perform_named(name: str, arguments: Sequence[str]) -> int:
    """Do the job that a rule's script names (`run`, `eval`, `oracle`); return the exit code."""
    module = importlib.import_module(f"cooperflow.{name}_job")
    work: Callable[[Plan, Any, Try], int] = module.perform
    find: Callable[..., Any] = getattr(module, "find", Plan.run)
    given = job_parser(name).parse_args(arguments)
    processes.interrupt_on_signals()

    def found() -> int:
        plan = planning.make(configuration.from_environment())
        features = tuple(int(f) for f in given.features.split(","))
        run = find(plan, given.run_name, given.repo, given.task, features)
        return work(plan, run, Try(given.number, given.number > given.retries))

    return perform(found, given.log)
