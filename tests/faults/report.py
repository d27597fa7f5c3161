"""Report of the campaign: a line per fault, with its count and the invariants that held."""

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
    """One fault in the table."""

    group: str
    fault: str
    times: int = 1
    seconds: float = 0.0
    wrong: dict[str, list[str]] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)

    def add(self, column: str, problems: Sequence[str]) -> None:
        self.checked.add(column)
        if problems:
            self.wrong.setdefault(column, []).extend(problems)

    def expect(self, column: str, is_met: object, problem: str) -> None:
        """Add a column, with a problem unless the condition is met."""
        self.add(column, [] if is_met else [problem])

    @property
    def held(self) -> bool:
        return not self.wrong and bool(self.checked)

    def cells(self) -> list[str]:
        marks = [
            "**no**" if column in self.wrong else "yes" if column in self.checked else "-"
            for column in COLUMNS
        ]
        return [self.group, self.fault, str(self.times), *marks]


@dataclass
class Campaign:
    """Shared state of the cases: random numbers, the undisturbed run, the lines."""

    seed: int
    random: Random
    kept: Path | None = None  # where the undisturbed rows are kept for the next campaign
    lines: list[Line] = field(default_factory=list)
    is_interrupted: bool = False
    _control: dict[tuple[str, str, str], dict[str, str]] = field(default_factory=dict)
    image: str = "akhatua/cooperbench-demo-inventory:task1"

    def control(self, pairs: Sequence[Any], settings: Sequence[str]) -> Control:
        """Return the rows of an undisturbed run of these, which is made at the first need."""
        wanted = [
            (setting, f"{repo}/{task}", ",".join(map(str, sorted(features))))
            for repo, task, *features in pairs
            for setting in settings
        ]
        if not self._control and self.kept and self.kept.exists():
            self._control.update(invariants.control_rows(json.loads(self.kept.read_text())))
        if not all(key in self._control for key in wanted):
            with lab.laboratory(pairs=pairs, settings=settings) as quiet:
                assert quiet.run().returncode == 0, quiet.sessions[-1].stdout[-3000:]
                # An undisturbed run that fails would make every fault look harmless.
                failures = [row for row in quiet.rows() if row["outcome"] == "infra_error"]
                assert not failures, [f"{row['run_name']}: {row['reason']}" for row in failures]
                self._control.update(invariants.control_rows(quiet.rows()))
            if self.kept:
                self.kept.write_text(json.dumps(list(self._control.values())))
        return self._control

    @contextlib.contextmanager
    def line(self, group: str, fault: str, times: int = 1) -> Iterator[Line]:
        """Give the line of a fault; an exception is a finding as well."""
        line = Line(group, fault, times)
        self.lines.append(line)
        begun = time.monotonic()
        try:
            yield line
        except Exception:
            line.add(RESUMES, [traceback.format_exc(limit=-4)])
        line.seconds = time.monotonic() - begun
        state = "held" if line.held else "BROKEN"
        print(f"  {fault}: {state} ({line.seconds:.0f} s)", flush=True)
        for column, problems in line.wrong.items():
            for problem in problems[:3]:
                print(f"    {column}: {problem[-700:]}", flush=True)

    def expect(self, line: Line, rows: Sequence[Mapping[str, str]], *wanted: Expected) -> None:
        """Check that the outcome and reason of each row are among the correct ones."""
        found = {(row["outcome"], row["reason"]) for row in rows}
        well = bool(found) and found <= set(wanted)
        line.expect(TRUE_OUTCOME, well, f"is {sorted(found)}, expected {wanted}")

    def check_invariants(
        self,
        line: Line,
        laboratory: Lab,
        control: Control | None,
        others: invariants.Bystanders | None = None,
        run: bool = True,
    ) -> None:
        """After a fault: the same command finishes; then check every invariant."""
        if run:
            done = laboratory.run()
            if done.returncode:
                line.add(RESUMES, [f"exit code {done.returncode}: {done.stdout[-1500:]}"])
                return
        line.add(USAGE, invariants.usage_errors(laboratory))
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
            line.add(USAGE, invariants.usage_errors(laboratory))
        line.add(NOTHING_LEFT, invariants.nothing_left(laboratory, others))
        line.add(RESUMES, invariants.incomplete_results(laboratory))
        if control is not None:
            line.add(RESUMES, invariants.same_tables(laboratory, control))
        line.add(PAID_ONCE, invariants.no_further_call(laboratory))
        line.add(NOTHING_LEFT, invariants.nothing_left(laboratory, others))
        secret = invariants.key_is_secret(laboratory, lab.KEY)
        if secret:
            line.add(TRUE_OUTCOME, secret)


@dataclass(frozen=True)
class Case:
    """One entry of the campaign's table; it may print several lines."""

    name: str
    do: Callable[[Campaign], None]
    quick: bool = False


def markdown(campaign: Campaign, seconds: float, command: str) -> str:
    """Return the table for docs/reliability.md."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    held = sum(line.held for line in campaign.lines)
    times = sum(line.times for line in campaign.lines)
    text = [
        f"`{command}`, {time.strftime('%Y-%m-%d')}, seed {campaign.seed}, "
        f"{os.cpu_count()} processors, {memory:.0f} GB, {platform.system()} "
        f"{platform.machine()}: {len(campaign.lines)} faults, caused {times} times in "
        f"{seconds / 60:.0f} minutes; all invariants held in {held} of {len(campaign.lines)}.",
        "",
        "| | fault | times | " + " | ".join(COLUMNS) + " |",
        "| --- | --- | ---: |" + " --- |" * len(COLUMNS),
    ]
    text += [f"| {' | '.join(line.cells())} |" for line in campaign.lines]
    return "\n".join(text) + "\n"
