"""The plots: their Vega-Lite specifications, used by the report and for image files."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cooperflow import atomic_io, layout
from cooperflow.analysis import communication, losses
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import judgement
from cooperflow.plots import vega
from cooperflow.plots.vega import COLOURS, ROW_HEIGHT, Row, Spec, Style
from cooperflow.tables import breakdowns, paper_tables
from cooperflow.tables.communication_tables import PROPERTIES
from cooperflow.tables.run_table import read_runs, read_table
from cooperflow.upstream import published

LABELLED = 12  # number of points or columns up to which each has a label
MOST_ROWS = 45  # of a plot that fits one page

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
PAIRED_WORDS: Mapping[str, str] = {
    "both": "both passed",
    "only_a": "only the first",
    "only_b": "only the second",
    "neither": "neither",
}
# Colours of the runs that continue and of the losses.
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
# The stages with their losses.
STAGES: Mapping[str, tuple[str, ...]] = {
    "evaluated runs": (),
    "own features": (losses.AGENT, losses.UNKNOWN),
    "merge": (losses.MERGE,),
    "tests": (losses.INTEGRATION,),
}
PUBLISHED = Style("#999999", "circle")
PUBLISHED_CURVES = {
    "published solo": Style("#999999", "stroke"),
    "published coop": Style("#444444", "stroke"),
}
# Title of the panel that has only the published curves.
NO_SCALE = "no curve: the solo runs do not differ"
RATE_TITLE = "pass rate of evaluated pairs, 95 % Wilson interval"


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


def label_title(title: str, table: pd.DataFrame) -> str:
    """Return the title with a label if any run was replayed or adopted."""
    for label, words in (("replay", "replay, no model"), ("adopted", "some adopted")):
        if label in table and table[label].astype(str).eq("True").any():
            title = f"{title} ({words})"
    return title


def _styles_of(rows: Sequence[Row], styles: Mapping[str, Style]) -> dict[str, Style]:
    """Return the styles of the groups of some rows, in their order."""
    return {group: styles[group] for group in dict.fromkeys(row["group"] for row in rows)}


def _named(row: Row) -> Row:
    """Return a row whose displayed name contains its label and number."""
    return {**row, "name": f"{row['label']} (n={row['n']})"}


def pass_rates(tables: Tables) -> Spec:
    """Return the forest plot of the experiments' pass rates."""
    styles = vega.assign_styles(tables.summary["setting"])
    title = label_title("Pass rates", tables.summary)
    return _rates(title, RATE_TITLE, _experiment_rates(tables), styles)


def _experiment_rates(tables: Tables) -> list[Row]:
    return [
        vega.point(str(row["run_name"]), int(row["pass"] + row["fail"]), row, str(row["setting"]))
        for row in tables.summary.to_dict("records")
    ]


def published_rates(tables: Tables) -> Spec:
    """Return the forest plot beside the published rows with a comparable merge."""
    table = tables.breakdowns["published"]
    table = table[
        (table["comparable"].astype(str) == "True") & (table["model"] != paper_tables.POOLED)
    ]
    rows = []
    for row in table.to_dict("records"):
        name, group = f"{row['model']}, {row['setting']}", str(row["setting"])
        if row["source"] != paper_tables.THIS:
            git = ", git" if str(row["git"]) == "True" else ""
            name = f"{row['model']} ({row['framework']}{git}), {row['setting']}"
            group = "published"
        rows.append(vega.point(name, int(row["pairs"]), row, group))
    styles = {**vega.assign_styles(tables.summary["setting"]), "published": PUBLISHED}
    x = "pass rate, 95 % Wilson interval; coop by plain git merge"
    return _rates(label_title("Beside the published models", table), x, rows, styles)


def _rates(title: str, x: str, points: Sequence[Row], styles: Mapping[str, Style]) -> Spec:
    rows = list(map(_named, points))
    names = list(dict.fromkeys(row["name"] for row in rows))
    encodings = vega.group_encodings(_styles_of(rows, styles), has_legend=False)
    encoding = {"y": vega.nominal_rows("name", names), **encodings}
    height = ROW_HEIGHT * max(len(rows), 1)
    return vega.view(title, rows, vega.marks("x", encoding, x), height)


