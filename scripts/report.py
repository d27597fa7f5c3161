"""Make the report of what the runs left: results/report/index.html."""

import sys

from cooperflow import command, config, plan
from cooperflow.report import build


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        built = build.build(plan.make(config.from_environment()))
        print(f"{built.index}: {built.runs} runs, {built.pages} pages made")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
