"""Write the sentinel of all images, for which the runs wait."""

from cooperflow.images import verification
from cooperflow.jobs import job

if __name__ == "__main__":
    job.run_rule(verification.write_gate, __doc__)
