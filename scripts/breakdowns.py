"""Make the small tables from runs.csv."""

import sys

from cooperflow import atomic_io
from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.tables import breakdowns, run_table


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        made = plan.make(config.from_environment())
        runs = run_table.read_runs(made.results.runs_csv)
        for name, table in breakdowns.tables(runs, made.config.dataset.languages).items():
            path = made.results.table(f"{name}.csv")
            atomic_io.write_text(path, table.to_csv(index=False))
            print(f"{path}: {len(table)} rows")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
