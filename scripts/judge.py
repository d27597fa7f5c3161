"""Label a sample of the failed runs of two agents by the model of the config's `judge`."""

import sys

from cooperflow.experiment import config, plan
from cooperflow.jobs import command, judge_job


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        return judge_job.perform(plan.make(config.from_environment()))

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
