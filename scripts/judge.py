"""Label a sample of the failed runs of two agents by the model of the config's `judge`."""

from cooperflow.experiment.plan import Plan
from cooperflow.jobs import job, judge_job


def main(plan: Plan) -> int:
    return judge_job.perform(plan)


if __name__ == "__main__":
    job.run_rule(main, __doc__)
