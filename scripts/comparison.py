"""Make comparison.csv from runs.csv."""

import sys

from cooperflow import atomic_io
from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.tables import comparison, run_table


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        results = plan.make(config.from_environment()).results
        made = comparison.table(run_table.read_runs(results.runs_csv))
        atomic_io.write_text(results.comparison_csv, made.to_csv(index=False))
        print(f"{results.comparison_csv}: {len(made)} comparisons")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
