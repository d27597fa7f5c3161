"""Write images/verified.json, the gate for which the runs wait."""

from cooperflow.images import verification
from cooperflow.jobs import entry_points

if __name__ == "__main__":
    entry_points.run_rule(verification.write_gate, __doc__)
