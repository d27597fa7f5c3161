"""Make the report of what the runs left: results/report/index.html."""

import sys
from pathlib import Path

from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.report import build
from cooperflow.tables import aggregate


def main() -> int:
    parser = command.parser(__doc__)
    parser.add_argument("--partial", action="store_true", help="of what is there, by hand")
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="with --partial")
    arguments = parser.parse_args()

    def work() -> int:
        if arguments.partial:
            made = plan.make(config.load(arguments.configfile))
            at = made.results.partial
            runs, summary = aggregate.collect(made, partial=True)
            if runs.empty:
                print(f"No run of this experiment has begun in {made.results.root}.")
                return 0
            aggregate.write(at, runs, summary)
        else:
            made = plan.make(config.from_environment())
            at = made.results
        built = build.build(made, at)
        print(f"{built.index}: {built.runs} runs, {built.pages} pages made")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
