"""The figures of the report as Plotly's own documents, made from the tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from cooperflow import outcome, stats

# Colours that colour-blind readers can tell apart (Okabe and Ito), on light and on dark.
COLOURS = {
    outcome.PASS: "#009e73",
    outcome.FAIL: "#d55e00",
    outcome.INFRA_ERROR: "#8c8c8c",
}
EXPERIMENTS = ("#3b82c4", "#cc79a7", "#e69f00", "#009e73", "#8a6fc9", "#8c8c8c")
LINE = "#8a8f98"  # of intervals: seen on light and on dark
# Above this many runs the time line counts them instead of drawing each.
MOST_BARS = 2_000
TALLY = 400  # points of such a count


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


def every(
    runs: pd.DataFrame, summary: pd.DataFrame, times: Mapping[str, tuple[float, float]]
) -> list[Figure]:
    """Return the figures that there is something to draw for.

    Args:
        times: when each run (by its place in ``runs``) began and ended, seconds.
    """
    made = [
        forest(summary),
        paired(runs),
        by_difficulty(runs),
        cost(summary),
        heat(runs),
        reasons(runs),
        time_line(runs, times),
    ]
    return [figure for figure in made if figure is not None]


def forest(summary: pd.DataFrame) -> Figure | None:
    """Pass rates with their intervals."""
    shown = summary[summary["pass_rate"].notna()]
    if shown.empty:
        return None
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": _list(shown["pass_rate"]),
        "y": _list(shown["run_name"]),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": _list(shown["ci_high"] - shown["pass_rate"]),
            "arrayminus": _list(shown["pass_rate"] - shown["ci_low"]),
            "color": LINE,
            "thickness": 1.5,
            "width": 5,
        },
        "marker": {"size": 10, "color": _colours(len(shown)), "symbol": "square"},
        "customdata": shown[["ci_low", "ci_high", "pass", "fail", "infra_error"]].values.tolist(),
        "hovertemplate": (
            "%{y}<br>%{x:.1%} [%{customdata[0]:.1%}, %{customdata[1]:.1%}]<br>"
            "%{customdata[2]} passed, %{customdata[3]} failed, %{customdata[4]} infra errors"
            "<extra></extra>"
        ),
    }
    return Figure(
        "forest",
        "Pass rates",
        "pass / (pass + fail) with 95 % Wilson intervals; infrastructure errors are left out.",
        [trace],
        {
            "xaxis": {"range": [-0.02, 1.02], "tickformat": ".0%"},
            "yaxis": {"autorange": "reversed", "automargin": True},
            "height": 110 + 44 * len(shown),
            "showlegend": False,
        },
    )


def paired(runs: pd.DataFrame) -> Figure | None:
    """How the same pairs came out in two settings of a model."""
    labels: list[str] = []
    parts: dict[str, list[int]] = {"both": [], "first": [], "second": [], "neither": []}
    for _, model in runs.groupby("model", sort=False):
        passed = model[model["outcome"].isin([outcome.PASS, outcome.FAIL])].assign(
            ok=lambda table: table["outcome"] == outcome.PASS
        )
        wide = passed.pivot_table(
            index=["repo", "task_id", "features"],
            columns="run_name",
            values="ok",
            aggfunc="first",
            sort=False,
        )
        names = [n for n in dict.fromkeys(model["run_name"]) if n in wide]
        for first, second in combinations(names, 2):
            both = wide[[first, second]].dropna().astype(bool)
            a, b = both[first], both[second]
            labels.append(f"{first}<br>against {second}")
            parts["both"].append(int((a & b).sum()))
            parts["first"].append(int((a & ~b).sum()))
            parts["second"].append(int((~a & b).sum()))
            parts["neither"].append(int((~a & ~b).sum()))
    if not labels:
        return None
    named = {
        "both": ("both passed", COLOURS[outcome.PASS]),
        "first": ("only the first", "#3b82c4"),
        "second": ("only the second", "#e69f00"),
        "neither": ("neither", COLOURS[outcome.INFRA_ERROR]),
    }
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "x": parts[key],
            "y": labels,
            "text": parts[key],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}<br>{name}: %{{x}} pairs<extra></extra>",
        }
        for key, (name, colour) in named.items()
    ]
    return Figure(
        "paired",
        "The same pairs in two settings",
        "Pairs that have an outcome in both. The two middle parts are what the settings differ in.",
        traces,
        {
            "barmode": "stack",
            "xaxis": _whole("pairs", max(map(sum, zip(*parts.values(), strict=True)))),
            "yaxis": {"autorange": "reversed", "automargin": True},
            "height": 150 + 52 * len(labels),
        },
    )


def by_difficulty(runs: pd.DataFrame) -> Figure | None:
    """Pass rates of the other settings, apart for pairs that the agent alone solved or not."""
    keys = ["model", "repo", "task_id", "features"]
    decided = runs[runs["outcome"].isin([outcome.PASS, outcome.FAIL])]
    solo = decided[decided["setting"] == "solo"][[*keys, "outcome"]]
    others = decided[decided["setting"] != "solo"]
    if solo.empty or others.empty:
        return None
    joined = others.merge(solo, on=keys, suffixes=("", "_solo"))
    levels = ((outcome.PASS, "one agent alone solved it"), (outcome.FAIL, "one agent alone failed"))
    traces = []
    for colour, (name, group) in zip(
        EXPERIMENTS[1:] * 9, joined.groupby("run_name", sort=False), strict=False
    ):
        rates, texts, up, down = [], [], [], []
        for level, _ in levels:
            part = group[group["outcome_solo"] == level]
            passed, of = int((part["outcome"] == outcome.PASS).sum()), len(part)
            low, high = stats.wilson(passed, of)
            rate = passed / of if of else None
            rates.append(rate)
            texts.append(f"{passed} of {of}")
            up.append(high - rate if rate is not None else None)
            down.append(rate - low if rate is not None else None)
        traces.append(
            {
                "type": "bar",
                "name": str(name),
                "x": [label for _, label in levels],
                "y": rates,
                "text": texts,
                "textposition": "inside",
                "insidetextanchor": "start",
                "marker": {"color": colour},
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": up,
                    "arrayminus": down,
                    "color": LINE,
                    "thickness": 1.2,
                    "width": 4,
                },
                "hovertemplate": f"{name}<br>%{{x}}: %{{y:.1%}} (%{{text}})<extra></extra>",
            }
        )
    return Figure(
        "difficulty",
        "Coordination gap by difficulty",
        "How often two agents pass what one agent alone solved, and what it did not.",
        traces,
        {"barmode": "group", "yaxis": {"range": [0, 1.02], "tickformat": ".0%"}, "height": 360},
    )


def cost(summary: pd.DataFrame) -> Figure | None:
    """Cost of a run against the pass rate."""
    shown = summary[summary["pass_rate"].notna() & (summary["runs"] > 0)]
    if shown.empty:
        return None
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": str(row["run_name"]),
            "x": [row["cost_usd"] / row["runs"]],
            "y": [row["pass_rate"]],
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [row["ci_high"] - row["pass_rate"]],
                "arrayminus": [row["pass_rate"] - row["ci_low"]],
                "thickness": 1.2,
                "width": 4,
            },
            "marker": {"size": 11, "color": colour},
            "hovertemplate": "%{fullData.name}<br>$%{x:.4f} a run, %{y:.1%}<extra></extra>",
        }
        for colour, (_, row) in zip(_colours(len(shown)), shown.iterrows(), strict=True)
    ]
    return Figure(
        "cost",
        "Cost against success",
        "Mean cost of a run over all its attempts, and the pass rate with its interval.",
        traces,
        {
            "xaxis": {"title": {"text": "USD a run"}, "rangemode": "tozero", "tickprefix": "$"},
            "yaxis": {"range": [0, 1.02], "tickformat": ".0%"},
            "height": 360,
        },
    )


def heat(runs: pd.DataFrame) -> Figure | None:
    """Pass rate by repository and experiment."""
    decided = runs[runs["outcome"].isin([outcome.PASS, outcome.FAIL])]
    if decided.empty:
        return None
    ok = decided.assign(ok=(decided["outcome"] == outcome.PASS).astype(float))
    wide = ok.pivot_table(index="repo", columns="run_name", values="ok", aggfunc="mean")
    many = ok.pivot_table(index="repo", columns="run_name", values="ok", aggfunc="count")
    names = [n for n in dict.fromkeys(runs["run_name"]) if n in wide]
    rates, counts = wide[names], many[names]
    cells = [
        ["" if pd.isna(n) else f"{r:.0%}<br>n={int(n)}" for r, n in zip(rs, ns, strict=True)]
        for rs, ns in zip(rates.values.tolist(), counts.values.tolist(), strict=True)
    ]
    trace = {
        "type": "heatmap",
        "x": names,
        "y": [str(repo).removesuffix("_task") for repo in rates.index],
        "z": [[None if pd.isna(v) else v for v in row] for row in rates.values.tolist()],
        "zmin": 0,
        "zmax": 1,
        "text": cells,
        "texttemplate": "%{text}",
        "xgap": 2,
        "ygap": 2,
        "colorscale": [[0, "#b35806"], [0.5, "#c9c4bd"], [1, "#1b7f5f"]],
        "colorbar": {"tickformat": ".0%", "thickness": 10, "outlinewidth": 0},
        "hovertemplate": "%{y}, %{x}: %{text}<extra></extra>",
    }
    return Figure(
        "heat",
        "Outcome by repository",
        "Share of decided runs that passed, and their number.",
        [trace],
        {
            "yaxis": {"autorange": "reversed", "automargin": True},
            "xaxis": {"side": "top", "automargin": True},
            "height": 130 + 40 * len(rates),
        },
    )


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
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}, {name}: %{{x}} runs<extra></extra>",
        }
        for name, colour in zip(order, _colours(len(order)), strict=True)
    ]
    return Figure(
        "reasons",
        "Why runs did not pass",
        "Runs that ended as fail or infra_error, by reason.",
        traces,
        {
            "barmode": "stack",
            "xaxis": _whole("runs", int(table.sum(axis=1).max())),
            "yaxis": {"autorange": "reversed", "automargin": True},
            "height": 150 + 34 * len(table),
        },
    )


def time_line(runs: pd.DataFrame, times: Mapping[str, tuple[float, float]]) -> Figure | None:
    """When each run began and ended; for many runs, how many had ended."""
    known = runs[[key in times for key in runs["key"]]]
    if known.empty:
        return None
    many = len(known) > MOST_BARS
    lanes = {} if many else _lanes({key: times[key] for key in known["key"]})
    traces = []
    for name, colour in COLOURS.items():
        group = known[known["outcome"] == name]
        keys = list(group["key"])
        if not keys:
            continue
        if many:
            ends = sorted(times[key][1] for key in keys)
            step = max(1, len(ends) // TALLY)
            x: list[Any] = [_stamp(t) for t in ends[::step]]
            y: list[Any] = list(range(1, len(ends) + 1, step))
            style = {"mode": "lines", "line": {"color": colour, "width": 2, "shape": "hv"}}
            told: dict[str, Any] = {"hovertemplate": f"%{{y}} {name}<extra></extra>"}
        else:
            x, y, texts = [], [], []
            for key in keys:
                begun, ended = times[key]
                x += [_stamp(begun), _stamp(ended), None]
                y += [lanes[key], lanes[key], None]
                texts += [key, key, ""]
            style = {"mode": "lines", "line": {"color": colour, "width": 6}}
            told = {"text": texts, "hovertemplate": "%{text}<br>%{x}<extra></extra>"}
        traces.append({"type": "scatter", "name": name, "x": x, "y": y, **style, **told})
    axis = {"title": {"text": "runs that had ended"}} if many else {"visible": False}
    return Figure(
        "time",
        "The experiment in time",
        "UTC. " + ("Runs that had ended, by outcome." if many else "One bar for each run."),
        traces,
        {"yaxis": axis, "xaxis": {"type": "date"}, "height": 320 if many else 200 + 8 * 4},
    )


def _lanes(times: Mapping[str, tuple[float, float]]) -> dict[str, int]:
    """Give each run the lowest line that is free when it begins."""
    free: list[float] = []
    lanes = {}
    for key in sorted(times, key=lambda k: times[k]):
        begun, ended = times[key]
        lane = next((i for i, until in enumerate(free) if until <= begun), len(free))
        if lane == len(free):
            free.append(ended)
        free[lane] = ended
        lanes[key] = lane
    return lanes


def _stamp(moment: float) -> str:
    return str(pd.Timestamp(moment, unit="s").strftime("%Y-%m-%d %H:%M:%S"))


def _whole(title: str, most: int) -> dict[str, Any]:
    """Return an axis that counts: no ticks between whole numbers."""
    axis: dict[str, Any] = {"title": {"text": title}, "rangemode": "tozero"}
    return {**axis, "dtick": 1} if most <= 8 else axis


def _colours(number: int) -> list[str]:
    return [EXPERIMENTS[i % len(EXPERIMENTS)] for i in range(number)]


def _list(column: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in column.tolist()]
