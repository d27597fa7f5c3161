"""The campaign's report: a line per fault with its count and the checked invariants."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from . import invariants, lab
from .lab import Lab

USAGE, PAID_ONCE, NOTHING_LEFT, RESUMES, TRUE_OUTCOME = (
    "usage",
    "paid once",
    "nothing left",
    "resumes",
    "true",
)
COLUMNS = (USAGE, PAID_ONCE, NOTHING_LEFT, RESUMES, TRUE_OUTCOME)
Control = Mapping[tuple[str, str, str], Mapping[str, str]]
Expected = tuple[str, str]  # outcome, reason


@dataclass
class Line:
    """The line of a fault in the table."""

    group: str
    fault: str
    times: int = 1
    seconds: float = 0.0
    violations: dict[str, list[str]] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)

    def add(self, column: str, problems: Sequence[str]) -> None:
        self.checked.add(column)
        if problems:
            self.violations.setdefault(column, []).extend(problems)

    def expect(self, column: str, is_met: object, problem: str) -> None:
        """Add a column, with a problem unless the condition is met."""
        self.add(column, [] if is_met else [problem])

    @property
    def has_passed(self) -> bool:
        return not self.violations and bool(self.checked)

    def cells(self) -> list[str]:
        marks = [
            "**no**" if column in self.violations else "yes" if column in self.checked else "-"
            for column in COLUMNS
        ]
        return [self.group, self.fault, str(self.times), *marks]


@dataclass
class Campaign:
    """State that the cases share: random numbers, the undisturbed run, the lines."""

    seed: int
    random: Random
    control_file: Path | None = None  # file with the undisturbed rows for later campaigns
    lines: list[Line] = field(default_factory=list)
    is_interrupted: bool = False
    _control: dict[tuple[str, str, str], dict[str, str]] = field(default_factory=dict)
    image: str = "akhatua/cooperbench-demo-inventory:task1"

    def control(self, pairs: Sequence[Any], settings: Sequence[str]) -> Control:
        """Return the rows of an undisturbed run, which is made when it is first needed."""
        keys = [
            (setting, f"{repo}/{task}", ",".join(map(str, sorted(features))))
            for repo, task, *features in pairs
            for setting in settings
        ]
        if not self._control and self.control_file and self.control_file.exists():
            self._control.update(invariants.control_rows(json.loads(self.control_file.read_text())))
        if not all(key in self._control for key in keys):
            with lab.laboratory(pairs=pairs, settings=settings) as undisturbed:
                assert undisturbed.run().returncode == 0, undisturbed.sessions[-1].stdout[-3000:]
                # A failing undisturbed run would make every fault appear harmless.
                failures = [row for row in undisturbed.rows() if row["outcome"] == "infra_error"]
                assert not failures, [f"{row['run_name']}: {row['reason']}" for row in failures]
                self._control.update(invariants.control_rows(undisturbed.rows()))
            if self.control_file:
                self.control_file.write_text(json.dumps(list(self._control.values())))
        return self._control

    @contextlib.contextmanager
    def line(self, group: str, fault: str, times: int = 1) -> Iterator[Line]:
        """Yield the line of a fault; an exception in the body is recorded in it."""
        line = Line(group, fault, times)
        self.lines.append(line)
        started = time.monotonic()
        try:
            yield line
        except Exception:
            line.add(RESUMES, [traceback.format_exc(limit=-4)])
        line.seconds = time.monotonic() - started
        state = "held" if line.has_passed else "BROKEN"
        print(f"  {fault}: {state} ({line.seconds:.0f} s)", flush=True)
        for column, problems in line.violations.items():
            for problem in problems[:3]:
                print(f"    {column}: {problem[-700:]}", flush=True)

    def expect(self, line: Line, rows: Sequence[Mapping[str, str]], *expected: Expected) -> None:
        """Check that outcome and reason of each row are among the expected ones."""
        found = {(row["outcome"], row["reason"]) for row in rows}
        is_expected = bool(found) and found <= set(expected)
        line.expect(TRUE_OUTCOME, is_expected, f"is {sorted(found)}, expected {expected}")

    def check_invariants(
        self,
        line: Line,
        laboratory: Lab,
        control: Control | None,
        bystanders: invariants.Bystanders | None = None,
        run: bool = True,
    ) -> None:
        """Finish the experiment with the same command after a fault, and check every invariant."""
        if run:
            done = laboratory.run()
            if done.returncode:
                line.add(RESUMES, [f"exit code {done.returncode}: {done.stdout[-1500:]}"])
                return
        line.add(USAGE, invariants.find_usage_errors(laboratory))
        if (
            any(row["outcome"] == "infra_error" for row in laboratory.rows())
            and control is not None
        ):
            for server in laboratory.servers.values():
                server.faults()
            laboratory.retry_infra()
            done = laboratory.run()
            if done.returncode:
                line.add(RESUMES, [f"exit code {done.returncode}: {done.stdout[-1500:]}"])
                return
            line.add(USAGE, invariants.find_usage_errors(laboratory))
        line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory, bystanders))
        line.add(RESUMES, invariants.find_incomplete_results(laboratory))
        if control is not None:
            line.add(RESUMES, invariants.compare_tables(laboratory, control))
        line.add(PAID_ONCE, invariants.find_further_calls(laboratory))
        line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory, bystanders))
        secret = invariants.find_key(laboratory, lab.KEY)
        if secret:
            line.add(TRUE_OUTCOME, secret)


@dataclass(frozen=True)
class Case:
    """One case of the campaign, which may have several lines in the table."""

    name: str
    do: Callable[[Campaign], None]
    quick: bool = False


def markdown(campaign: Campaign, seconds: float, command: str) -> str:
    """Return the table for docs/reliability.md."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    passed = sum(line.has_passed for line in campaign.lines)
    times = sum(line.times for line in campaign.lines)
    text = [
        f"`{command}`, {time.strftime('%Y-%m-%d')}, seed {campaign.seed}, "
        f"{os.cpu_count()} processors, {memory:.0f} GB, {platform.system()} "
        f"{platform.machine()}: {len(campaign.lines)} faults, injected {times} times in "
        f"{seconds / 60:.0f} minutes; all invariants held in {passed} of {len(campaign.lines)}.",
        "",
        "| | fault | times | " + " | ".join(COLUMNS) + " |",
        "| --- | --- | ---: |" + " --- |" * len(COLUMNS),
    ]
    text += [f"| {' | '.join(line.cells())} |" for line in campaign.lines]
    return "\n".join(text) + "\n"
