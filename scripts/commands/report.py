"""Write the report of a half-finished experiment: results/partial/report/index.html."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow.errors import UserError
from cooperflow.experiment import config, plan
from cooperflow.report import build
from cooperflow.tables import aggregate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    experiment_plan = plan.make(config.load(arguments.configfile))
    runs, summary = aggregate.collect(experiment_plan, partial=True)
    if runs.empty:
        print(f"No run of this experiment has started in {experiment_plan.results.root}.")
        return 0
    partial = experiment_plan.results.partial
    aggregate.write(partial, runs, summary)
    print(build.build(experiment_plan, partial).line())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")
