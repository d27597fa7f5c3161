"""Evaluate the gold patches of one pair."""

import sys

from cooperflow.jobs import launcher_client

if __name__ == "__main__":
    sys.exit(launcher_client.call("oracle"))
