"""Run the campaign: `python -m faults [--only PATTERN] [--seed N] [--quick] [--out FILE]`."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from . import engine, files, machine, openhands, processes, provider, security, store
from .report import Campaign, Case, markdown

CASES: tuple[Case, ...] = (
    *processes.CASES,
    *engine.CASES,
    *provider.CASES,
    *files.CASES,
    *security.CASES,
    *machine.CASES,
    *store.CASES,
    *openhands.CASES,
)


def run(cases: Sequence[Case], seed: int, control: Path | None = None) -> Campaign:
    """Run the cases one after another and return the campaign with its report.

    Ctrl-C ends the campaign and keeps the lines so far.
    """
    print(f"seed {seed}", flush=True)
    campaign = Campaign(seed, Random(seed), control)
    for case in cases:
        print(f"{case.name}:", flush=True)
        try:
            case.do(campaign)
        except KeyboardInterrupt:
            campaign.is_interrupted = True
            break
        except Exception:  # a defect of the campaign itself; the other cases are still useful
            with campaign.line(case.name, "the case itself"):
                raise
    return campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression for the names of cases")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="the subset that `make test` runs")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    parser.add_argument("--control", type=Path, help="saved rows of an undisturbed run")
    arguments = parser.parse_args()
    try:
        pattern = re.compile(arguments.only)
    except re.error as error:
        parser.error(f"{arguments.only!r} is not a regular expression: {error}")
    cases = [case for case in CASES if pattern.search(case.name)]
    cases = [case for case in cases if case.quick or not arguments.quick]
    if not cases:
        names = "\n  ".join(case.name for case in CASES)
        parser.error(f"no case's name matches {arguments.only!r}. Cases:\n  {names}")
    seed = int(time.time()) % 100_000 if arguments.seed is None else arguments.seed
    begun = time.monotonic()
    campaign = run(cases, seed, arguments.control)
    table = markdown(campaign, time.monotonic() - begun, "make faults")
    print(f"\n{table}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(table)
    if campaign.is_interrupted:
        print("Interrupted: the table has the faults so far.")
        return 130
    return 0 if all(line.has_passed for line in campaign.lines) else 1


if __name__ == "__main__":
    sys.exit(main())
