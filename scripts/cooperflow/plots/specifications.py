"""Each plot as one Vega-Lite specification, drawn by the report and as files for a paper.

A specification has no width and no theme: the report and `for_paper` set both. Names are data,
never markup. vl-convert draws PNG, SVG and PDF without a browser or system fonts.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import vl_convert

from cooperflow import atomic_io, layout
from cooperflow.experiment.plan import Plan
from cooperflow.plots import plot_data
from cooperflow.plots.plot_data import (
    OUTCOME_COLOURS,
    PAIRED_COLOURS,
    PAIRED_WORDS,
    Curves,
    Plot,
    Point,
    Points,
    Tables,
)
from cooperflow.tables import breakdowns

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_ROW = 24  # pixels of a row
_INK = {"condition": {"test": "datum.ink === 'white'", "value": "white"}, "value": "black"}
_LABELLED = 12  # points or columns up to which each has a label

WIDTH = 504  # points: 7 inches, two columns of a paper
PPI = 200
FONT = "Liberation Sans"  # bundled with vl-convert
# A browser that shows an SVG may have another font: first a font of the same widths.
FONTS = f"{FONT}, Arial, Helvetica, sans-serif"
# The theme of a paper. Legends are below the plot, since names of experiments are long.
CONFIG: Mapping[str, Any] = {
    "font": FONTS,
    "padding": 12,  # wider letters of another font are not cut at the edge
    "background": "white",
    "title": {"fontSize": 11, "fontWeight": "normal", "anchor": "middle"},
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 9,
        "titleFontSize": 9,
        "titleFontWeight": "normal",
        "labelLimit": 300,
        "gridColor": "#DDDDDD",
        "domainColor": "#888888",
        "tickColor": "#888888",
    },
    # One weight everywhere: with two fonts, the order of objects in a PDF varies.
    "legend": {
        "orient": "bottom",
        "labelFontSize": 9,
        "titleFontSize": 9,
        "titleFontWeight": "normal",
        "labelLimit": 230,
    },
}
_MARGIN = 60  # points beside a panel, for its axis


def pass_rates(tables: Tables) -> Spec:
    """Return the forest plot of the experiments' pass rates."""
    return _rates(plot_data.pass_rates(tables))


def published(tables: Tables) -> Spec:
    """Return the forest plot of the experiments beside the published models."""
    return _rates(plot_data.published_rates(tables))


def _rates(plot: Points) -> Spec:
    rows = [_row(point, name=f"{point.label} (n={point.n})") for point in plot.points]
    names = list(dict.fromkeys(row["name"] for row in rows))
    encoding = {"y": _names("name", names), **_looks(plot.points, legend=False)}
    return _view(plot, rows, _marks("x", encoding, plot.x), height=_ROW * max(len(rows), 1))


def paired_outcomes(tables: Tables) -> Spec:
    """Return stacked bars of the outcomes of the same pairs in two experiments."""
    plot = plot_data.paired_outcomes(tables)
    totals = [sum(counts) for counts in zip(*plot.counts.values(), strict=True)]
    names = [f"{label} (n={n})" for label, n in zip(plot.labels, totals, strict=True)]
    rows = []
    starts = [0.0] * len(totals)
    for key, counts in plot.counts.items():
        for n, (name, count, total) in enumerate(zip(names, counts, totals, strict=True)):
            end = starts[n] + (count / total if total else 0.0)
            rows.append(_segment(name, PAIRED_WORDS[key], count, starts[n], end, key == "both"))
            starts[n] = end
    words = [PAIRED_WORDS[key] for key in PAIRED_COLOURS]
    layers = _stacked(plot, names, words, PAIRED_COLOURS.values())
    return _view(plot, rows, layers, height=_ROW * max(len(names), 1))


def coordination_gap(tables: Tables) -> Spec:
    """Return the pass rate of each setting over difficulty, a panel for each model."""
    return _panels(plot_data.coordination_gap(tables))


def paper_difficulty(tables: Tables) -> Spec:
    """Return the same on the paper's scale, with the published pooled curves."""
    return _panels(plot_data.paper_difficulty(tables))


