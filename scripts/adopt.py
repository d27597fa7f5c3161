"""Import the runs of plain cooperbench that `models.NAME.adopt` lists."""

from cooperflow.archive import adoption
from cooperflow.experiment.plan import Plan
from cooperflow.jobs import entry_points


def main(plan: Plan) -> None:
    print(adoption.adopt(plan))


if __name__ == "__main__":
    entry_points.run_rule(main, __doc__)
