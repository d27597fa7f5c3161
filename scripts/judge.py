"""Label a sample of the failed runs of two agents by the model of the config's `judge`."""

from cooperflow.jobs import job, judge_job

if __name__ == "__main__":
    job.run_rule(judge_job.perform, __doc__)
