"""One attempt at one run."""

import sys

from cooperflow import command, run_job

if __name__ == "__main__":
    sys.exit(command.job(run_job.perform, __doc__))
