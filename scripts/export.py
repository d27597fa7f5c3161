"""Write results/export/: the results in the formats of other tools."""

import sys

from cooperflow.archive import export
from cooperflow.experiment import config, plan
from cooperflow.jobs import command


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        made = plan.make(config.from_environment())
        done = export.write(made)
        print(f"{made.results.export}: {done.trajectories} trajectories, {done.logs} inspect logs")
        if done.without:
            print(f"{done.without} runs have no trajectory: no event of them is recorded.")
        for note in done.notes:
            print(note)
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
