"""Draw the plots for a paper from the tables."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("plots"))