def _panels(plot: Curves) -> Spec:
    settings = list(dict.fromkeys(curve.label for curve in plot.curves))
    points = [point for curve in plot.curves for point in curve.points]
    panels = []
    for panel in plot.panels:
        curves = [curve for curve in plot.curves if curve.panel == panel]
        rows = []
        for number, curve in enumerate(curves):
            # Side by side, so that intervals do not hide each other.
            shift = 0.008 * (number - (len(curves) - 1) / 2)
            for at, point in zip(curve.at, curve.points, strict=True):
                rows.append(_row(point, at=at + shift, curve=curve.label))
        x = _quantity("at", plot.x, scale={"domain": [0, 1]})
        x |= {"axis": {"format": plot.x_format}} if plot.x_format else {}
        layers = _lines(x, points, settings, plot.y)
        panels.append({"title": panel, "data": {"values": rows}, "height": 200, "layer": layers})
    across = min(len(panels), 3) or 1
    return {"$schema": SCHEMA, "title": plot.title, "concat": panels, "columns": across}


def cost_success(tables: Tables) -> Spec:
    """Return the pass rate of each experiment over the mean cost of its runs."""
    plot = plot_data.cost_success(tables)
    highest = max((at for at in plot.at if not math.isnan(at)), default=0.0)
    few = len(plot.points) <= _LABELLED and not _crowded(plot.at, plot.points, highest)
    rows = []
    for at, point in zip(plot.at, plot.points, strict=True):
        name = f"{point.label} (n={point.n})"
        # On the side with more room.
        right_label, left_label = (name, "") if at <= 0.6 * highest else ("", name)
        rows.append(_row(point, at=_number(at), right=right_label, left=left_label))
    limit = 1.1 * highest or 1.0
    axis = {"format": _money(limit), "tickCount": 5}
    x = _quantity("at", plot.x, scale={"domain": [0, limit], "nice": False}, axis=axis)
    layers = _marks("y", {"x": x, **_looks(plot.points, legend=not few)}, plot.y)
    if few:
        for side, align, shift in (("right", "left", 7), ("left", "right", -7)):
            mark = {"type": "text", "align": align, "dx": shift, "dy": 10, "fontSize": 10}
            encoding = {"x": x, "y": _share("value", plot.y), "text": {"field": side}}
            layers.append({"mark": mark, "encoding": encoding})
    return _view(plot, rows, layers, height=280)


def _money(limit: float) -> str:
    """Return the format of an axis of USD: cents, and more digits below 10 cents."""
    digits = next((n for n, end in ((2, 0.1), (3, 0.01)) if limit >= end), 4)
    return f"$,.{digits}f"


def repo_outcomes(tables: Tables) -> Spec:
    """Return the heat map of pass rates by repo and experiment."""
    plot = plot_data.repo_outcomes(tables)
    few = len(plot.columns) <= _LABELLED
    rows = [
        {
            "repo": repo,
            "name": name,
            "value": _number(value),
            "text": text,
            "ink": "white" if value < 0.6 else "black",
            "tip": f"{repo}, {name}: {text}",
        }
        for repo, values, texts in zip(plot.rows, plot.values, plot.texts, strict=True)
        for name, value, text in zip(plot.columns, values, texts, strict=True)
    ]
    x: Spec = {"field": "name", "type": "nominal", "title": None, "sort": None}
    x |= {"axis": {"labelAngle": -30 if few else -90, "grid": False}}
    y = _names("repo", plot.rows)
    scheme = {"scheme": "cividis", "domain": [0, 1]}
    legend: Spec = {"title": "pass rate", "format": "%", "orient": "right", "type": "symbol"}
    legend |= {"values": [0, 0.25, 0.5, 0.75, 1], "symbolType": "square"}
    colour = _quantity("value", scale=scheme, legend=legend)
    cells = {"x": x, "y": y, "color": colour, "tooltip": {"field": "tip"}}
    layers: list[Spec] = [{"mark": {"type": "rect"}, "encoding": cells}]
    if few:
        texts = {"x": x, "y": y, "text": {"field": "text"}, "color": _INK}
        layers.append({"mark": {"type": "text", "fontSize": 10}, "encoding": texts})
    return _view(plot, rows, layers, height=_ROW * max(len(plot.rows), 1))