def paired_outcomes(tables: Tables) -> Spec:
    """Return stacked bars of the outcomes of the same pairs in two experiments."""
    table = tables.comparison
    title = "The same pairs in two experiments"
    if len(table) > MOST_ROWS:
        # Comparisons of settings are first, because they answer the main question.
        title += f" (the first {MOST_ROWS} of {len(table)})"
        table = table.head(MOST_ROWS)
    names, bars = [], []
    for row in table.to_dict("records"):
        counts = {key: int(row[key]) for key in PAIRED_COLOURS}
        total = sum(counts.values())
        name, start = f"{row['a']} | {row['b']} (n={total})", 0.0
        segments = []
        for key, count in counts.items():
            end = start + (count / total if total else 0.0)
            word = PAIRED_WORDS[key]
            segments.append(vega.segment(name, word, count, start, end, key == "both"))
            start = end
        names.append(name)
        bars.append(segments)
    rows = [segment for segments in zip(*bars, strict=True) for segment in segments]
    words = [PAIRED_WORDS[key] for key in PAIRED_COLOURS]
    x = "share of the pairs that both evaluated"
    layers = vega.stacked_bars(x, names, words, PAIRED_COLOURS.values())
    return vega.view(label_title(title, table), rows, layers, ROW_HEIGHT * max(len(names), 1))


# Points of each curve, by panel and name of the curve.
Curves = dict[str, dict[str, list[Row]]]


def coordination_gap(tables: Tables) -> Spec:
    """Return the pass rate of each setting by difficulty, with a panel for each model."""
    by_difficulty = tables.breakdowns["by_difficulty"]
    pairwise = by_difficulty[by_difficulty["scale"] == paper_tables.PAIR_SCALE]
    # With one model and one repeat a pair is either easy or hard, but tasks are in between.
    scale = paper_tables.PAIR_SCALE if pairwise["bucket"].nunique() > 2 else paper_tables.TASK_SCALE
    table = by_difficulty[by_difficulty["scale"] == scale]
    styles = vega.assign_styles(by_difficulty["setting"])
    x = f"difficulty of the {scale}: share of solo runs that fail"
    axis = {"axis": {"format": "%"}}
    return _difficulty(
        label_title("Pass rate by difficulty", table), x, axis, _curves(table), styles
    )


def paper_difficulty(tables: Tables) -> Spec:
    """Return the pass rates on the paper's scale of difficulty, with the published curves."""
    by_difficulty = tables.breakdowns["by_difficulty"]
    table = by_difficulty[by_difficulty["scale"] == paper_tables.PAPER_SCALE]
    panels = _curves(table) or {NO_SCALE: {}}
    for curves in panels.values():
        for name in PUBLISHED_CURVES:
            curves[name] = [
                vega.point(
                    f"{name}, pooled",
                    0,
                    {"pass_rate": row[name.removeprefix("published ")]},
                    name,
                    at=float(row["difficulty"]),
                    curve=name,
                )
                for row in published.read_curve()
            ]
    styles = {**vega.assign_styles(by_difficulty["setting"]), **PUBLISHED_CURVES}
    x = "relative difficulty: share of failing solo runs, rescaled (0: easiest, 1: hardest)"
    title = label_title("Pass rate by difficulty, as in the paper", table)
    return _difficulty(title, x, {}, panels, styles)


def _curves(table: pd.DataFrame) -> Curves:
    """Return the curve of each model and setting through the midpoints of its buckets."""
    panels: Curves = {}
    for (model, setting), rows in table.groupby(["model", "setting"], sort=False):
        panels.setdefault(str(model), {})[str(setting)] = [
            vega.point(
                f"{setting}, {row['difficulty_low']:.1f} to {row['difficulty_high']:.1f}",
                int(row["graded"]),
                row,
                str(setting),
                at=(row["bucket"] + 0.5) / paper_tables.BUCKETS,
                curve=str(setting),
            )
            for row in rows.to_dict("records")
        ]
    return panels


def _difficulty(
    title: str, x: str, axis: Spec, panels: Curves, styles: Mapping[str, Style]
) -> Spec:
    drawn = {name for curves in panels.values() for name in curves}
    encoding = vega.quantity("at", x, scale={"domain": [0, 1]}) | axis
    shown = {name: style for name, style in styles.items() if name in drawn}
    layers = vega.lines(encoding, shown, "pass rate, 95 % Wilson interval")
    contents = [
        {
            "title": panel,
            "data": {"values": vega.shift_apart(curves.values(), 0.008)},
            "height": 200,
            "layer": layers,
        }
        for panel, curves in panels.items()
    ]
    return vega.panels(title, contents, 3)


