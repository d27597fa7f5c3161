"""Write the HTML report of the tables and the runs: results/report/index.html."""

import sys

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.call("report"))
