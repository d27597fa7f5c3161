"""Fetch the data set if it is missing, check it, and write its hashes."""

import sys

from cooperflow import processes
from cooperflow.experiment import config, dataset_fetch
from cooperflow.experiment import plan as planning
from cooperflow.jobs import command


def main() -> int:
    arguments = command.parser(__doc__).parse_args()
    processes.interrupt_on_signals()

    def work() -> int:
        plan = planning.make(config.from_environment())
        document = dataset_fetch.settle(plan)
        print(
            f"data set: {document['dir']} ({document['source']}): complete for "
            f"{document['pairs']} pairs of {len(document['tasks'])} tasks, "
            f"hash {document['hash'][:16]}"
        )
        return 0

    try:
        return command.perform(work, arguments.log)
    except processes.Interrupted as why:
        print(f"data set: interrupted: {why}. Start again to resume")
        return 130


if __name__ == "__main__":
    sys.exit(main())
