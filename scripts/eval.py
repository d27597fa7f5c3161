"""The grading of one run."""

import sys

from cooperflow import command, eval_job

if __name__ == "__main__":
    sys.exit(command.job(eval_job.perform, __doc__))
