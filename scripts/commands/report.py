"""Write the report of an unfinished experiment: results/partial/report/index.html."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow.jobs import entry_points
from cooperflow.report import build
from cooperflow.tables import run_table


def main() -> int:
    arguments = entry_points.config_parser(__doc__).parse_args()
    plan = entry_points.load_plan(arguments.configfile)
    runs, summary = run_table.collect(plan, partial=True)
    if runs.empty:
        print(f"No run of this experiment has started in {plan.results.root}.")
        return 0
    partial = plan.results.partial
    run_table.write(partial, runs, summary)
    print(build.build(plan, partial).line())
    return 0


if __name__ == "__main__":
    entry_points.run_command(main)
