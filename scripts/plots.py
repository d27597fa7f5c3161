"""Draw the plots for a paper from the tables."""

from cooperflow import atomic_io, layout
from cooperflow.experiment.plan import Plan
from cooperflow.jobs import command
from cooperflow.plots import plot_data, plot_files


def main(plan: Plan) -> None:
    results = plan.results
    tables = plot_data.load(results)
    for name in layout.PLOTS:
        for kind, data in plot_files.render(name, tables, layout.PLOT_KINDS).items():
            atomic_io.write_bytes(results.plot(name, kind), data)
            print(results.plot(name, kind))


if __name__ == "__main__":
    command.run_rule(main, __doc__)
