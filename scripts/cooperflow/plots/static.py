"""The static form of each plot, for a paper: drawn by matplotlib, which needs no browser."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from cooperflow.plots import plotdata
from cooperflow.plots.plotdata import (
    OUTCOME_COLOURS,
    PAIRED_COLOURS,
    PAIRED_WORDS,
    Tables,
)
from cooperflow.plots.shapes import Plot, Point

WIDTH = 7.0  # inches: two columns of a paper
ROW = 0.3
_MANY = 2000  # marks above which a vector file holds them as a picture
_LABELLED = 12  # points or columns up to which each has its own text
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names are names, whatever they hold
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # fonts that journals accept
    "svg.hashsalt": "cooperflow",  # the same tables give the same file
}


def render(name: str, tables: Tables, kinds: tuple[str, ...]) -> dict[str, bytes]:
    """Return a plot as files, by their ending."""
    with matplotlib.rc_context(_STYLE):
        figure = DRAWINGS[name](tables)
        files = {}
        for kind in kinds:
            buffer = io.BytesIO()
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            figure.savefig(buffer, format=kind, dpi=200, metadata=undated)
            files[kind] = buffer.getvalue()
            # The first one settled the layout, which is the dear part.
            figure.set_layout_engine("none")
    return files


def _pass_rates(tables: Tables) -> Figure:
    plot = plotdata.pass_rates(tables)
    figure, axes = _figure(plot, 1.2 + ROW * len(plot.points))
    for row, point in enumerate(plot.points):
        _mark(axes, [row], [point], along="x")
    _rows(axes, [f"{point.label} (n={point.n})" for point in plot.points])
    _share(axes.xaxis, axes.set_xlim)
    return figure


def _paired_outcomes(tables: Tables) -> Figure:
    plot = plotdata.paired_outcomes(tables)
    figure, axes = _figure(plot, 1.6 + ROW * len(plot.labels))
    totals = [sum(counts) for counts in zip(*plot.counts.values(), strict=True)]
    left = [0.0] * len(totals)
    for key, counts in plot.counts.items():
        shares = [c / n if n else 0.0 for c, n in zip(counts, totals, strict=True)]
        bars = axes.barh(
            range(len(totals)),
            shares,
            left=left,
            color=PAIRED_COLOURS[key],
            label=PAIRED_WORDS[key],
        )
        for bar, count in zip(bars, counts, strict=True):
            if count:
                _text(axes, bar.get_center(), str(count), "white" if key == "both" else "black")
        left = [a + b for a, b in zip(left, shares, strict=True)]
    _rows(axes, [f"{label} (n={n})" for label, n in zip(plot.labels, totals, strict=True)])
    _share(axes.xaxis, axes.set_xlim, 0.0)
    if totals:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _coordination_gap(tables: Tables) -> Figure:
    plot = plotdata.coordination_gap(tables)
    panels = plot.panels or ("",)
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.4 * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for unused in grid.flat[len(panels) :]:
        unused.set_axis_off()
    for panel, axes in zip(panels, grid.flat, strict=False):
        curves = [curve for curve in plot.curves if curve.panel == panel]
        for place, curve in enumerate(curves):
            # Side by side, so that intervals do not hide each other.
            shift = 0.008 * (place - (len(curves) - 1) / 2)
            graded = sum(point.n for point in curve.points)
            _mark(
                axes,
                [x + shift for x in curve.at],
                curve.points,
                along="y",
                linestyle="-",
                label=f"{curve.label} (n={graded})",
            )
        if curves:
            axes.legend(frameon=False, fontsize=7)
        axes.set_title(panel)
        _share(axes.yaxis, axes.set_ylim)
        axes.set_xlim(0, 1)
    figure.suptitle(plot.title, fontsize=10)
    figure.supxlabel(plot.x, fontsize=9)
    figure.supylabel(plot.y, fontsize=9)
    return figure


def _cost_success(tables: Tables) -> Figure:
    plot = plotdata.cost_success(tables)
    figure, axes = _figure(plot, 4.0)
    few = len(plot.points) <= _LABELLED
    highest = max((at for at in plot.at if at == at), default=0.0)
    told: set[str] = set()
    for at, point in zip(plot.at, plot.points, strict=True):
        group = "" if few or point.group in told else point.group
        told.add(point.group)
        _mark(axes, [at], [point], along="y", label=group)
        if few:
            axes.annotate(
                f"{point.label} (n={point.n})",
                (at, point.value),
                # To the side where there is room for it.
                xytext=(-7 if at > 0.6 * highest else 7, -10),
                ha="right" if at > 0.6 * highest else "left",
                textcoords="offset points",
                fontsize=8,
                in_layout=False,
            )
    if not few:
        axes.legend(frameon=False)
    _share(axes.yaxis, axes.set_ylim)
    axes.set_xlim(0, 1.1 * highest or 1.0)
    return figure


def _repo_outcomes(tables: Tables) -> Figure:
    plot = plotdata.repo_outcomes(tables)
    figure, axes = _figure(plot, 1.8 + ROW * len(plot.rows))
    if not plot.rows:
        return figure
    image = axes.imshow(plot.values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    few = len(plot.columns) <= _LABELLED
    for row, texts in enumerate(plot.texts):
        for column, text in enumerate(texts):
            if few:
                light = plot.values[row][column] < 0.6
                _text(axes, (column, row), text, "white" if light else "black")
    angle = {"rotation": 30, "ha": "right"} if few else {"rotation": 90}
    axes.set_xticks(range(len(plot.columns)), plot.columns, **angle)
    axes.set_yticks(range(len(plot.rows)), plot.rows)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label="pass rate")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _timeline(tables: Tables) -> Figure:
    plot = plotdata.timeline(tables)
    figure, axes = _figure(plot, min(1.6 + 0.16 * plot.lanes, 20.0))
    endings = [bar.outcome for bar in plot.bars]
    corners = [
        [
            (bar.start, bar.lane - 0.4),
            (bar.start + bar.length, bar.lane - 0.4),
            (bar.start + bar.length, bar.lane + 0.4),
            (bar.start, bar.lane + 0.4),
        ]
        for bar in plot.bars
    ]
    colours = [OUTCOME_COLOURS.get(ending, "#000000") for ending in endings]
    axes.add_collection(
        PolyCollection(
            corners, facecolors=colours, edgecolors="white",
            linewidths=0.4 if len(corners) <= 600 else 0.0,  # else the edges hide the bars
            rasterized=len(corners) > _MANY,
        )
    )  # fmt: skip
    axes.set_xlim(0, max((bar.start + bar.length for bar in plot.bars), default=1.0))
    axes.set_ylim(max(plot.lanes, 1) - 0.5, -0.5)
    axes.set_yticks([lane for _, lane in plot.experiments], [name for name, _ in plot.experiments])
    for _, lane in plot.experiments[1:]:
        axes.axhline(lane - 0.5, color="#DDDDDD", linewidth=0.8)
    known = [ending for ending in OUTCOME_COLOURS if ending in endings]
    handles = [Patch(color=OUTCOME_COLOURS[e], label=f"{e} (n={endings.count(e)})") for e in known]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


DRAWINGS: Mapping[str, Callable[[Tables], Figure]] = {
    "pass_rates": _pass_rates,
    "paired_outcomes": _paired_outcomes,
    "coordination_gap": _coordination_gap,
    "cost_success": _cost_success,
    "repo_outcomes": _repo_outcomes,
    "timeline": _timeline,
}


def _figure(plot: Plot, height: float) -> tuple[Figure, matplotlib.axes.Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle(plot.title, fontsize=10)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    return figure, axes


def _rows(axes: matplotlib.axes.Axes, labels: list[str]) -> None:
    """Name the rows, the first one on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _share(
    axis: matplotlib.axis.Axis, limit: Callable[[float, float], object], margin: float = 0.02
) -> None:
    limit(-margin, 1 + margin)
    axis.set_major_formatter(PercentFormatter(1.0))
    axis.grid(True, color="#DDDDDD", linewidth=0.6)
    axis.axes.set_axisbelow(True)


def _mark(
    axes: matplotlib.axes.Axes,
    at: Sequence[float],
    points: Sequence[Point],
    along: str,
    linestyle: str = "none",
    label: str = "",
) -> None:
    """Draw points of one colour with their intervals, which lie ``along`` an axis."""
    known = [(place, p) for place, p in zip(at, points, strict=True) if p.value == p.value]
    if not known:
        return
    places, values = [place for place, _ in known], [p.value for _, p in known]
    # An interval that rounding left beside its value has no length on that side.
    interval = [
        [max(p.value - p.low, 0.0) for _, p in known],
        [max(p.high - p.value, 0.0) for _, p in known],
    ]
    sideways = along == "x"
    axes.errorbar(
        values if sideways else places,
        places if sideways else values,
        xerr=interval if sideways else None,
        yerr=None if sideways else interval,
        marker=points[0].marker,
        linestyle=linestyle,
        linewidth=1.2,
        color=points[0].colour,
        markersize=5,
        capsize=2.5,
        label=label or None,
    )


def _text(axes: matplotlib.axes.Axes, at: tuple[float, float], text: str, colour: str) -> None:
    axes.text(*at, text, ha="center", va="center", color=colour, fontsize=8, in_layout=False)
