"""Data of the plots: numbers, labels and colours, independent of the renderer. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cooperflow import layout
from cooperflow.analysis import communication, losses
from cooperflow.outcomes import judgement
from cooperflow.tables import breakdowns, paper_tables
from cooperflow.tables.communication_tables import PROPERTIES
from cooperflow.tables.run_table import read_runs, read_table
from cooperflow.upstream import published


@dataclass(frozen=True)
class Plot:
    """The fields of every plot."""

    title: str
    x: str
    y: str


@dataclass(frozen=True)
class Look:
    """How a setting is drawn, everywhere the same."""

    group: str
    colour: str
    marker: str  # Vega's name of its shape


@dataclass(frozen=True)
class Point:
    """A value with its interval; NaN if missing."""

    label: str
    n: int
    value: float
    low: float
    high: float
    look: Look


@dataclass(frozen=True)
class Points(Plot):
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Shares(Plot):
    """Bars of counts that add up to n."""

    labels: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """A segment of a stage's bar: runs that continue, or runs lost there or before."""

    stage: str
    kind: str
    count: int
    start: float  # shares
    end: float


@dataclass(frozen=True)
class Flow(Plot):
    """Runs through the stages of cooperation, a panel for each experiment."""

    panels: tuple[str, ...]
    parts: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class Curve:
    panel: str
    label: str
    colour: str
    at: tuple[float, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curves(Plot):
    panels: tuple[str, ...]
    curves: tuple[Curve, ...]
    x_format: str = ""  # of the numbers on the x axis; empty: Vega's own


@dataclass(frozen=True)
class Scatter(Plot):
    """Points with a position on the x axis."""

    at: tuple[float, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Grid(Plot):
    """A value and its text per row and column."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Bar:
    lane: int
    start: float  # after the first start, in the plot's unit
    length: float
    outcome: str
    label: str


@dataclass(frozen=True)
class Timeline(Plot):
    """Bars in lanes; each experiment has its first lane."""

    unit: str
    bars: tuple[Bar, ...]
    lanes: int
    experiments: tuple[tuple[str, int], ...]


# Okabe and Ito's colours, distinguishable with every common colour blindness. Source:
# M. Okabe and K. Ito, "Color universal design" (2008), https://jfly.uni-koeln.de/color/.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
# Shapes that distinguish settings without colour.
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "stroke")
OUTCOME_COLOURS: Mapping[str, str] = {
    judgement.PASS: "#0072B2",
    judgement.FAIL: "#E69F00",
    judgement.INFRA_ERROR: "#999999",
}
PAIRED_COLOURS: Mapping[str, str] = {
    "both": "#0072B2",
    "only_a": "#56B4E9",
    "only_b": "#E69F00",
    "neither": "#CCCCCC",
}
# The runs that continue, then the losses.
LOSS_COLOURS: Mapping[str, str] = {
    breakdowns.PASSED: "#0072B2",
    losses.AGENT: "#E69F00",
    losses.MERGE: "#D55E00",
    losses.INTEGRATION: "#CC79A7",
    losses.UNKNOWN: "#999999",
}
LOSS_WORDS: Mapping[str, str] = {
    breakdowns.PASSED: "not lost so far",
    losses.AGENT: "an own feature fails",
    losses.MERGE: "merge conflict",
    losses.INTEGRATION: "tests fail after the merge",
    losses.UNKNOWN: "unknown",
}
# A stage with its losses.
STAGES: Mapping[str, tuple[str, ...]] = {
    "evaluated runs": (),
    "own features": (losses.AGENT, losses.UNKNOWN),
    "merge": (losses.MERGE,),
    "tests": (losses.INTEGRATION,),
}
PAIRED_WORDS: Mapping[str, str] = {
    "both": "both passed",
    "only_a": "only the first",
    "only_b": "only the second",
    "neither": "neither",
}
PUBLISHED_COLOURS = ("#999999", "#444444")
NAN = float("nan")
# Title of the panel with the published curves alone.
NO_SCALE = "no curve: the solo runs do not differ"
MOST_ROWS = 45  # of a plot on one page


@dataclass(frozen=True)
class Tables:
    """The tables from which the plots are made."""

    runs: pd.DataFrame
    summary: pd.DataFrame
    comparison: pd.DataFrame
    breakdowns: Mapping[str, pd.DataFrame]


def load(results: layout.Results) -> Tables:
    """Read the tables of an experiment."""
    names = (*layout.BREAKDOWNS, *layout.COMMUNICATION)
    small = {name: read_table(results.table(f"{name}.csv")) for name in names}
    summary, comparison = map(read_table, (results.summary_csv, results.comparison_csv))
    return Tables(read_runs(results.runs_csv), summary, comparison, small)


def titled(title: str, table: pd.DataFrame) -> str:
    """Return the title, marked if any run was replayed or adopted."""
    for label, words in (("replay", "replay, no model"), ("adopted", "some adopted")):
        if label in table and table[label].astype(str).eq("True").any():
            title = f"{title} ({words})"
    return title


def looks(settings: Iterable[str]) -> dict[str, Look]:
    """Return how each setting is drawn, by their order."""
    return {
        name: Look(name, COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)])
        for n, name in enumerate(dict.fromkeys(settings))
    }


def _point(
    label: str, n: int, row: Mapping[Hashable, Any], look: Look, column: str = "pass_rate"
) -> Point:
    """Return the point of a table's row, whose interval is in ci_low and ci_high."""
    value, low, high = (float(row[key]) for key in (column, "ci_low", "ci_high"))
    return Point(label, n, value, low, high, look)


def pass_rates(tables: Tables) -> Points:
    table = tables.summary
    look = looks(table["setting"])
    points = tuple(
        _point(str(row["run_name"]), int(row["pass"] + row["fail"]), row, look[row["setting"]])
        for row in table.to_dict("records")
    )
    x = "pass rate of evaluated pairs, 95 % Wilson interval"
    return Points(titled("Pass rates", table), x, "", points)


def paired_outcomes(tables: Tables) -> Shares:
    table = tables.comparison
    title = "The same pairs in two experiments"
    if len(table) > MOST_ROWS:
        # Comparisons of settings are first: they are the main question.
        title += f" (the first {MOST_ROWS} of {len(table)})"
        table = table.head(MOST_ROWS)
    return Shares(
        titled(title, table),
        "share of the pairs that both evaluated",
        "",
        tuple(f"{row['a']} | {row['b']}" for row in table.to_dict("records")),
        {key: tuple(int(count) for count in table[key]) for key in PAIRED_COLOURS},
    )


def paper_difficulty(tables: Tables) -> Curves:
    """Curves on the paper's scale, with the published pooled curves in each panel."""
    table_all = tables.breakdowns["by_difficulty"]
    table = table_all[table_all["scale"] == paper_tables.PAPER_SCALE]
    curves = _curves(table, looks(table_all["setting"]))
    panels = tuple(dict.fromkeys(curve.panel for curve in curves)) or (NO_SCALE,)
    rows = published.read_curve()
    for panel in panels:
        for n, column in enumerate(("solo", "coop")):
            name = f"published {column}"
            look = Look(name, PUBLISHED_COLOURS[n], "stroke")
            points = tuple(
                Point(f"{name}, pooled", 0, float(row[column]), NAN, NAN, look) for row in rows
            )
            at = tuple(float(row["difficulty"]) for row in rows)
            curves.append(Curve(panel, name, look.colour, at, points))
    return Curves(
        titled("Pass rate by difficulty, as in the paper", table),
        "relative difficulty: share of failing solo runs, rescaled (0: easiest, 1: hardest)",
        "pass rate, 95 % Wilson interval",
        panels,
        tuple(curves),
    )


def published_rates(tables: Tables) -> Points:
    """Pass rates beside those published rows that were measured by a comparable merge."""
    table = tables.breakdowns["published"]
    table = table[
        (table["comparable"].astype(str) == "True") & (table["model"] != paper_tables.POOLED)
    ]
    own = table["source"] == paper_tables.THIS
    look = looks(tables.summary["setting"])
    grey = Look("published", PUBLISHED_COLOURS[0], "circle")
    points = []
    for row, is_own in zip(table.to_dict("records"), own, strict=True):
        name = f"{row['model']}, {row['setting']}"
        if not is_own:
            git = ", git" if str(row["git"]) == "True" else ""
            name = f"{row['model']} ({row['framework']}{git}), {row['setting']}"
        shape = look[row["setting"]] if is_own else grey
        points.append(_point(name, int(row["pairs"]), row, shape))
    x = "pass rate, 95 % Wilson interval; coop by plain git merge"
    return Points(titled("Beside the published models", table), x, "", tuple(points))


def coordination_gap(tables: Tables) -> Curves:
    table_all = tables.breakdowns["by_difficulty"]
    pairwise = table_all[table_all["scale"] == paper_tables.PAIR_SCALE]
    # With one model and one repeat a pair is either easy or hard; tasks are in between.
    scale = paper_tables.PAIR_SCALE if pairwise["bucket"].nunique() > 2 else paper_tables.TASK_SCALE
    table = table_all[table_all["scale"] == scale]
    curves = _curves(table, looks(table_all["setting"]))
    return Curves(
        titled("Pass rate by difficulty", table),
        f"difficulty of the {scale}: share of solo runs that fail",
        "pass rate, 95 % Wilson interval",
        tuple(dict.fromkeys(curve.panel for curve in curves)),
        tuple(curves),
        "%",
    )


def _curves(table: pd.DataFrame, look: Mapping[str, Look]) -> list[Curve]:
    """Return the curve of each model and setting through the midpoints of its buckets."""
    curves = []
    for (model, setting), rows in table.groupby(["model", "setting"], sort=False):
        look_of_setting = look[str(setting)]
        points = tuple(
            _point(
                f"{setting}, {row['difficulty_low']:.1f} to {row['difficulty_high']:.1f}",
                int(row["graded"]),
                row,
                look_of_setting,
            )
            for row in rows.to_dict("records")
        )
        middles = tuple((bucket + 0.5) / paper_tables.BUCKETS for bucket in rows["bucket"])
        curves.append(Curve(str(model), str(setting), look_of_setting.colour, middles, points))
    return curves


def cost_success(tables: Tables) -> Scatter:
    costs = tables.breakdowns["cost"].set_index("run_name")["cost_per_run_usd"]
    rates = pass_rates(tables)
    return Scatter(
        titled("Cost against success", tables.summary),
        "mean cost of a run, USD",
        rates.x,
        tuple(float(costs[point.label]) for point in rates.points),
        rates.points,
    )


def repo_outcomes(tables: Tables) -> Grid:
    table = tables.breakdowns["by_repo"]
    columns = tuple(dict.fromkeys(table["run_name"]))
    repos = tuple(sorted(set(table["repo"])))
    cells = {(row["repo"], row["run_name"]): row for row in table.to_dict("records")}
    values, texts = [], []
    for repo in repos:
        row_cells = [cells.get((repo, column)) for column in columns]
        values.append(tuple(float(row["pass_rate"]) if row else float("nan") for row in row_cells))
        texts.append(
            tuple(f"{row['pass']}/{row['pass'] + row['fail']}" if row else "" for row in row_cells)
        )
    return Grid(
        titled("Passes among the evaluated pairs, by repo", table),
        "",
        "",
        tuple(repo.removesuffix("_task") for repo in repos),
        columns,
        tuple(values),
        tuple(texts),
    )


def measure(tables: Tables, name: str, title: str, x: str) -> Points:
    """Return a measure of communication of each experiment that is not solo."""
    table = _measured(tables)
    look = looks(tables.summary["setting"])
    points = tuple(
        _measured_point(row, str(row["run_name"]), look[row["setting"]])
        for row in table[table["measure"] == name].to_dict("records")
    )
    return Points(titled(title, table), x, "", points)


def message_times(tables: Tables) -> Curves:
    """Return the share of the messages in each sixth of the runs' time."""
    table = _measured(tables)
    sixths = [f"share_sixth{n}" for n in range(1, communication.SIXTHS + 1)]
    table = table[table["measure"].isin(sixths)]
    curves = []
    for name, rows in table.groupby("run_name", sort=False):
        look = looks(table["run_name"])[str(name)]
        points = tuple(
            _measured_point(row, f"{name}, sixth {sixths.index(row['measure']) + 1}", look)
            for row in rows.to_dict("records")
        )
        at = tuple(float(sixths.index(measure) + 1) for measure in rows["measure"])
        curves.append(Curve("", str(name), look.colour, at, points))
    return Curves(
        titled("When messages are sent", table),
        "sixth of the run's time",
        "share of the messages, 95 % interval by task",
        ("",) if curves else (),
        tuple(curves),
    )


def communication_and_conflicts(tables: Tables) -> Points:
    """Return the difference of conflict rates with and without each property, in points."""
    table = tables.breakdowns["communication_and_conflicts"]
    table = table.sort_values("property", key=lambda names: names.map(list(PROPERTIES).index))
    look = looks(table["run_name"])
    points = tuple(
        Point(
            PROPERTIES[row["property"]],
            int(row["runs_with"] + row["runs_without"]),
            100 * float(row["diff"]),
            100 * float(row["ci_low"]),
            100 * float(row["ci_high"]),
            look[row["run_name"]],
        )
        for row in table.to_dict("records")
        if not math.isnan(float(row["diff"]))
    )
    title = titled("Conflict rate with and without a property (associations)", table)
    return Points(title, "difference in conflict rate, points, 95 % interval", "", points)


def _measured(tables: Tables) -> pd.DataFrame:
    table = tables.breakdowns["communication_by_setting"]
    return table[table["merge"] == "all"]


def _measured_point(row: Mapping[Hashable, Any], label: str, look: Look) -> Point:
    return _point(label, int(row["runs"]), row, look, "value")


def loss_flow(tables: Tables) -> Flow:
    """Return the runs of each coop experiment that are left after each stage, and the lost ones."""
    table = tables.breakdowns["losses"]
    panels, parts = [], []
    for name, rows in table.groupby("run_name", sort=False):
        counts = {str(row["loss"]): int(row["runs"]) for row in rows.to_dict("records")}
        total = sum(counts.values())
        if total:
            panels.append(f"{name} (n={total})")
            parts.append(tuple(_stage_parts(counts, total)))
    title = titled("Where coop runs are lost", table)
    return Flow(title, "share of the evaluated runs", "", tuple(panels), tuple(parts))


def _stage_parts(counts: Mapping[str, int], total: int) -> Iterable[Part]:
    lost: list[str] = []
    for stage, kinds in STAGES.items():
        lost += kinds
        remaining = total - sum(counts[kind] for kind in lost)
        start = 0.0
        segments = {breakdowns.PASSED: remaining}
        segments |= {kind: counts[kind] for kind in LOSS_COLOURS if kind in lost}
        for kind, count in segments.items():
            if count:
                yield Part(stage, kind, count, start, start + count / total)
            start += count / total


def reasons(tables: Tables) -> Shares:
    """Return how many runs did not pass by reason, the most frequent reason first."""
    table = tables.breakdowns["by_reason"]
    bad = table[table["outcome"].isin([judgement.FAIL, judgement.INFRA_ERROR])]
    bad = bad.assign(reason=bad["reason"].astype(object).fillna("").replace("", "no reason"))
    counts = bad.groupby(["reason", "run_name"])["runs"].sum().unstack(fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    names = tables.summary["run_name"].astype(str)
    by_name = {
        name: tuple(int(n) for n in counts[name]) if name in counts else (0,) * len(counts)
        for name in names
    }
    title = titled("Why runs did not pass", tables.summary)
    return Shares(title, "runs", "", tuple(map(str, counts.index)), by_name)


def timeline(tables: Tables) -> Timeline:
    runs = tables.runs[(tables.runs["started"] != "") & (tables.runs["ended"] != "")]
    started = pd.to_datetime(runs["started"], format="ISO8601", utc=True)
    ended = pd.to_datetime(runs["ended"], format="ISO8601", utc=True)
    first = started.min()
    long = not runs.empty and (ended.max() - first).total_seconds() > 5 * 3600
    unit, seconds = ("hours", 3600) if long else ("minutes", 60)
    marked = runs.assign(
        start=(started - first).dt.total_seconds() / seconds,
        end=(ended - first).dt.total_seconds() / seconds,
    )
    bars: list[Bar] = []
    experiments = []
    lanes = 0
    for name, group in marked.groupby("run_name", sort=False):
        experiments.append((str(name), lanes))
        lanes += _pack(group.sort_values("start", kind="stable"), lanes, bars)
    day = "" if runs.empty else f" since {first:%Y-%m-%d %H:%M} UTC"
    return Timeline(
        titled("When the runs ran (last attempts)", runs),
        f"{unit}{day}",
        "",
        unit,
        tuple(bars),
        lanes,
        tuple(experiments),
    )


def _pack(group: pd.DataFrame, offset: int, bars: list[Bar]) -> int:
    """Append the bars of an experiment, each in the first free lane; return the lanes."""
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    lanes = 0
    columns = ("start", "end", "outcome", "repo", "task_id", "features")
    for start, end, ending, repo, task, features in zip(
        *(group[column] for column in columns), strict=True
    ):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else lanes
        lanes = max(lanes, lane + 1)
        heapq.heappush(busy, (end, lane))
        label = f"{repo}/{task} {features}"
        bars.append(Bar(offset + lane, float(start), float(end - start), str(ending), label))
    return lanes
