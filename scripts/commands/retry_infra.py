"""List the runs that ended as infra_error, with their cost so far, and requeue them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from cooperflow import formats, layout, session_state
from cooperflow.formats import fit_table
from cooperflow.jobs import entry_points
from cooperflow.outcomes import run_result


def main() -> int:
    parser = entry_points.config_parser(__doc__)
    parser.add_argument("--list", action="store_true", help="list them only")
    arguments = parser.parse_args()
    plan = entry_points.load_plan(arguments.configfile)
    broken = run_result.broken_runs(plan)
    if not broken:
        print("No run ended as infra_error: nothing to requeue.")
        return 0
    table = Table(box=None, pad_edge=False)
    for name in ("run", "reason", "attempts", "cost so far"):
        table.add_column(name, justify="right" if name in ("attempts", "cost so far") else "left")
    for entry in broken:
        table.add_row(entry.run.key, entry.reason, str(entry.attempts), formats.usd(entry.cost_usd))
    console = Console()
    console.print(fit_table(table, console.width, ["attempts", "cost so far", "reason"]))
    print(f"{len(broken)} runs, {formats.usd(sum(entry.cost_usd for entry in broken))} so far.")
    if arguments.list:
        return 0
    session_state.hold_lock(plan.results, layout.REPOSITORY)
    run_result.requeue(plan, broken)
    print("Requeued: `snakemake -j 4 all` runs them again, and no others.")
    return 0


if __name__ == "__main__":
    entry_points.run_command(main)
