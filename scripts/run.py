"""Make one attempt at a run."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("run"))
