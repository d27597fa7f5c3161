"""Write the report of the tables and the runs: results/report/index.html."""

import sys

from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.report import build


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        experiment_plan = plan.make(config.from_environment())
        print(build.build(experiment_plan, experiment_plan.results).line())
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
