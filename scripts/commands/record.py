"""Convert a finished experiment to recordings, which replay without a key or cost."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow.archive import recording
from cooperflow.attempt import child_process
from cooperflow.experiment import config, plan
from cooperflow.jobs import command


def main() -> int:
    parser = command.config_parser(__doc__)
    parser.add_argument("--to", type=Path, required=True, help="the folder to write")
    arguments = parser.parse_args()
    child_process.prepare_environment()
    written = recording.write(plan.make(config.load(arguments.configfile)), arguments.to)
    for line in written.left_out:
        print(f"left out: {line}")
    print(f"Recorded {written.runs} runs of {written.pairs} pairs in {written.folder}. Replay:")
    print(f"  .venv/bin/snakemake -j 4 all --configfile {written.folder / 'replay.yaml'}")
    return 0


if __name__ == "__main__":
    command.run(main)
