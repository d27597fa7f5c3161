"""List the runs that ended as infra_error, with their cost so far, and put them back to be done."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from cooperflow import layout, session_lock
from cooperflow.errors import UserError
from cooperflow.experiment import config, plan
from cooperflow.outcomes import requeue
from cooperflow.terminal import fit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[])
    parser.add_argument("--list", action="store_true", help="only list them")
    arguments = parser.parse_args()
    made = plan.make(config.load(arguments.configfile))
    broken = requeue.find(made)
    if not broken:
        print("No run ended as infra_error: nothing to put back.")
        return 0
    table = Table(box=None, pad_edge=False)
    for name in ("run", "reason", "attempts", "cost so far"):
        table.add_column(name, justify="right" if name in ("attempts", "cost so far") else "left")
    for one in broken:
        table.add_row(one.run.key, one.reason, str(one.attempts), f"${one.cost_usd:.4f}")
    console = Console()
    console.print(fit(table, console.width, ["attempts", "cost so far", "reason"]))
    print(f"{len(broken)} runs, ${sum(one.cost_usd for one in broken):.4f} so far.")
    if arguments.list:
        return 0
    session_lock.hold(made.results, layout.REPOSITORY)
    requeue.put_back(made, broken)
    print("Put back: `snakemake -j 4 all` does them again, and nothing else.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")
