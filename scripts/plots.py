"""Draw the plots for a paper from the tables."""

import sys

from cooperflow import atomic, layout
from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.plots import files, plotdata


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        results = plan.make(config.from_environment()).results
        tables = plotdata.load(results)
        for name in layout.PLOTS:
            for kind, data in files.render(name, tables, layout.PLOT_KINDS).items():
                atomic.write_bytes(results.plot(name, kind), data)
                print(results.plot(name, kind))
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
