"""One attempt at one run."""

import sys

from cooperflow.jobs import client

if __name__ == "__main__":
    sys.exit(client.call("run"))
