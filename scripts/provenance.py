"""Write results/provenance.json: the origin of the results."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("provenance"))
