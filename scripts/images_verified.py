"""Write the sentinel of all images, for which the runs wait."""

from cooperflow.experiment.plan import Plan
from cooperflow.images import verification
from cooperflow.jobs import job


def main(plan: Plan) -> None:
    verification.gate(plan)


if __name__ == "__main__":
    job.run_rule(main, __doc__)
