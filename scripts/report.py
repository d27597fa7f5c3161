"""Write the report of the tables and the runs: results/report/index.html."""

import sys

from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.jobs import command
from cooperflow.report import build


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        plan = planning.make(config.from_environment())
        print(build.build(plan, plan.results).line())
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
