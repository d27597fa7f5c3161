"""Write the report of an unfinished experiment: results/partial/report/index.html."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow.jobs import job
from cooperflow.report import build
from cooperflow.tables import run_table


def main() -> int:
    arguments = job.config_parser(__doc__).parse_args()
    plan = job.load_plan(arguments.configfile)
    runs, summary = run_table.collect(plan, partial=True)
    if runs.empty:
        print(f"No run of this experiment has started in {plan.results.root}.")
        return 0
    partial = plan.results.partial
    run_table.write(partial, runs, summary)
    print(build.build(plan, partial).line())
    return 0


if __name__ == "__main__":
    job.run_command(main)
