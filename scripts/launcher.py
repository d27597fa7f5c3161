"""The warm launcher of one start; begun before its first job, gone with its Snakemake."""

import sys
from pathlib import Path

from cooperflow.jobs import launcher

if __name__ == "__main__":
    sys.exit(launcher.serve(Path(sys.argv[1])))