def cost_success(tables: Tables) -> Spec:
    """Return the pass rate of each experiment by the mean cost of its runs."""
    costs = tables.breakdowns["cost"].set_index("run_name")["cost_per_run_usd"]
    rates = _experiment_rates(tables)
    at = [float(costs[rate["label"]]) for rate in rates]
    highest = max((cost for cost in at if not math.isnan(cost)), default=0.0)
    has_labels = len(rates) <= LABELLED and not _crowded(at, rates, highest)
    rows = []
    for cost, rate in zip(at, rates, strict=True):
        name = f"{rate['label']} (n={rate['n']})"
        # On the side with more space.
        right_label, left_label = (name, "") if cost <= 0.6 * highest else ("", name)
        rows.append({**rate, "at": vega.number(cost), "right": right_label, "left": left_label})
    limit = 1.1 * highest or 1.0
    axis = {"format": _money(limit), "tickCount": 5}
    scale = {"domain": [0, limit], "nice": False}
    x = vega.quantity("at", "mean cost of a run, USD", scale=scale, axis=axis)
    styles = _styles_of(rows, vega.assign_styles(tables.summary["setting"]))
    encodings = vega.group_encodings(styles, has_legend=not has_labels)
    layers = vega.marks("y", {"x": x, **encodings}, RATE_TITLE)
    if has_labels:
        for side, align, shift in (("right", "left", 7), ("left", "right", -7)):
            mark = {"type": "text", "align": align, "dx": shift, "dy": 10, "fontSize": 10}
            y = vega.share("value", RATE_TITLE)
            layers.append({"mark": mark, "encoding": {"x": x, "y": y, "text": {"field": side}}})
    return vega.view(label_title("Cost against success", tables.summary), rows, layers, 280)


def _crowded(at: Sequence[float], rates: Sequence[Row], highest: float) -> bool:
    """Return whether the labels of two points would cover each other."""
    positions = [
        (x / (highest or 1.0), rate["value"])
        for x, rate in zip(at, rates, strict=True)
        if rate["value"] is not None
    ]
    return any(
        abs(a[0] - b[0]) < 0.35 and abs(a[1] - b[1]) < 0.06
        for n, a in enumerate(positions)
        for b in positions[:n]
    )


def _money(limit: float) -> str:
    """Return the format of a USD axis: cents, and more digits below 10 cents."""
    digits = next((n for n, end in ((2, 0.1), (3, 0.01)) if limit >= end), 4)
    return f"$,.{digits}f"


def repo_outcomes(tables: Tables) -> Spec:
    """Return the heat map of pass rates by repo and experiment."""
    table = tables.breakdowns["by_repo"]
    names = list(dict.fromkeys(table["run_name"]))
    cells = {(row["repo"], row["run_name"]): row for row in table.to_dict("records")}
    rows = []
    repos = sorted(set(table["repo"]))
    for repo in repos:
        for name in names:
            cell: Mapping[Any, Any] = cells.get((repo, name), {})
            value = vega.number(cell.get("pass_rate"))
            text = f"{cell['pass']}/{cell['pass'] + cell['fail']}" if cell else ""
            repo_name = repo.removesuffix("_task")
            ink = "white" if value is not None and value < 0.6 else "black"
            tip = f"{repo_name}, {name}: {text}"
            data = {"repo": repo_name, "name": name, "value": value, "text": text}
            rows.append({**data, "ink": ink, "tip": tip})
    has_labels = len(names) <= LABELLED
    x: Spec = {"field": "name", "type": "nominal", "title": None, "sort": None}
    x |= {"axis": {"labelAngle": -30 if has_labels else -90, "grid": False}}
    y = vega.nominal_rows("repo", [repo.removesuffix("_task") for repo in repos])
    scheme = {"scheme": "cividis", "domain": [0, 1]}
    legend: Spec = {"title": "pass rate", "format": "%", "orient": "right", "type": "symbol"}
    legend |= {"values": [0, 0.25, 0.5, 0.75, 1], "symbolType": "square"}
    colour = vega.quantity("value", scale=scheme, legend=legend)
    encoding = {"x": x, "y": y, "color": colour, "tooltip": {"field": "tip"}}
    layers: list[Spec] = [{"mark": {"type": "rect"}, "encoding": encoding}]
    if has_labels:
        texts = {"x": x, "y": y, "text": {"field": "text"}, "color": vega.INK}
        layers.append({"mark": {"type": "text", "fontSize": 10}, "encoding": texts})
    title = label_title("Passes among the evaluated pairs, by repo", table)
    return vega.view(title, rows, layers, ROW_HEIGHT * max(len(repos), 1))


