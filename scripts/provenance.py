"""Write results/provenance.json: the origin of the results."""

from cooperflow.archive import provenance
from cooperflow.experiment.plan import Plan
from cooperflow.jobs import command


def main(plan: Plan) -> None:
    print(provenance.write(plan))


if __name__ == "__main__":
    command.run_rule(main, __doc__)
