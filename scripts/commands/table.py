"""Print the tables of an unfinished experiment, with or without a running session."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from cooperflow.errors import UserError
from cooperflow.experiment import config, fingerprint
from cooperflow.experiment import plan as planning
from cooperflow.tables import findings, run_table, terminal_tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    plan = planning.make(config.load(arguments.configfile))
    runs, summary = run_table.collect(plan, partial=True)
    if runs.empty:
        print(f"No run of this experiment has started in {plan.results.root}.")
        return 0
    run_table.write(plan.results.partial, runs, summary)
    terminal_tables.tables(
        plan.results.partial,
        runs,
        summary,
        Console(),
        fingerprint.notes(plan),
        findings.of_plan(plan, runs),
    )
    rest = "" if len(runs) == len(plan.runs) else "; the others have no row"
    print(f"{len(runs)} of {len(plan.runs)} runs have started{rest}.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")
