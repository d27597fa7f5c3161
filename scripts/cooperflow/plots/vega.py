"""Building blocks of Vega-Lite specifications, and their conversion to image files.

A specification has no width and no theme; the report and `adapt_to_paper` set both. Names are
always data, never markup. vl-convert draws PNG, SVG and PDF without a browser or system fonts.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert

Spec = dict[str, Any]
Row = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
ROW_HEIGHT = 24  # pixels
INK = {"condition": {"test": "datum.ink === 'white'", "value": "white"}, "value": "black"}

# Okabe and Ito's colours, distinguishable with every common colour blindness. Source:
# M. Okabe and K. Ito, "Color universal design" (2008), https://jfly.uni-koeln.de/color/.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
# Shapes that distinguish settings without colour.
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "stroke")

WIDTH = 504  # points: 7 inches, two columns of a paper
PPI = 200
FONT = "Liberation Sans"  # bundled with vl-convert
# A browser that shows an SVG may lack the font, so a font of the same widths is next.
FONTS = f"{FONT}, Arial, Helvetica, sans-serif"
# The theme of a paper. Legends are below the plot, since names of experiments are long.
CONFIG: Mapping[str, Any] = {
    "font": FONTS,
    "padding": 12,  # so that wider letters of another font are not cut at the edge
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
    # A single weight, because with two fonts the order of objects in a PDF varies.
    "legend": {
        "orient": "bottom",
        "labelFontSize": 9,
        "titleFontSize": 9,
        "titleFontWeight": "normal",
        "labelLimit": 230,
    },
}
_MARGIN = 60  # space beside a panel for its axis, points


@dataclass(frozen=True)
class Style:
    """Style in which a setting or an experiment is drawn in all plots."""

    colour: str
    marker: str  # Vega's name of the shape


def assign_styles(names: Iterable[str]) -> dict[str, Style]:
    """Return the style of each name, by their order."""
    return {
        name: Style(COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)])
        for n, name in enumerate(dict.fromkeys(names))
    }


def point(
    label: str,
    n: int,
    row: Mapping[Any, Any],
    group: str,
    column: str = "pass_rate",
    **fields: Any,
) -> Row:
    """Return the data row for a table row with its interval in ci_low and ci_high.

    Args:
        n: number of runs or pairs behind the value.
        group: name whose style the point has.
        column: name of the column with the value.
        fields: additional fields of the data row.
    """
    value, low, high = (number(row.get(key)) for key in (column, "ci_low", "ci_high"))
    tip = f"{label}: no evaluated run"
    if value is not None:
        ends = "" if low is None or high is None else f" ({low:.1%} to {high:.1%}), n={n}"
        tip = f"{label}: {value:.1%}{ends}"
    data = {"label": label, "group": group, "value": value, "low": low, "high": high}
    return {**data, "n": n, "tip": tip, **fields}


def number(value: Any) -> float | None:
    """Return a value for JSON: None for NaN and for a missing value."""
    return None if value is None or math.isnan(float(value)) else float(value)


def segment(name: str, kind: str, count: int, start: float, end: float, is_dark: bool) -> Row:
    """Return the data row of a segment of a stacked bar; text on a dark segment is white."""
    return {
        "name": name,
        "kind": kind,
        "count": count,
        "start": start,
        "end": end,
        "middle": (start + end) / 2,
        "text": str(count) if count else "",
        "ink": "white" if is_dark else "black",
        "tip": f"{name}: {count} {kind}",
    }


def shift_apart(curves: Iterable[Sequence[Row]], distance: float) -> list[Row]:
    """Return the rows of curves, shifted along x so that intervals do not hide each other."""
    every = list(curves)
    return [
        {**row, "at": row["at"] + distance * (number - (len(every) - 1) / 2)}
        for number, rows in enumerate(every)
        for row in rows
    ]


def view(title: str, rows: list[Row], layers: list[Spec], height: int) -> Spec:
    """Return the specification of one view."""
    data = {"values": rows}
    return {"$schema": SCHEMA, "title": title, "height": height, "data": data, "layer": layers}


def panels(title: str, contents: Sequence[Spec], columns: int) -> Spec:
    """Return the specification of several views side by side."""
    across = min(len(contents), columns) or 1
    return {"$schema": SCHEMA, "title": title, "concat": list(contents), "columns": across}


def views(spec: Spec) -> list[Spec]:
    """Return the single views of a specification."""
    return list(spec["concat"]) if "concat" in spec else [spec]


def has_data(spec: Spec) -> bool:
    """Return whether any view of a specification has a row."""
    return any(single["data"]["values"] for single in views(spec))


def marks(along: str, encoding: Mapping[str, Any], title: str) -> list[Spec]:
    """Return the layers of points with their intervals along an axis."""
    colour = {"color": encoding["color"]}
    rest = {key: value for key, value in encoding.items() if key not in ("color", "shape")}
    interval = {**rest, **colour, along: share("low", title), f"{along}2": {"field": "high"}}
    middle = {**encoding, along: share("value", title), "tooltip": {"field": "tip"}}
    return [
        {"mark": {"type": "rule", "strokeWidth": 1.3}, "encoding": interval},
        {"mark": {"type": "point", "filled": True, "size": 50, "opacity": 1}, "encoding": middle},
    ]


def lines(x: Spec, styles: Mapping[str, Style], title: str) -> list[Spec]:
    """Return the layers of the curves' lines and points."""
    encodings = group_encodings(styles, "curve")
    line = {"x": x, "y": share("value", title), "color": encodings["color"]}
    return [
        {"mark": {"type": "line"}, "encoding": line},
        *marks("y", {"x": x, **encodings}, title),
    ]


