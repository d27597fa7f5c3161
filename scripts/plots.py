"""Draw the plots for a paper from the tables."""

import sys

from cooperflow import atomic_io, layout
from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.plots import plot_data, plot_files


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        results = plan.make(config.from_environment()).results
        tables = plot_data.load(results)
        for name in layout.PLOTS:
            for kind, data in plot_files.render(name, tables, layout.PLOT_KINDS).items():
                atomic_io.write_bytes(results.plot(name, kind), data)
                print(results.plot(name, kind))
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
