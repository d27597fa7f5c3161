"""Evaluate each agent's own feature in one run."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("own"))
