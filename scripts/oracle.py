"""The grading of the gold patches of one pair."""

import sys

from cooperflow.jobs import client

if __name__ == "__main__":
    sys.exit(client.call("oracle"))
