"""Print the tables of an unfinished experiment, with or without a running session."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from cooperflow.experiment import fingerprint
from cooperflow.jobs import job
from cooperflow.tables import derived_tables, findings, run_table


def main() -> int:
    arguments = job.config_parser(__doc__).parse_args()
    plan = job.load_plan(arguments.configfile)
    runs, summary = run_table.collect(plan, partial=True)
    if runs.empty:
        print(f"No run of this experiment has started in {plan.results.root}.")
        return 0
    run_table.write(plan.results.partial, runs, summary)
    derived_tables.print_tables(
        plan.results.partial,
        runs,
        summary,
        Console(),
        fingerprint.notes(plan),
        findings.of_plan(plan, runs),
    )
    for entry in findings.notable_runs(plan, runs):
        print(f"look at  {entry.line} {entry.name}")
    rest = "" if len(runs) == len(plan.runs) else "; the others have no row"
    print(f"{len(runs)} of {len(plan.runs)} runs have started{rest}.")
    return 0


if __name__ == "__main__":
    job.run_command(main)
