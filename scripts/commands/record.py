"""Turn a finished experiment into recordings that anyone can replay: no key, no cost."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow.archive import recording
from cooperflow.attempt import child_process
from cooperflow.errors import UserError
from cooperflow.experiment import config, plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[])
    parser.add_argument("--to", type=Path, required=True, help="the folder to write")
    arguments = parser.parse_args()
    child_process.prepare_environment()
    made = recording.write(plan.make(config.load(arguments.configfile)), arguments.to)
    for line in made.left_out:
        print(f"left out: {line}")
    print(f"{made.runs} runs of {made.pairs} pairs recorded in {made.folder}. Replay them with")
    print(f"  .venv/bin/snakemake -j 4 all --configfile {made.folder / 'replay.yaml'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")
