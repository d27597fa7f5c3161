"""`make bench`: measure, side by side and repeated, and write the figures as JSON and as a plot."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cooperflow import atomic_io

from . import idle, parsing, plot, scale, sides, wave, workload

# Seconds per call, and one conversation in ten four times as slow.
WAITING = "lognormal:1.5:0.5,tail:0.1:4"
SEED = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="parts, with commas; all if empty")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("../docs/performance.json"))
    arguments = parser.parse_args()
    parts: dict[str, Callable[[Path, int], Any]] = {
        "makespan": lambda folder, n: _makespan(folder, n, WAITING),
        "no-delay": lambda folder, n: _makespan(folder, n, "0"),
        "parse": _parse,
        "idle": _idle,
        "wave": _wave,
        "scale": _scale,
    }
    chosen = list(filter(None, arguments.only.split(","))) or list(parts)
    if unknown := set(chosen) - set(parts):
        parser.error(
            f"no part is named {', '.join(sorted(unknown))}. There are: {', '.join(parts)}"
        )
    if arguments.repeats < 1:
        parser.error("at least one round (REPEATS=1) is needed")
    document = atomic_io.read_json(arguments.out) or {}
    document["versions"] = _versions()
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="cooperflow-bench-") as temporary:
            print(f"== {name}", flush=True)
            document[name] = {"date": time.strftime("%Y-%m-%d"), "figures": None}
            document[name]["figures"] = parts[name](Path(temporary), arguments.repeats)
            atomic_io.write_json(arguments.out, document)
    plot.draw(document, arguments.out.with_suffix(".png"))
    return 0


def _makespan(folder: Path, repeats: int, delay: str) -> dict[str, Any]:
    work = workload.make(folder)
    rounds = []
    try:
        for number in range(repeats):
            theirs, costs = sides.upstream(work, folder / f"upstream{number}", delay, SEED + number)
            ours, times = sides.workflow(work, folder / f"workflow{number}", delay, SEED + number)
            bound = sides.bound([seconds for _, seconds in times])
            # The same without own features: what their evaluations add.
            bare, _ = sides.workflow(
                work, folder / f"bare{number}", delay, SEED + number, own_features=False
            )
            rounds.append(
                {
                    "upstream_s": round(theirs.wall, 1),
                    "workflow_s": round(ours.wall, 1),
                    "ratio": round(ours.wall / theirs.wall, 3),
                    "bound_s": round(bound, 1),
                    "over_bound": round(ours.wall / bound, 3),
                    "upstream_cpu_s": round(theirs.cpu, 1),
                    "workflow_cpu_s": round(ours.cpu, 1),
                    "cpu_added_per_run_s": round((ours.cpu - theirs.cpu) / work.runs, 3),
                    "without_own_s": round(bare.wall, 1),
                    "without_own_cpu_s": round(bare.cpu, 1),
                    "own_time_ratio": round(ours.wall / bare.wall, 3),
                    "own_cpu_share": round(1 - bare.cpu / ours.cpu, 3),
                    "own_evaluation_share": round(ours.own_s / (ours.own_s + ours.eval_s), 3),
                    "upstream_parts_s": [round(cost.wall, 1) for cost in costs],
                    "passed": [theirs.passed, ours.passed],
                }
            )
            print(json.dumps(rounds[-1]), flush=True)
            shutil.rmtree(folder / f"upstream{number}", ignore_errors=True)
            shutil.rmtree(folder / f"workflow{number}", ignore_errors=True)
            shutil.rmtree(folder / f"bare{number}", ignore_errors=True)
    finally:
        workload.untag(work)
    keys = ("ratio", "over_bound", "cpu_added_per_run_s", "upstream_s", "workflow_s")
    keys += ("own_time_ratio", "own_cpu_share", "own_evaluation_share")
    return {
        "delay": delay,
        "runs": work.runs,
        "turns": workload.TURNS,
        "rounds": rounds,
        **{key: _spread([row[key] for row in rounds]) for key in keys},
    }


def _parse(folder: Path, repeats: int) -> dict[str, Any]:
    figures = {}
    for size in parsing.SIZES:
        rounds = []
        for number in range(repeats):
            ours, bare = parsing.dry_runs(folder / f"{size}-{number}", size)
            assert ours.code == bare.code == 0, folder
            rounds.append(
                {
                    "workflow_s": round(ours.wall, 2),
                    "bare_s": round(bare.wall, 2),
                    "time_ratio": round(ours.cpu / bare.cpu, 3),
                    "workflow_mb": round(ours.memory),
                    "bare_mb": round(bare.memory),
                    "memory_ratio": round(ours.memory / bare.memory, 3),
                }
            )
            print(size, json.dumps(rounds[-1]), flush=True)
        figures[str(size)] = {
            "rounds": rounds,
            **{k: _spread([r[k] for r in rounds]) for k in ("time_ratio", "memory_ratio")},
        }
    return figures


def _idle(folder: Path, repeats: int) -> dict[str, Any]:
    """Return seconds and megabytes of starts that have nothing to do."""
    costs = idle.figures(folder, repeats)
    rounds = [
        {"wall_s": round(c.wall, 2), "cpu_s": round(c.cpu, 2), "mb": round(c.memory)} for c in costs
    ]
    print(json.dumps(rounds), flush=True)
    return {"rounds": rounds, "wall_s": _spread([row["wall_s"] for row in rounds])}


def _wave(folder: Path, repeats: int) -> dict[str, Any]:
    """Return seconds until a first wave of containers runs, by the pause between starts."""
    figures: dict[str, list[dict[str, float]]] = {}
    for _ in range(repeats):
        for pause in wave.STAGGERS:
            result = wave.measure(pause)
            seconds = {"mean_s": result.mean, "last_s": result.last, "slowest_s": result.slowest}
            rounded = {key: round(value, 2) for key, value in seconds.items()}
            figures.setdefault(str(pause), []).append(rounded)
            print(pause, json.dumps(rounded), flush=True)
    return figures


def _scale(folder: Path, repeats: int) -> dict[str, Any]:
    """Return seconds and megabytes of each stage over all finished runs, once."""
    figures = {}
    for name, cost in scale.figures(folder).items():
        figures[name] = {
            "wall_s": round(cost.wall, 1),
            "cpu_s": round(cost.cpu, 1),
            "mb": round(cost.memory),
        }
        print(name, json.dumps(figures[name]), flush=True)
    return figures


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _versions() -> dict[str, str]:
    names = ("cooperbench", "litellm", "snakemake", "docker")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


if __name__ == "__main__":
    raise SystemExit(main())
