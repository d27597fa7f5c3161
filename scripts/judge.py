"""Label a sample of the failed runs of two agents by the model of the config's `judge`."""

from cooperflow.jobs import entry_points, judge_job

if __name__ == "__main__":
    entry_points.run_rule(judge_job.perform, __doc__)
