"""Make runs.csv and summary.csv from what the runs left."""

import sys

from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.tables import aggregate


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        made = plan.make(config.from_environment())
        runs, summary = aggregate.make(made)
        print(f"{made.results.summary_csv}: {len(summary)} experiments, {len(runs)} runs")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
