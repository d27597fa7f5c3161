"""Make oracle.csv from the evaluations of the gold patches."""

import sys

from cooperflow.jobs import launcher_client

if __name__ == "__main__":
    sys.exit(launcher_client.call("oracle_table"))