def timeline(tables: Tables) -> Spec:
    """Return the time span of each run, coloured by its outcome."""
    plot = plot_data.timeline(tables)
    endings = [bar.outcome for bar in plot.bars]
    counts = {e: endings.count(e) for e in [*OUTCOME_COLOURS, *endings] if e in endings}
    labels = {ending: f"{ending} (n={count})" for ending, count in counts.items()}
    rows = [
        {
            "start": round(bar.start, 4),
            "end": round(bar.start + bar.length, 4),
            "top": bar.lane - 0.4,
            "bottom": bar.lane + 0.4,
            "outcome": labels[bar.outcome],
            "tip": f"{bar.label}, {bar.length:.2f} {plot.unit}, {bar.outcome}",
        }
        for bar in plot.bars
    ]
    names = {str(lane): name for name, lane in plot.experiments}
    axis = {
        "values": [lane for _, lane in plot.experiments],
        "labelExpr": f"{json.dumps(names)}[datum.value]",
        "grid": False,
    }
    lanes: Spec = {"domain": [-0.5, max(plot.lanes, 1) - 0.5], "reverse": True, "nice": False}
    colours = [OUTCOME_COLOURS.get(ending, "#000000") for ending in counts]
    bars = {
        "mark": {"type": "bar", "stroke": "white", "strokeWidth": 0.4 if len(rows) <= 600 else 0},
        "encoding": {
            "x": _quantity("start", plot.x, scale={"nice": False}),
            "x2": {"field": "end"},
            "y": _quantity("top", None, axis=axis, scale={**lanes, "zero": False}),
            "y2": {"field": "bottom"},
            "color": _colour("outcome", list(labels.values()), colours),
            "tooltip": {"field": "tip"},
        },
    }
    return _view(plot, rows, [bars], height=min(max(14 * plot.lanes, 40), 1200))


def losses(tables: Tables) -> Spec:
    """Return the flow from evaluated runs to losses, a panel for each coop experiment."""
    plot = plot_data.loss_flow(tables)
    words = [plot_data.LOSS_WORDS[kind] for kind in plot_data.LOSS_COLOURS]
    stages = list(plot_data.STAGES)
    layers = _stacked(plot, stages, words, plot_data.LOSS_COLOURS.values())
    panels = []
    for name, parts in zip(plot.panels, plot.parts, strict=True):
        rows = []
        for part in parts:
            word, is_dark = plot_data.LOSS_WORDS[part.kind], part.kind == breakdowns.PASSED
            row = _segment(part.stage, word, part.count, part.start, part.end, is_dark)
            rows.append({**row, "tip": f"{name}, {row['tip']}"})
        view = {"title": name, "data": {"values": rows}, "height": _ROW * len(stages)}
        panels.append({**view, "layer": layers})
    if not panels:
        return _view(plot, [], layers[:1], height=_ROW * len(stages))
    spec = {"$schema": SCHEMA, "title": plot.title, "concat": panels}
    return {**spec, "columns": min(len(panels), 2)}


def _segment(
    name: str, word: str, count: int, start: float, end: float, is_dark: bool
) -> dict[str, Any]:
    """Return the row of a segment of a stacked bar; a text on a dark segment is white."""
    return {
        "name": name,
        "kind": word,
        "count": count,
        "start": start,
        "end": end,
        "middle": (start + end) / 2,
        "text": str(count) if count else "",
        "ink": "white" if is_dark else "black",
        "tip": f"{name}: {count} {word}",
    }


