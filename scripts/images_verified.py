"""Write the sentinel of all images, for which the runs wait."""

import sys

from cooperflow.experiment import config, plan
from cooperflow.images import verification
from cooperflow.jobs import command


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        verification.gate(plan.make(config.from_environment()))
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
