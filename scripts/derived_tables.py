"""Make the comparison, the breakdowns, the tables of messages and the headline tables."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("derived_tables"))
