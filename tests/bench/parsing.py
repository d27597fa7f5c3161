"""Cost of building the DAG, compared with a minimal Snakefile of the same jobs."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import yaml
from experiment_client import clone_of

from .cpu import Cost, measure
from .sides import BIN, environment

# Pairs of a subset, by 3 settings: lite, the full set, and beyond.
SIZES = (100, 652, 6000)

BARE = """
PAIRS = [line.strip().split(",") for line in open("pairs.csv")][1:]
SETTINGS = ["solo", "coop-comm", "coop-nocomm"]
NAMES = [f"{r}/{t}/f{a}_f{b}" for r, t, a, b in PAIRS]
IMAGES = sorted({f"{r}-{t}" for r, t, a, b in PAIRS})
rule all:
    input:
        "out/summary.csv",
        expand("out/{s}/{p}/result.json", s=SETTINGS, p=NAMES),
        expand("out/{s}/{p}/eval.json", s=SETTINGS, p=NAMES),
rule image:
    output: "out/images/{i}.json"
    shell: "touch {output}"
rule images:
    input: expand("out/images/{i}.json", i=IMAGES)
    output: "out/images.json"
    shell: "touch {output}"
for s in SETTINGS:
    rule:
        name: f"run_{s}".replace("-", "_")
        input: ancient("out/images.json")
        output: f"out/{s}/{{p}}/result.json"
        shell: "touch {output}"
    rule:
        name: f"eval_{s}".replace("-", "_")
        input: f"out/{s}/{{p}}/result.json"
        output: f"out/{s}/{{p}}/eval.json"
        shell: "touch {output}"
rule table:
    input: expand("out/{s}/{p}/eval.json", s=SETTINGS, p=NAMES)
    output: "out/summary.csv"
    shell: "touch {output}"
"""


def pairs(folder: Path, count: int) -> Path:
    """Write a data set's skeleton and a table of ``count`` pairs of it."""
    table = folder / "pairs.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["repo", "task_id", "feature_a", "feature_b"])
        remaining = count
        for task in itertools.count(1):
            features = list(itertools.combinations(range(1, 21), 2))[:remaining]
            if not features:
                break
            for number in range(1, 21):
                path = folder / "dataset" / "bench_task" / f"task{task}" / f"feature{number}"
                path.mkdir(parents=True)
            rows.writerows(["bench_task", task, a, b] for a, b in features)
            remaining -= len(features)
    return table


def dry_runs(folder: Path, count: int) -> tuple[Cost, Cost]:
    """Return what a dry run costs here and with the bare Snakefile."""
    folder.mkdir(parents=True)
    table = pairs(folder, count)
    clone = clone_of(folder / "clone")
    config = {
        "results": str(folder / "results"),
        "dataset": {"dir": str(folder / "dataset"), "subset": str(table)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "Snakefile").write_text(BARE)
    dry = [str(BIN / "snakemake"), "--dry-run", "--quiet", "rules"]
    ours = measure(
        [*dry, "--configfile", str(folder / "config.yaml")], clone, environment(), folder / "ours"
    )
    bare = measure(
        [*dry, "--snakefile", str(folder / "Snakefile"), "--rerun-triggers", "mtime"],
        folder,
        environment(),
        folder / "bare",
    )
    return ours, bare
