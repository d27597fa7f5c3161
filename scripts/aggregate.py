"""Make runs.csv and summary.csv from the documents of the runs."""

import sys

from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.jobs import command
from cooperflow.tables import run_table


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        plan = planning.make(config.from_environment())
        runs, summary = run_table.make(plan)
        print(f"{plan.results.summary_csv}: {len(summary)} experiments, {len(runs)} runs")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
