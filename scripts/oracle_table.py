"""Make oracle.csv from the evaluations of the gold patches."""

import sys

from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.jobs import command
from cooperflow.tables import oracle


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        plan = planning.make(config.from_environment())
        print(f"{plan.results.oracle_csv}: {oracle.write_table(plan)}")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