def timeline(tables: Tables) -> Spec:
    """Return the time span of each run, coloured by its outcome; lanes do not overlap."""
    runs = tables.runs[(tables.runs["started"] != "") & (tables.runs["ended"] != "")]
    started = pd.to_datetime(runs["started"], format="ISO8601", utc=True)
    ended = pd.to_datetime(runs["ended"], format="ISO8601", utc=True)
    first = started.min()
    is_long = not runs.empty and (ended.max() - first).total_seconds() > 5 * 3600
    unit, seconds = ("hours", 3600) if is_long else ("minutes", 60)
    spans = runs.assign(
        start=(started - first).dt.total_seconds() / seconds,
        end=(ended - first).dt.total_seconds() / seconds,
    )
    rows: list[Row] = []
    first_lanes: dict[int, str] = {}
    lanes = 0
    for name, group in spans.groupby("run_name", sort=False):
        first_lanes[lanes] = str(name)
        ordered = group.sort_values("start", kind="stable")
        numbers = _lanes(ordered["start"], ordered["end"])
        for lane, run in zip(numbers, ordered.to_dict("records"), strict=True):
            rows.append(_span(run, lanes + lane, unit))
        lanes += max(numbers, default=-1) + 1
    endings = [row["outcome"] for row in rows]
    counts = {e: endings.count(e) for e in [*OUTCOME_COLOURS, *endings] if e in endings}
    labels = {ending: f"{ending} (n={count})" for ending, count in counts.items()}
    for row in rows:
        row["outcome"] = labels[row["outcome"]]
    names = {str(lane): name for lane, name in first_lanes.items()}
    axis = {
        "values": list(first_lanes),
        "labelExpr": f"{json.dumps(names)}[datum.value]",
        "grid": False,
    }
    scale: Spec = {"domain": [-0.5, max(lanes, 1) - 0.5], "reverse": True, "nice": False}
    colours = [OUTCOME_COLOURS.get(ending, "#000000") for ending in counts]
    day = "" if runs.empty else f" since {first:%Y-%m-%d %H:%M} UTC"
    bars = {
        "mark": {"type": "bar", "stroke": "white", "strokeWidth": 0.4 if len(rows) <= 600 else 0},
        "encoding": {
            "x": vega.quantity("start", f"{unit}{day}", scale={"nice": False}),
            "x2": {"field": "end"},
            "y": vega.quantity("top", None, axis=axis, scale={**scale, "zero": False}),
            "y2": {"field": "bottom"},
            "color": vega.colour("outcome", list(labels.values()), colours),
            "tooltip": {"field": "tip"},
        },
    }
    title = label_title("When the runs ran (last attempts)", runs)
    return vega.view(title, rows, [bars], min(max(14 * lanes, 40), 1200))


def _span(run: Mapping[Any, Any], lane: int, unit: str) -> Row:
    length, outcome = float(run["end"] - run["start"]), str(run["outcome"])
    label = f"{run['repo']}/{run['task_id']} {run['features']}"
    return {
        "start": round(float(run["start"]), 4),
        "end": round(float(run["start"]) + length, 4),
        "top": lane - 0.4,
        "bottom": lane + 0.4,
        "outcome": outcome,
        "tip": f"{label}, {length:.2f} {unit}, {outcome}",
    }


def _lanes(starts: Iterable[float], ends: Iterable[float]) -> list[int]:
    """Return the first free lane of each span; the spans are sorted by their start."""
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    numbers: list[int] = []
    for start, end in zip(starts, ends, strict=True):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        numbers.append(lane)
    return numbers


def loss_flow(tables: Tables) -> Spec:
    """Return the flow from evaluated runs to losses, a panel for each coop experiment."""
    table = tables.breakdowns["losses"]
    words, stages = [LOSS_WORDS[kind] for kind in LOSS_COLOURS], list(STAGES)
    x, height = "share of the evaluated runs", ROW_HEIGHT * len(stages)
    layers = vega.stacked_bars(x, stages, words, LOSS_COLOURS.values())
    contents = []
    for name, group in table.groupby("run_name", sort=False):
        counts = {str(row["loss"]): int(row["runs"]) for row in group.to_dict("records")}
        total = sum(counts.values())
        if total:
            panel = f"{name} (n={total})"
            rows = [{**row, "tip": f"{panel}, {row['tip']}"} for row in _stage_rows(counts, total)]
            view = {"title": panel, "data": {"values": rows}, "height": height}
            contents.append({**view, "layer": layers})
    title = label_title("Where coop runs are lost", table)
    if not contents:
        return vega.view(title, [], layers[:1], height)
    return vega.panels(title, contents, 2)


