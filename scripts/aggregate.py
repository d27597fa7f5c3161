"""Make runs.csv and summary.csv from the documents of the runs."""

from cooperflow.experiment.plan import Plan
from cooperflow.jobs import command
from cooperflow.tables import run_table


def main(plan: Plan) -> None:
    runs, summary = run_table.make(plan)
    print(f"{plan.results.summary_csv}: {len(summary)} experiments, {len(runs)} runs")


if __name__ == "__main__":
    command.run_rule(main, __doc__)
