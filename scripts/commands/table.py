"""Tabulate a half-finished experiment: what is there, whether Snakemake runs or not."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from cooperflow.errors import UserError
from cooperflow.experiment import config, fingerprint, plan
from cooperflow.tables import aggregate, terminal_tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    made = plan.make(config.load(arguments.configfile))
    runs, summary = aggregate.collect(made, partial=True)
    if runs.empty:
        print(f"No run of this experiment has begun in {made.results.root}.")
        return 0
    aggregate.write(made.results.partial, runs, summary)
    terminal_tables.tables(made.results.partial, runs, summary, Console(), fingerprint.notes(made))
    rest = "" if len(runs) == len(made.runs) else "; the others have no row"
    print(f"{len(runs)} of {len(made.runs)} runs have begun{rest}.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")
