"""Figures of the report: title, caption and Vega-Lite specification of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from cooperflow.outcomes import judgement
from cooperflow.plots import specifications
from cooperflow.plots.plot_data import Tables, titled
from cooperflow.plots.specifications import Spec

CAPTIONS = {
    "pass_rates": "pass / (pass + fail); infrastructure errors are left out.",
    "paired_outcomes": "Pairs with an outcome in both. The two middle parts make the difference.",
    "coordination_gap": "How often two agents pass what one agent alone finds easy or hard.",
    "cost_success": "Over all attempts of a run; intervals are Wilson's, 95 %.",
    "repo_outcomes": "Passes of the runs that were graded.",
    "timeline": "A bar for each run, by the outcome it came to.",
    "reasons": "Runs that ended as fail or infra_error.",
}


@dataclass(frozen=True)
class Figure:
    """A figure, what it is called and what it shows."""

    name: str
    title: str
    caption: str
    spec: Spec

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "spec": {k: v for k, v in self.spec.items() if k != "title"}}

    @property
    def height(self) -> int:
        """Pixels that it needs on the page: its panels are one below the other there."""
        return sum(int(view["height"]) + 80 for view in specifications.views(self.spec))


def every(tables: Tables) -> list[Figure]:
    """Return the figures that there is something to draw for."""
    made = {name: make(tables) for name, make in specifications.SPECS.items()}
    why = reasons(tables.runs)
    made |= {"reasons": why} if why else {}
    return [
        Figure(name, str(spec["title"]), CAPTIONS.get(name, ""), spec)
        for name, spec in made.items()
        if specifications.has_data(spec)
    ]


def reasons(runs: pd.DataFrame) -> Spec | None:
    """Return the figure of why runs did not pass, None where all did."""
    bad = runs[runs["outcome"].isin([judgement.FAIL, judgement.INFRA_ERROR])]
    if bad.empty:
        return None
    order = list(dict.fromkeys(runs["run_name"]))
    table = bad.groupby(["reason", "run_name"]).size().unstack(fill_value=0)
    table = table.reindex(columns=order, fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    counts = [
        (str(reason) or "no reason", name, int(table.loc[reason, name]))
        for reason in table.index
        for name in order
    ]
    return specifications.reasons(titled("Why runs did not pass", runs), counts, order)