def _stage_rows(counts: Mapping[str, int], total: int) -> Iterable[Row]:
    """Yield the segments of each stage: runs that continue, and runs lost so far."""
    lost: list[str] = []
    for stage, kinds in STAGES.items():
        lost += kinds
        remaining = total - sum(counts[kind] for kind in lost)
        start = 0.0
        segments = {breakdowns.PASSED: remaining}
        segments |= {kind: counts[kind] for kind in LOSS_COLOURS if kind in lost}
        for kind, count in segments.items():
            end, is_dark = start + count / total, kind == breakdowns.PASSED
            if count:
                yield vega.segment(stage, LOSS_WORDS[kind], count, start, end, is_dark)
            start = end


def message_share(tables: Tables) -> Spec:
    """Return the share of the agents' events that are messages (figure 5b of the paper)."""
    title = "Share of the agents' events that are messages"
    x = "share of messages among messages and commands, 95 % interval"
    return _measure(tables, "message_share", title, x, "%")


def turns(tables: Tables) -> Spec:
    """Return the turns of the agents of a run (figure 6 of the paper)."""
    title, x = "Turns of the agents of a run", "turns per run (mean), 95 % interval"
    return _measure(tables, "turns_per_run", title, x, "~g")


def _measure(tables: Tables, name: str, title: str, x: str, form: str) -> Spec:
    """Return a measure of communication for each experiment that is not solo."""
    table = _measured(tables)
    points = [
        _measured_point(row, str(row["run_name"]), str(row["setting"]))
        for row in table[table["measure"] == name].to_dict("records")
    ]
    styles = _styles_of(points, vega.assign_styles(tables.summary["setting"]))
    rows = [{**row, "tip": _tip(row, form)} for row in map(_named, points)]
    return _forest(label_title(title, table), x, form, rows, styles)


def _measured(tables: Tables) -> pd.DataFrame:
    table = tables.breakdowns["communication_by_setting"]
    return table[table["merge"] == "all"]


def _measured_point(row: Mapping[Any, Any], label: str, group: str, **fields: Any) -> Row:
    return vega.point(label, int(row["runs"]), row, group, "value", **fields)


def message_times(tables: Tables) -> Spec:
    """Return the share of the messages in each sixth of the runs' time."""
    table = _measured(tables)
    sixths = {f"share_sixth{n}": n for n in range(1, communication.SIXTHS + 1)}
    table = table[table["measure"].isin(list(sixths))]
    curves: dict[str, list[Row]] = {}
    for row in table.to_dict("records"):
        name, sixth = str(row["run_name"]), sixths[row["measure"]]
        label = f"{name}, sixth {sixth}"
        point = _measured_point(row, label, name, at=float(sixth), curve=name)
        curves.setdefault(name, []).append(point)
    axis = {"values": [1, 2, 3, 4, 5, 6], "format": "d", "grid": False}
    scale = {"domain": [0.5, 6.5], "nice": False}
    x = vega.quantity("at", "sixth of the run's time", scale=scale, axis=axis)
    y = "share of the messages, 95 % interval by task"
    layers = vega.lines(x, vega.assign_styles(curves), y)
    rows = vega.shift_apart(curves.values(), 0.06)
    return vega.view(label_title("When messages are sent", table), rows, layers, 200)


def communication_and_conflicts(tables: Tables) -> Spec:
    """Return the differences of conflict rates with and without properties of the messages."""
    table = tables.breakdowns["communication_and_conflicts"]
    table = table.sort_values("property", key=lambda names: names.map(list(PROPERTIES).index))
    points = []
    for row in table.to_dict("records"):
        if not math.isnan(float(row["diff"])):
            percent = {key: 100 * float(row[key]) for key in ("diff", "ci_low", "ci_high")}
            label, n = PROPERTIES[row["property"]], int(row["runs_with"] + row["runs_without"])
            points.append(vega.point(label, n, percent, str(row["run_name"]), "diff"))
    form = "+.0f"
    rows = [{**row, "name": row["label"], "tip": _tip(row, form)} for row in points]
    styles = _styles_of(rows, vega.assign_styles(table["run_name"]))
    title = label_title("Conflict rate with and without a property (associations)", table)
    x = "difference in conflict rate, points, 95 % interval"
    spec = _forest(title, x, form, rows, styles, has_groups=True)
    zero = {"mark": {"type": "rule", "strokeDash": [3, 3], "color": "#888888"}}
    spec["layer"].insert(0, {**zero, "encoding": {"x": {"datum": 0}}})
    return spec


