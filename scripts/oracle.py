"""The gold patches of one pair, graded once; or the table of what all of them said."""

import sys

from cooperflow import child, command, config, oracle_job, plan, processes
from cooperflow.errors import UserError
from cooperflow.run_job import Try


def main() -> int:
    parser = command.parser(__doc__)
    parser.add_argument("--table", action="store_true", help="only write oracle.csv")
    parser.add_argument("--repo")
    parser.add_argument("--task", type=int)
    parser.add_argument("--features", help="two feature numbers, as 1,2")
    parser.add_argument("--repeat", type=int, default=1, help="1, 2, ...")
    parser.add_argument("--try", dest="number", type=int, default=1, help="1, 2, ...")
    parser.add_argument("--retries", type=int, default=0, help="how many tries may follow")
    arguments = parser.parse_args()
    processes.interrupt_on_signals()

    def work() -> int:
        made = plan.make(config.from_environment())
        if arguments.table:
            print(f"{made.results.oracle_csv}: {oracle_job.tabulate(made)}")
            return 0
        wanted = tuple(sorted(int(f) for f in arguments.features.split(",")))
        for pair in made.pairs:
            if (pair.repo, pair.task_id, pair.sorted_features) == (
                arguments.repo,
                arguments.task,
                wanted,
            ):
                child.preload()
                last = arguments.number > arguments.retries
                return oracle_job.perform(made, pair, arguments.repeat, Try(arguments.number, last))
        raise UserError(f"The config has no pair {arguments.repo}/{arguments.task} {wanted}.")

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
