"""The benchmark's figures as a plot: both sides' time by its parts, and the dry run's ratios."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vl_convert

from cooperflow.plots.vega import COLOURS, CONFIG

# Upstream's six calls, in the order in which they are made.
PARTS = ("run solo", "run coop-comm", "run coop-nocomm", *["eval"] * 3)
TITLES = {"makespan": "a model that takes its time", "no-delay": "no delays"}
GOAL = 1.25


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw what has been measured so far."""
    sides = [name for name in TITLES if name in document]
    panels = [
        _sides(
            f"{document[n]['figures']['runs']} runs, {TITLES[n]}", document[n]["figures"]["rounds"]
        )
        for n in sides
    ]
    if "parse" in document:
        panels.append(_parse(document["parse"]["figures"]))
    if panels:
        spec = {
            "hconcat": panels,
            "config": dict(CONFIG),
            "resolve": {"scale": {"color": "independent"}},
        }
        path.write_bytes(bytes(vl_convert.vegalite_to_png(spec, ppi=130)))


def _sides(title: str, rounds: list[Mapping[str, Any]]) -> dict[str, Any]:
    """A bar per side and round; the bound for four slots as a line across the workflow's."""
    bars, bounds, names = [], [], []
    for number, row in enumerate(rounds, start=1):
        again = f" {number}" if len(rounds) > 1 else ""
        start = 0.0
        for part, seconds in zip(PARTS, row["upstream_parts_s"], strict=True):
            colour = COLOURS[3] if part == "eval" else COLOURS[4]
            name = f"upstream{again}"
            bars.append({"side": name, "from": start, "to": start + seconds, "colour": colour})
            start += seconds
        name = f"workflow{again}"
        bars.append({"side": name, "from": 0.0, "to": row["workflow_s"], "colour": COLOURS[0]})
        bounds.append({"side": name, "bound": row["bound_s"]})
        names += [f"upstream{again}", name]
    y = {"field": "side", "type": "nominal", "title": None, "scale": {"domain": names}}
    x = {"type": "quantitative", "title": "seconds (line: bound for four slots)"}
    colour = {"field": "colour", "type": "nominal", "scale": None}
    bar = {"x": {**x, "field": "from"}, "x2": {"field": "to"}, "y": y, "color": colour}
    layers = [
        {"data": {"values": bars}, "mark": {"type": "bar", "stroke": "white"}, "encoding": bar},
        {
            "data": {"values": bounds},
            "mark": {"type": "tick", "color": "black", "thickness": 1.5},
            "encoding": {"x": {**x, "field": "bound"}, "y": y},
        },
    ]
    return {"title": title, "width": 220, "height": 150, "layer": layers}


def _parse(sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Each round's ratio of a dry run to that of a bare Snakefile, and the goal."""
    labels = {"time_ratio": "processor time", "memory_ratio": "memory"}
    rows = [
        {"pairs": f"{int(size):,}", "ratio": each[key], "what": label}
        for size, figures in sizes.items()
        for key, label in labels.items()
        for each in figures["rounds"]
    ]
    scale = {"domain": list(labels.values()), "range": [COLOURS[0], COLOURS[1]]}
    colour = {"field": "what", "type": "nominal", "title": None, "scale": scale}
    x = {"field": "pairs", "type": "nominal", "sort": None}
    x |= {"title": "pairs, in three settings (dashed: goal)"}
    y = {"field": "ratio", "type": "quantitative", "title": None, "scale": {"zero": False}}
    points = {
        "mark": {"type": "point", "filled": True},
        "encoding": {"x": x, "y": y, "color": colour},
    }
    goal = {"mark": {"type": "rule", "strokeDash": [4, 3], "color": "grey"}}
    goal["encoding"] = {"y": {"datum": GOAL, "type": "quantitative"}}
    title = "dry run, ratio to a bare Snakefile"
    return {
        "title": title,
        "width": 220,
        "height": 150,
        "data": {"values": rows},
        "layer": [points, goal],
    }
