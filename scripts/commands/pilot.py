"""Run a pilot: a few pairs in all settings, then an estimate of the remaining cost and time."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import layout
from cooperflow.jobs import entry_points
from cooperflow.session import estimate


def main() -> int:
    parser = entry_points.config_parser(__doc__)
    parser.add_argument("--subset", default="flash", help="subset of the pilot's pairs")
    parser.add_argument("--first", type=int, default=3, help="number of pairs")
    parser.add_argument("--slots", type=int, default=4, help="runs at a time, for the estimate")
    parser.add_argument("--only-estimate", action="store_true", help="do not run anything")
    arguments = parser.parse_args()
    files = [path.resolve() for path in arguments.configfile]
    os.chdir(layout.REPOSITORY)
    plan = entry_points.load_plan(files)
    if not arguments.only_estimate:
        code = _run(files, arguments.subset, arguments.first)
        if code:
            print(f"The pilot did not finish (exit code {code}); see the messages above.")
            return code
    pending = [run for run in plan.runs if not run.folder(plan.results).result.exists()]
    print(f"\nRemaining runs of {plan.choice}: {len(pending)}")
    print("\n".join(estimate.describe(estimate.make(plan, pending), arguments.slots)))
    return 0


def _run(files: list[Path], subset: str, first: int) -> int:
    """Run the workflow on the pilot's pairs, under the same run names, so nothing is paid twice."""
    only = {"subset": subset, "first": first, "sample": None, "repos": [], "tasks": [], "pairs": []}
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="pilot-") as overlay:
        json.dump({"dataset": only}, overlay)
        overlay.flush()
        snakemake = str(Path(sys.executable).with_name("snakemake"))
        layers = [*map(str, files), overlay.name]
        return subprocess.call([snakemake, "all", "--configfile", *layers])


if __name__ == "__main__":
    entry_points.run_command(main)
