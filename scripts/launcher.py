"""Run a launcher of a session, from its first job until its Snakemake process ends."""

import sys
from pathlib import Path

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.serve(Path(sys.argv[1]), sys.argv[2]))
