"""One attempt at one run."""

import sys

from cooperflow import client

if __name__ == "__main__":
    sys.exit(client.call("run"))
