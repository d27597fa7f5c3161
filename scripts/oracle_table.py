"""Make oracle.csv from the evaluations of the gold patches."""

from cooperflow.experiment.plan import Plan
from cooperflow.jobs import command
from cooperflow.tables import oracle


def main(plan: Plan) -> None:
    print(f"{plan.results.oracle_csv}: {oracle.write_table(plan)}")


if __name__ == "__main__":
    command.run_rule(main, __doc__)
