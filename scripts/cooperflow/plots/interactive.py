"""The interactive form of each plot, for the report: tables in, Plotly figure out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cooperflow.plots import plotdata
from cooperflow.plots.plotdata import (
    OUTCOME_COLOURS,
    PAIRED_COLOURS,
    PAIRED_WORDS,
    Tables,
)
from cooperflow.plots.shapes import Plot, Point

_ROW = 28  # pixels of a row


def figure_pass_rates(tables: Tables) -> go.Figure:
    """Return the forest plot of the experiments' pass rates."""
    plot = plotdata.pass_rates(tables)
    figure = go.Figure()
    for point in reversed(plot.points):
        figure.add_trace(_scatter([point.value], [f"{point.label} (n={point.n})"], [point]))
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    return _finished(figure, plot, 140 + _ROW * len(plot.points), legend=False)


def figure_paired_outcomes(tables: Tables) -> go.Figure:
    """Return stacked bars of what the same pairs came to in two experiments."""
    plot = plotdata.paired_outcomes(tables)
    totals = [sum(counts) for counts in zip(*plot.counts.values(), strict=True)]
    labels = [f"{label} (n={n})" for label, n in zip(plot.labels, totals, strict=True)]
    figure = go.Figure()
    for key, counts in plot.counts.items():
        shares = [c / n if n else 0 for c, n in zip(counts, totals, strict=True)]
        figure.add_trace(
            go.Bar(
                x=shares,
                y=labels,
                orientation="h",
                name=PAIRED_WORDS[key],
                marker_color=PAIRED_COLOURS[key],
                text=[str(c) if c else "" for c in counts],
                insidetextanchor="middle",
                hovertemplate="%{y}: %{text}<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(autorange="reversed")
    return _finished(figure, plot, 220 + _ROW * len(labels))


def figure_coordination_gap(tables: Tables) -> go.Figure:
    """Return the pass rate of each setting over difficulty, a panel for each model."""
    plot = plotdata.coordination_gap(tables)
    panels = plot.panels or ("",)
    figure = make_subplots(rows=len(panels), cols=1, subplot_titles=panels, shared_xaxes=True)
    told: set[str] = set()
    for curve in plot.curves:
        trace = _scatter(list(curve.at), [p.value for p in curve.points], curve.points, along="y")
        trace.update(
            mode="lines+markers",
            name=curve.label,
            legendgroup=curve.label,
            showlegend=curve.label not in told,
            line_color=curve.colour,
        )
        told.add(curve.label)
        figure.add_trace(trace, row=panels.index(curve.panel) + 1, col=1)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", title_text=plot.y)
    figure.update_xaxes(range=[0, 1])
    figure.update_xaxes(title_text=plot.x, row=len(panels), col=1)
    return _finished(figure, plot, 200 + 260 * len(panels), axes=False)


def figure_cost_success(tables: Tables) -> go.Figure:
    """Return the pass rate of each experiment over the mean cost of its runs."""
    plot = plotdata.cost_success(tables)
    figure = go.Figure()
    for at, point in zip(plot.at, plot.points, strict=True):
        trace = _scatter([at], [point.value], [point], along="y")
        trace.update(name=f"{point.label} (n={point.n})")
        figure.add_trace(trace)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    figure.update_xaxes(rangemode="tozero")
    return _finished(figure, plot, 460)


def figure_repo_outcomes(tables: Tables) -> go.Figure:
    """Return the heat map of pass rates by repo and experiment."""
    plot = plotdata.repo_outcomes(tables)
    figure = go.Figure(
        go.Heatmap(
            z=plot.values,
            x=plot.columns,
            y=plot.rows,
            text=plot.texts,
            texttemplate="%{text}",
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            colorbar={"title": "pass rate", "tickformat": ".0%"},
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    return _finished(figure, plot, 200 + _ROW * len(plot.rows))


def figure_timeline(tables: Tables) -> go.Figure:
    """Return when each run ran, coloured by its outcome."""
    plot = plotdata.timeline(tables)
    figure = go.Figure()
    for ending in dict.fromkeys([*OUTCOME_COLOURS, *(bar.outcome for bar in plot.bars)]):
        bars = [bar for bar in plot.bars if bar.outcome == ending]
        if not bars:
            continue
        figure.add_trace(
            go.Bar(
                base=[bar.start for bar in bars],
                x=[bar.length for bar in bars],
                y=[bar.lane for bar in bars],
                orientation="h",
                width=0.8,
                name=f"{ending} ({len(bars)})",
                marker_color=OUTCOME_COLOURS.get(ending, "#000000"),
                customdata=[bar.label for bar in bars],
                hovertemplate="%{customdata}, %{x:.2f} "
                f"{plot.unit}<extra>%{{fullData.name}}</extra>",
            )
        )
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(
        autorange="reversed",
        tickvals=[lane for _, lane in plot.experiments],
        ticktext=[name for name, _ in plot.experiments],
    )
    return _finished(figure, plot, 220 + 14 * plot.lanes)


FIGURES: Mapping[str, Callable[[Tables], go.Figure]] = {
    "pass_rates": figure_pass_rates,
    "paired_outcomes": figure_paired_outcomes,
    "coordination_gap": figure_coordination_gap,
    "cost_success": figure_cost_success,
    "repo_outcomes": figure_repo_outcomes,
    "timeline": figure_timeline,
}


def _scatter(x: list[object], y: list[object], points: object, along: str = "x") -> go.Scatter:
    """Return points with their intervals, which lie ``along`` an axis."""
    known: list[Point] = list(points)  # type: ignore[call-overload]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [p.high - p.value for p in known],
        "arrayminus": [p.value - p.low for p in known],
    }
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"color": known[0].colour, "size": 9},
        customdata=[[p.label, p.n, p.value, p.low, p.high] for p in known],
        hovertemplate="%{customdata[0]}: %{customdata[2]:.1%} (%{customdata[3]:.1%} to "
        "%{customdata[4]:.1%}), n=%{customdata[1]}<extra></extra>",
        **{f"error_{along}": bars},
    )


def _finished(
    figure: go.Figure, plot: Plot, height: int, legend: bool = True, axes: bool = True
) -> go.Figure:
    figure.update_layout(
        title=plot.title,
        height=height,
        showlegend=legend,
        template="plotly_white",
        margin={"l": 20, "r": 20, "t": 60, "b": 100 if legend else 50},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
    )
    figure.update_yaxes(automargin=True)
    figure.update_xaxes(automargin=True)
    if axes:
        figure.update_xaxes(title_text=plot.x)
        figure.update_yaxes(title_text=plot.y)
    return figure
