"""Make runs.csv and summary.csv from the documents of the runs."""

import sys

from cooperflow.jobs import launcher_client

if __name__ == "__main__":
    sys.exit(launcher_client.call("aggregate"))
