"""Convert a finished experiment to recordings, which replay without a key or cost."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow.archive import recording
from cooperflow.attempt import child_process
from cooperflow.jobs import job


def main() -> int:
    parser = job.config_parser(__doc__)
    parser.add_argument("--to", type=Path, required=True, help="the folder to write")
    arguments = parser.parse_args()
    child_process.prepare_environment()
    summary = recording.write(job.load_plan(arguments.configfile), arguments.to)
    for line in summary.left_out:
        print(f"left out: {line}")
    print(f"Recorded {summary.runs} runs of {summary.pairs} pairs in {summary.folder}. Replay:")
    print(f"  .venv/bin/snakemake -j 4 all --configfile {summary.folder / 'replay.yaml'}")
    return 0


if __name__ == "__main__":
    job.run_command(main)
