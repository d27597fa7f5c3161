"""Write the report of the tables and the runs: results/report/index.html."""

import sys

from cooperflow.jobs import launcher_client

if __name__ == "__main__":
    sys.exit(launcher_client.call("report"))
