"""Evaluate each agent's patch of one run alone, by the tests of its own feature."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("own"))
