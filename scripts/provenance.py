"""Write results/provenance.json: the origin of the results."""

import sys

from cooperflow.archive import provenance
from cooperflow.experiment import config, plan
from cooperflow.jobs import command


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        print(provenance.write(plan.make(config.from_environment())))
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
