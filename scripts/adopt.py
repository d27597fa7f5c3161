"""Import the runs of plain cooperbench that `models.NAME.adopt` lists."""

import sys

from cooperflow.archive import adoption
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.jobs import command


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        print(adoption.adopt(planning.make(config.from_environment())))
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
