"""The figures as the report draws them: what each is called, and Plotly's own document of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cooperflow.outcomes import outcome
from cooperflow.plots import interactive
from cooperflow.plots.plotdata import COLOURS, Tables, titled

CAPTIONS = {
    "pass_rates": "pass / (pass + fail); infrastructure errors are left out.",
    "paired_outcomes": "Pairs with an outcome in both. The two middle parts make the difference.",
    "coordination_gap": "How often two agents pass what one agent alone finds easy or hard.",
    "cost_success": "Over all attempts of a run; intervals are Wilson's, 95 %.",
    "repo_outcomes": "Passes of the runs that were graded.",
    "timeline": "A bar for each run, by the outcome it came to.",
    "reasons": "Runs that ended as fail or infra_error.",
}
# The page sets these for light and dark, wide and narrow.
_PAGES_OWN = ("title", "template", "legend", "margin", "font")


@dataclass(frozen=True)
class Figure:
    """A figure, what it is called and what it shows."""

    name: str
    title: str
    caption: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "data": list(self.traces), "layout": dict(self.layout)}


def every(tables: Tables) -> list[Figure]:
    """Return the figures that there is something to draw for."""
    made = [_of_plotly(name, make(tables)) for name, make in interactive.FIGURES.items()]
    why = reasons(tables.runs)
    return [figure for figure in [*made, *([why] if why else [])] if _says_something(figure)]


def _says_something(figure: Figure) -> bool:
    """Whether any of its traces has a value."""
    values = (trace.get(axis) for trace in figure.traces for axis in ("x", "y", "z"))
    return any(isinstance(v, Mapping) or (v and any(x is not None for x in v)) for v in values)


def _of_plotly(name: str, figure: Any) -> Figure:
    document = json.loads(figure.to_json())
    layout = document["layout"]
    title = (layout.get("title") or {}).get("text") or name
    kept = {key: value for key, value in layout.items() if key not in _PAGES_OWN}
    return Figure(name, title, CAPTIONS.get(name, ""), document["data"], kept)


def reasons(runs: pd.DataFrame) -> Figure | None:
    """Why runs did not pass."""
    bad = runs[runs["outcome"].isin([outcome.FAIL, outcome.INFRA_ERROR])]
    if bad.empty:
        return None
    order = list(dict.fromkeys(runs["run_name"]))
    table = bad.groupby(["reason", "run_name"]).size().unstack(fill_value=0)
    table = table.reindex(columns=order, fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [str(reason) or "no reason" for reason in table.index],
            "x": [int(n) for n in table[name]],
            "marker": {"color": COLOURS[number % len(COLOURS)]},
            "hovertemplate": "%{y}: %{x} runs<extra>%{fullData.name}</extra>",
        }
        for number, name in enumerate(order)
    ]
    most = int(table.sum(axis=1).max())
    axis: dict[str, Any] = {"title": {"text": "runs"}, "rangemode": "tozero"}
    return Figure(
        "reasons",
        titled("Why runs did not pass", runs),
        CAPTIONS["reasons"],
        traces,
        {
            "barmode": "stack",
            "xaxis": {**axis, "dtick": 1} if most <= 8 else axis,
            "yaxis": {"autorange": "reversed", "automargin": True},
            "height": 150 + 34 * len(table),
        },
    )
