"""Write results/provenance.json: the origin of the results."""

import sys

from cooperflow.jobs import launcher_client

if __name__ == "__main__":
    sys.exit(launcher_client.call("provenance"))