def _stacked(
    plot: Plot, names: Sequence[str], words: Sequence[str], colours: Iterable[str]
) -> list[Spec]:
    """Return the layers of stacked bars, a row for each name, and of the text in each segment."""
    y = _names("name", names)
    bars = {
        "x": _share("start", plot.x),
        "x2": {"field": "end"},
        "y": y,
        "color": _colour("kind", words, colours),
        "tooltip": {"field": "tip"},
    }
    texts = {"x": _quantity("middle"), "y": y, "text": {"field": "text"}, "color": _INK}
    return [
        {"mark": {"type": "bar"}, "encoding": bars},
        {"mark": {"type": "text", "fontSize": 10}, "encoding": texts},
    ]


def message_share(tables: Tables) -> Spec:
    """Return the share of the agents' events that are messages (figure 5b of the paper)."""
    title = "Share of the agents' events that are messages"
    x = "share of messages among messages and commands, 95 % interval"
    plot = plot_data.measure(tables, "message_share", title, x)
    return _forest(plot, "%")


def turns(tables: Tables) -> Spec:
    """Return the turns of the agents of a run (figure 6 of the paper)."""
    title = "Turns of the agents of a run"
    plot = plot_data.measure(tables, "turns_per_run", title, "turns per run (mean), 95 % interval")
    return _forest(plot, "~g")


def message_times(tables: Tables) -> Spec:
    """Return the share of the messages in each sixth of the runs' time."""
    plot = plot_data.message_times(tables)
    rows = []
    for number, curve in enumerate(plot.curves):
        # Side by side, so that intervals do not hide each other.
        shift = 0.06 * (number - (len(plot.curves) - 1) / 2)
        rows += [
            _row(point, at=at + shift, curve=curve.label)
            for at, point in zip(curve.at, curve.points, strict=True)
        ]
    points = [point for curve in plot.curves for point in curve.points]
    axis = {"values": [1, 2, 3, 4, 5, 6], "format": "d", "grid": False}
    x = _quantity("at", plot.x, scale={"domain": [0.5, 6.5], "nice": False}, axis=axis)
    layers = _lines(x, points, [curve.label for curve in plot.curves], plot.y)
    return _view(plot, rows, layers, height=200)


def communication_and_conflicts(tables: Tables) -> Spec:
    """Return the differences of conflict rates with and without properties of the messages."""
    plot = plot_data.communication_and_conflicts(tables)
    groups = list(dict.fromkeys(point.look.group for point in plot.points))
    spec = _forest(plot, "+.0f", groups)
    zero = {"mark": {"type": "rule", "strokeDash": [3, 3], "color": "#888888"}}
    spec["layer"].insert(0, {**zero, "encoding": {"x": {"datum": 0}}})
    return spec


