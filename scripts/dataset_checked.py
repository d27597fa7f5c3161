"""See to the data set: fetch it if it is not there, check it, write its hashes."""

import sys

from cooperflow import processes
from cooperflow.experiment import config, dataset_fetch, plan
from cooperflow.jobs import command


def main() -> int:
    arguments = command.parser(__doc__).parse_args()
    processes.interrupt_on_signals()

    def work() -> int:
        made = plan.make(config.from_environment())
        told = dataset_fetch.settle(made)
        print(
            f"data set: {told['dir']} ({told['source']}): whole for {told['pairs']} pairs of "
            f"{len(told['tasks'])} tasks, hash {told['hash'][:16]}"
        )
        return 0

    try:
        return command.perform(work, arguments.log)
    except processes.Interrupted as why:
        print(f"data set: ended: {why}; start again to go on")
        return 130


if __name__ == "__main__":
    sys.exit(main())
