"""Run a launcher until the Snakemake process of its session ends."""

import sys
from pathlib import Path

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.serve(Path(sys.argv[1]), sys.argv[2]))