def stacked_bars(
    x_title: str, names: Sequence[str], kinds: Sequence[str], colours: Iterable[str]
) -> list[Spec]:
    """Return the layers of stacked bars (a row for each name) and of the text in the segments."""
    y = nominal_rows("name", names)
    bars = {
        "x": share("start", x_title),
        "x2": {"field": "end"},
        "y": y,
        "color": colour("kind", kinds, colours),
        "tooltip": {"field": "tip"},
    }
    texts = {"x": quantity("middle"), "y": y, "text": {"field": "text"}, "color": INK}
    return [
        {"mark": {"type": "bar"}, "encoding": bars},
        {"mark": {"type": "text", "fontSize": 10}, "encoding": texts},
    ]


def nominal_rows(field: str, names: Sequence[str]) -> Spec:
    """Return the encoding of names as rows in the given order."""
    scale, axis = {"domain": list(names)}, {"grid": False}
    return {"field": field, "type": "nominal", "title": None, "scale": scale, "axis": axis}


def share(field: str, title: str) -> Spec:
    """Return the encoding of a share between 0 and 1 on an axis of percent."""
    scale = {"domain": [0, 1], "nice": False}
    axis = {"format": "%", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    return quantity(field, title, scale=scale, axis=axis)


def quantity(field: str, title: str | None = "", **rest: Any) -> Spec:
    """Return the encoding of a number. title: of the axis; empty: Vega's default; None: none."""
    named = {} if title == "" else {"title": title}
    return {"field": field, "type": "quantitative", **named, **rest}


def group_encodings(
    styles: Mapping[str, Style], field: str = "group", has_legend: bool = True
) -> dict[str, Any]:
    """Return the encodings of the groups' colours and shapes."""
    names = list(styles)
    shapes = {"domain": names, "range": [style.marker for style in styles.values()]}
    shape = {"field": field, "type": "nominal", "scale": shapes}
    colours = colour(field, names, [style.colour for style in styles.values()])
    if not has_legend or not names:  # a legend without entries would make the plot infinitely high
        return {"color": {**colours, "legend": None}, "shape": {**shape, "legend": None}}
    return {"color": colours, "shape": {**shape, "legend": {"title": None}}}


def colour(field: str, names: Sequence[str], colours: Iterable[str]) -> Spec:
    """Return the encoding of names by colour."""
    scale = {"domain": list(names), "range": list(colours)}
    legend = {"title": None} if names else None  # as above
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def draw(spec: Spec, kinds: Iterable[str]) -> dict[str, bytes]:
    """Return the files of a plot by suffix. Equal specifications give equal files."""
    svg = _renumber_ids(vl_convert.vegalite_to_svg(adapt_to_paper(spec)))
    return {kind: _CONVERTERS[kind](svg) for kind in kinds}


def adapt_to_paper(spec: Spec) -> Spec:
    """Return a specification with the width and the theme of a paper."""
    spec = copy.deepcopy(spec)
    if "concat" in spec:
        for panel in spec["concat"]:
            panel["width"] = WIDTH // spec["columns"] - _MARGIN
    else:
        spec |= {"width": WIDTH, "autosize": {"type": "fit-x", "contains": "padding"}}
    return {**spec, "config": dict(CONFIG)}


def _renumber_ids(svg: str) -> str:
    """Renumber gradients and clips, because vl-convert numbers them per process."""
    ids: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return ids.setdefault(match[0], f"{match[1]}{len(ids)}")

    return re.sub(r"(?<=[\"#])(gradient_|clip)\d+(?=[\")])", rename, svg)


_CONVERTERS: Mapping[str, Callable[[str], bytes]] = {
    "svg": lambda svg: svg.encode(),
    "png": lambda svg: bytes(vl_convert.svg_to_png(svg, ppi=PPI)),
    "pdf": lambda svg: bytes(vl_convert.svg_to_pdf(svg)),
}
