"""Write results/export/: the results in the formats of other tools."""

import sys

from cooperflow.archive import export
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.jobs import command


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        plan = planning.make(config.from_environment())
        counts = export.write(plan)
        print(
            f"{plan.results.export}: {counts.trajectories} trajectories, {counts.logs} inspect logs"
        )
        if counts.without:
            print(f"{counts.without} runs have no trajectory: no event of them is recorded.")
        for note in counts.notes:
            print(note)
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
