"""The benchmark's figures as a plot: both sides' time by its parts, and the dry run's ratios."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from cooperflow.plots.plotdata import COLOURS

# Upstream's six calls, in the order in which they are made.
PARTS = ("run solo", "run coop-comm", "run coop-nocomm", *["eval"] * 3)
TITLES = {"makespan": "a model that takes its time", "no-delay": "no delays"}
GOAL = 1.25


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw what has been measured so far."""
    sides = [name for name in TITLES if name in found]
    panels = len(sides) + ("parse" in found)
    if not panels:
        return
    figure, axes = pyplot.subplots(
        1, panels, figsize=(4.2 * panels, 3.2), layout="constrained", squeeze=False
    )
    places = list(axes[0])
    for name in sides:
        measured = found[name]["figures"]
        _sides(places.pop(0), f"{measured['runs']} runs, {TITLES[name]}", measured["rounds"])
    if places:
        _parse(places[0], found["parse"]["figures"])
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _sides(axis: Axes, title: str, rounds: list[Mapping[str, Any]]) -> None:
    """A bar per side and round; the bound for four slots as a line across ours."""
    labels = []
    for number, one in enumerate(rounds, start=1):
        at, left = len(labels), 0.0
        for part, seconds in zip(PARTS, one["upstream_parts_s"], strict=True):
            shade = COLOURS[3] if part == "eval" else COLOURS[4]
            axis.barh(at, seconds, left=left, color=shade, edgecolor="white", linewidth=0.6)
            left += seconds
        axis.barh(at + 1, one["workflow_s"], color=COLOURS[0])
        axis.plot([one["bound_s"]] * 2, [at + 0.55, at + 1.45], color="black", linewidth=1.5)
        again = f" {number}" if len(rounds) > 1 else ""
        labels += [f"upstream{again}", f"workflow{again}"]
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xlabel("seconds (line: bound for four slots)")
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _parse(axis: Axes, sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """Each round's ratio of a dry run to that of a bare Snakefile, and the goal."""
    for at, one in enumerate(sizes.values()):
        for key, colour, label in (
            ("time_ratio", COLOURS[0], "processor time"),
            ("memory_ratio", COLOURS[1], "memory"),
        ):
            values = [each[key] for each in one["rounds"]]
            axis.plot([at] * len(values), values, "o", color=colour, label=label)
    axis.axhline(GOAL, color="grey", linewidth=1, linestyle="--")
    axis.set_xticks(range(len(sizes)), [f"{int(size):,}" for size in sizes])
    axis.set_xlim(-0.5, len(sizes) - 0.5)
    axis.set_ylim(bottom=0.9)
    axis.set_xlabel("pairs, in three settings (dashed: goal)")
    axis.set_title("dry run, ratio to a bare Snakefile", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    axis.legend(known.values(), known.keys(), frameon=False, fontsize=8)
