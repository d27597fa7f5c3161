"""Make oracle.csv from the evaluations of the gold patches."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("oracle_table"))
