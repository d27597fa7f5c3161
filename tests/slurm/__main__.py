"""The demo through a real Slurm cluster of this machine: set up, run, removed.

make slurm
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cooperflow import layout
from cooperflow.experiment import config, plan
from cooperflow.tables import run_table

from .cluster import PROFILES, cluster, find_missing_tools

FILES = [layout.REPOSITORY / "config" / "demo.yaml", Path(__file__).with_name("demo.yaml")]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
# Of the cluster's two machines.
NODES = ("node1", "node2")
# Passes of the demo's twelve runs on one machine, by setting, of four.
EXPECTED = {"solo": 4, "coop-comm": 3, "coop-nocomm": 2}


def main() -> int:
    os.chdir(layout.REPOSITORY)
    if missing := find_missing_tools():
        print(f"not here: {', '.join(missing)}. `make slurm` as root installs them (Debian).")
        return 1
    files = ["--configfile", *map(str, FILES)]
    snakemake = [str(SNAKEMAKE), "images_archive", *files, "--config", "images={build: true}"]
    if code := subprocess.call(snakemake):
        return code
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder), NODES) as up:
        print(up.command("sinfo"), flush=True)
        command = [str(SNAKEMAKE), "all", *PROFILES, *files]
        code = subprocess.call(command, env={**os.environ, **up.environment()})
        remaining = up.jobs()
    if code or remaining:
        print(f"The demo did not finish (exit code {code}, jobs left: {remaining or 'none'}).")
        return code or 1
    runs, _ = run_table.collect(plan.make(config.load(FILES)))
    good = runs[runs["outcome"] == "pass"].groupby("setting").size()
    passed = {str(setting): int(count) for setting, count in good.items()}
    print(f"passes: {passed}; attempts: {sorted(runs['attempts'])}; {len(runs)} runs")
    print(f"took {time.monotonic() - begun:.0f} s on {len(NODES)} nodes; the cluster is down")
    return 0 if passed == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main())
