"""Plots as files for a paper: PNG, SVG and PDF by vl-convert, without a browser or system fonts."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import vl_convert

from cooperflow import atomic_io, layout
from cooperflow.experiment.plan import Plan
from cooperflow.plots import plot_data
from cooperflow.plots.plot_data import Tables
from cooperflow.plots.specifications import SPECS, Spec

WIDTH = 504  # points: 7 inches, two columns of a paper
PPI = 200
FONT = "Liberation Sans"  # bundled with vl-convert
# A browser that shows an SVG may have another font: one of the same widths first.
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
