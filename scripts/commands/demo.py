"""Run all steps on the bundled demo data set, and print its tables."""

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from commands.table import print_tables
from cooperflow import layout
from cooperflow.jobs import entry_points
from cooperflow.tables import findings, run_table

FILE = Path("config/demo.yaml")


def main() -> int:
    os.chdir(layout.REPOSITORY)
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    start = time.monotonic()
    snakemake = Path(sys.executable).with_name("snakemake")
    code = subprocess.call([str(snakemake), "all", "--configfile", str(file)])
    if code:
        print(f"The demo did not finish (exit code {code}); see the messages above.")
        return code
    plan = entry_points.load_plan([file])
    runs, summary = run_table.collect(plan)
    print_tables(plan.results, runs, summary, Console(), (), findings.describe_plan(plan, runs))
    print(f"report   {plan.results.report}/index.html: open it in a browser")
    print(f"each run {plan.results.runs}/RUN_NAME/...: patches, trajectories, tests, attempts")
    print(f"took     {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    entry_points.run_command(main)
