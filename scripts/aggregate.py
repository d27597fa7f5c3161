"""Make runs.csv and summary.csv from the documents of the runs."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("aggregate"))
