"""Write the report of the tables and the runs: results/report/index.html."""

from cooperflow.experiment.plan import Plan
from cooperflow.jobs import command
from cooperflow.report import build


def main(plan: Plan) -> None:
    print(build.build(plan, plan.results).line())


if __name__ == "__main__":
    command.run_rule(main, __doc__)