def _tip(row: Row, form: str) -> str:
    ends = (math.nan if row[key] is None else row[key] for key in ("value", "low", "high"))
    value, low, high = (f"{end:.1%}" if "%" in form else f"{end:.3g}" for end in ends)
    return f"{row['group']}, {row['label']}: {value} ({low} to {high}), n={row['n']}"


def _forest(
    title: str,
    x: str,
    form: str,
    rows: list[Row],
    styles: Mapping[str, Style],
    has_groups: bool = False,
) -> Spec:
    """Return values with intervals, a row for each name.

    Args:
        form: format of the numbers on the axis.
        has_groups: rows of the same name are drawn below each other, by group.
    """
    groups = list(styles) if has_groups else []
    names = list(dict.fromkeys(row["name"] for row in rows))
    encoding: Spec = {"y": vega.nominal_rows("name", names)}
    encoding |= vega.group_encodings(styles, has_legend=bool(groups))
    if groups:
        encoding["yOffset"] = {"field": "group", "type": "nominal", "scale": {"domain": groups}}
    layers = vega.marks("x", encoding, x)
    for layer, field in zip(layers, ("low", "value"), strict=True):
        layer["encoding"]["x"] = vega.quantity(field, x, axis={"format": form, "tickCount": 5})
    height = ROW_HEIGHT * max(len(names), 1) * max(1, (len(groups) + 1) // 2)
    return vega.view(title, rows, layers, height)


def reasons(tables: Tables) -> Spec:
    """Return stacked bars of the reasons for which runs did not pass, the most frequent first."""
    table = tables.breakdowns["by_reason"]
    bad = table[table["outcome"].isin([judgement.FAIL, judgement.INFRA_ERROR])]
    bad = bad.assign(reason=bad["reason"].astype(object).fillna("").replace("", "no reason"))
    totals = bad.groupby("reason")["runs"].sum()
    totals = totals.sort_values(ascending=False, kind="stable")
    counts = bad.groupby(["run_name", "reason"])["runs"].sum().to_dict()
    names = tables.summary["run_name"].astype(str).tolist()
    rows = [
        {"reason": reason, "name": name, "runs": n, "tip": f"{reason}, {name}: {n} runs"}
        for name in names
        for reason in totals.index
        if (n := int(counts.get((name, reason), 0)))
    ]
    most = int(totals.max()) if len(totals) else 0
    axis: Spec = {"format": "d", "tickMinStep": 1}
    if most <= 10:
        axis["values"] = list(range(most + 1))
    y: Spec = {"field": "reason", "type": "nominal", "title": None}
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(names))]
    encoding = {
        "y": {**y, "scale": {"domain": list(totals.index)}},
        "x": vega.quantity("runs", "runs", axis=axis),
        "color": vega.colour("name", names, colours),
        "tooltip": {"field": "tip"},
    }
    layer = {"mark": {"type": "bar"}, "encoding": encoding}
    title = label_title("Why runs did not pass", tables.summary)
    return vega.view(title, rows, [layer], ROW_HEIGHT * max(len(totals), 1))


SPECS: Mapping[str, Callable[[Tables], Spec]] = {
    "pass_rates": pass_rates,
    "paired_outcomes": paired_outcomes,
    "coordination_gap": coordination_gap,
    "paper_difficulty": paper_difficulty,
    "published": published_rates,
    "cost_success": cost_success,
    "losses": loss_flow,
    "reasons": reasons,
    "repo_outcomes": repo_outcomes,
    "timeline": timeline,
    "message_share": message_share,
    "turns": turns,
    "message_times": message_times,
    "communication_and_conflicts": communication_and_conflicts,
}


def perform(plan: Plan) -> None:
    """Do the work of rule `plots`."""
    tables = load(plan.results)
    for name in layout.PLOTS:
        for kind, data in render(name, tables, layout.PLOT_KINDS).items():
            atomic_io.write_bytes(plan.results.plot(name, kind), data)
            print(plan.results.plot(name, kind))


def render(name: str, tables: Tables, kinds: Iterable[str]) -> dict[str, bytes]:
    """Return the files of a plot by suffix. Equal tables give equal files."""
    return vega.draw(SPECS[name](tables), kinds)