def _forest(plot: Points, form: str, groups: Sequence[str] = ()) -> Spec:
    """Return values with intervals, a row for each label.

    Args:
        form: of the numbers on the axis.
        groups: rows of the same label, drawn below each other; none: one row for each label.
    """
    rows = []
    for point in plot.points:
        name = point.label if groups else f"{point.label} (n={point.n})"
        value, low, high = (
            f"{v:.1%}" if "%" in form else f"{v:.3g}" for v in (point.value, point.low, point.high)
        )
        tip = f"{point.look.group}, {point.label}: {value} ({low} to {high}), n={point.n}"
        rows.append(_row(point, name=name, tip=tip))
    names = list(dict.fromkeys(row["name"] for row in rows))
    encoding: Spec = {"y": _names("name", names), **_looks(plot.points, legend=bool(groups))}
    if groups:
        encoding["yOffset"] = {"field": "group", "type": "nominal", "scale": {"domain": groups}}
    layers = _marks("x", encoding, plot.x)
    for layer, field in zip(layers, ("low", "value"), strict=True):
        layer["encoding"]["x"] = _quantity(field, plot.x, axis={"format": form, "tickCount": 5})
    height = _ROW * max(len(names), 1) * max(1, (len(groups) + 1) // 2)
    return _view(plot, rows, layers, height=height)


def reasons(tables: Tables) -> Spec:
    """Return stacked bars of the reasons of runs that did not pass."""
    plot = plot_data.reasons(tables)
    colours = [plot_data.COLOURS[n % len(plot_data.COLOURS)] for n in range(len(plot.counts))]
    rows = [
        {"reason": reason, "name": name, "runs": n, "tip": f"{reason}, {name}: {n} runs"}
        for name, counts in plot.counts.items()
        for reason, n in zip(plot.labels, counts, strict=True)
        if n
    ]
    most = max((sum(counts) for counts in zip(*plot.counts.values(), strict=True)), default=0)
    axis: Spec = {"format": "d", "tickMinStep": 1}
    if most <= 10:
        axis["values"] = list(range(most + 1))
    y: Spec = {"field": "reason", "type": "nominal", "title": None}
    encoding = {
        "y": {**y, "scale": {"domain": list(plot.labels)}},
        "x": _quantity("runs", plot.x, axis=axis),
        "color": _colour("name", list(plot.counts), colours),
        "tooltip": {"field": "tip"},
    }
    layer = {"mark": {"type": "bar"}, "encoding": encoding}
    return _view(plot, rows, [layer], height=_ROW * max(len(plot.labels), 1))


SPECS: Mapping[str, Callable[[Tables], Spec]] = {
    "pass_rates": pass_rates,
    "paired_outcomes": paired_outcomes,
    "coordination_gap": coordination_gap,
    "paper_difficulty": paper_difficulty,
    "published": published,
    "cost_success": cost_success,
    "losses": losses,
    "reasons": reasons,
    "repo_outcomes": repo_outcomes,
    "timeline": timeline,
    "message_share": message_share,
    "turns": turns,
    "message_times": message_times,
    "communication_and_conflicts": communication_and_conflicts,
}


def has_data(spec: Spec) -> bool:
    """Return whether any view of a specification has a row."""
    return any(view["data"]["values"] for view in views(spec))


def views(spec: Spec) -> list[Spec]:
    """Return the single views of a specification."""
    return list(spec["concat"]) if "concat" in spec else [spec]


def _crowded(at: Sequence[float], points: Sequence[Point], highest: float) -> bool:
    """Return whether the labels of two points would cover each other."""
    positions = [(x / (highest or 1.0), p.value) for x, p in zip(at, points, strict=True)]
    return any(
        abs(a[0] - b[0]) < 0.35 and abs(a[1] - b[1]) < 0.06
        for n, a in enumerate(positions)
        for b in positions[:n]
    )


def _view(plot: Plot, rows: list[dict[str, Any]], layers: list[Spec], height: int) -> Spec:
    data = {"values": rows}
    return {"$schema": SCHEMA, "title": plot.title, "height": height, "data": data, "layer": layers}


def _row(point: Point, **fields: Any) -> dict[str, Any]:
    value, low, high = (_number(v) for v in (point.value, point.low, point.high))
    tip = f"{point.label}: no evaluated run"
    if value is not None:
        ends = "" if low is None else f" ({point.low:.1%} to {point.high:.1%}), n={point.n}"
        tip = f"{point.label}: {point.value:.1%}{ends}"
    row = {
        "label": point.label,
        "group": point.look.group,
        "value": value,
        "low": low,
        "high": high,
    }
    return {**row, "n": point.n, "tip": tip, **fields}


def _marks(along: str, encoding: Mapping[str, Any], title: str) -> list[Spec]:
    """Return the layers of points with their intervals along an axis."""
    colour = {"color": encoding["color"]}
    rest = {key: value for key, value in encoding.items() if key not in ("color", "shape")}
    interval = {**rest, **colour, along: _share("low", title), f"{along}2": {"field": "high"}}
    point = {**encoding, along: _share("value", title), "tooltip": {"field": "tip"}}
    return [
        {"mark": {"type": "rule", "strokeWidth": 1.3}, "encoding": interval},
        {"mark": {"type": "point", "filled": True, "size": 50, "opacity": 1}, "encoding": point},
    ]


def _names(field: str, names: Sequence[str]) -> Spec:
    """Return the encoding of names as rows, in this order."""
    scale, axis = {"domain": list(names)}, {"grid": False}
    return {"field": field, "type": "nominal", "title": None, "scale": scale, "axis": axis}


def _share(field: str, title: str) -> dict[str, Any]:
    """Return the encoding of a share between 0 and 1 on an axis of percent."""
    scale = {"domain": [0, 1], "nice": False}
    axis = {"format": "%", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    return _quantity(field, title, scale=scale, axis=axis)


def _quantity(field: str, title: str | None = "", **rest: Any) -> Spec:
    """Return the encoding of a number, with the axis' title unless it is empty; None: no title."""
    named = {} if title == "" else {"title": title}
    return {"field": field, "type": "quantitative", **named, **rest}


def _lines(x: Spec, points: Sequence[Point], names: Sequence[str], title: str) -> list[Spec]:
    """Return the layers of a line through the points of each curve, and of the points."""
    looks = _looks(points, field="curve", names=names)
    encoding = {"x": x, "y": _share("value", title), "color": looks["color"]}
    return [
        {"mark": {"type": "line"}, "encoding": encoding},
        *_marks("y", {"x": x, **looks}, title),
    ]


def _looks(
    points: Sequence[Point], legend: bool = True, field: str = "group", names: Sequence[str] = ()
) -> dict[str, Any]:
    """Return colour and shape of each setting."""
    looks = {point.look.group: point.look for point in points}
    groups = list(names or looks)
    colours = [looks[name].colour for name in groups]
    shapes = [looks[name].marker for name in groups]
    shape = {"field": field, "type": "nominal", "scale": {"domain": groups, "range": shapes}}
    colour = _colour(field, groups, colours)
    if not legend or not groups:  # a legend without entries makes the plot infinitely high
        return {"color": {**colour, "legend": None}, "shape": {**shape, "legend": None}}
    return {"color": colour, "shape": {**shape, "legend": {"title": None}}}


def _colour(field: str, names: Sequence[str], colours: Iterable[str]) -> dict[str, Any]:
    scale = {"domain": list(names), "range": list(colours)}
    legend = {"title": None} if names else None  # as above
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def _number(value: float) -> float | None:
    """Return a value for JSON: None for NaN."""
    return None if math.isnan(value) else float(value)


def perform(plan: Plan) -> None:
    """Do the work of rule `plots`."""
    tables = plot_data.load(plan.results)
    for name in layout.PLOTS:
        for kind, data in render(name, tables, layout.PLOT_KINDS).items():
            atomic_io.write_bytes(plan.results.plot(name, kind), data)
            print(plan.results.plot(name, kind))


def render(name: str, tables: Tables, kinds: tuple[str, ...]) -> dict[str, bytes]:
    """Return a plot as files, by their ending. The same tables give the same files."""
    svg = vl_convert.vegalite_to_svg(for_paper(SPECS[name](tables)))
    svg = _renumber_ids(svg)
    return {kind: _CONVERTERS[kind](svg) for kind in kinds}


def for_paper(spec: Spec) -> Spec:
    """Return a specification with the width and the theme of a paper."""
    spec = copy.deepcopy(spec)
    if "concat" in spec:
        for panel in spec["concat"]:
            panel["width"] = WIDTH // spec["columns"] - _MARGIN
    else:
        spec |= {"width": WIDTH, "autosize": {"type": "fit-x", "contains": "padding"}}
    return {**spec, "config": dict(CONFIG)}


def _renumber_ids(svg: str) -> str:
    """Renumber gradients and clips: vl-convert counts over all plots of a process."""
    ids: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return ids.setdefault(match[0], f"{match[1]}{len(ids)}")

    return re.sub(r"(?<=[\"#])(gradient_|clip)\d+(?=[\")])", rename, svg)


_CONVERTERS: Mapping[str, Callable[[str], bytes]] = {
    "svg": lambda svg: svg.encode(),
    "png": lambda svg: bytes(vl_convert.svg_to_png(svg, ppi=PPI)),
    "pdf": lambda svg: bytes(vl_convert.svg_to_pdf(svg)),
}
