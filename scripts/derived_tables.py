"""Make the comparison, the breakdowns, the tables of messages and the headline tables."""

import sys

from cooperflow.jobs import launcher_client

if __name__ == "__main__":
    sys.exit(launcher_client.call("derived_tables"))
