"""Make oracle.csv from what the gold patches of every pair came to."""

import sys

from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.tables import oracle_table


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        made = plan.make(config.from_environment())
        print(f"{made.results.oracle_csv}: {oracle_table.tabulate(made)}")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
