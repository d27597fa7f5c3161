"""Tables as in the CooperBench paper: difficulty, coordination gap, and published results.

The paper (A. Khatua, H. Zhu et al., "CooperBench: Why Coding Agents Cannot be Your Teammates Yet",
arXiv:2601.13295v2, appendix C) defines the difficulty of a pair t as
d(t) = 1 - 1/|M| * sum over the models M of Solo_m(t), rescaled linearly to [0, 1] by its minimum
and maximum over the benchmark. Pairs fall into ten buckets of equal width; a bucket's x is its
midpoint, and its success rate has a Wilson interval. The area under a curve is that of the
trapezoids between populated buckets; the pooled curve sums the counts over the models. The scale
`paper` is this definition. The scales `pair` and `task` are additions: docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cooperflow.outcomes import judgement
from cooperflow.tables import stats
from cooperflow.upstream import published

BUCKETS = 10
PAPER_SCALE = "paper"  # the paper's definition
PAIR_SCALE = "pair"  # added: solo runs of the pair, not rescaled, areas over all of [0, 1]
TASK_SCALE = "task"  # added: solo runs of all pairs of the task, for few models
SCALES = (PAPER_SCALE, PAIR_SCALE, TASK_SCALE)
POOLED = "(pooled)"  # all models together; not a valid name of a model
SOLO = "solo"
_TASK = ["repo", "task_id"]
_PAIR = [*_TASK, "features"]
_KEYS = {PAPER_SCALE: _PAIR, PAIR_SCALE: _PAIR, TASK_SCALE: _TASK}
BUCKET_COLUMNS = (
    *("scale", "model", "setting", "mode", "bucket", "difficulty_low", "difficulty_high"),
    *("graded", "pass", "pass_rate", "ci_low", "ci_high", "replay"),
)
GAP_COLUMNS = (
    *("scale", "model", "solo_setting", "setting", "buckets", "graded"),
    *("auc_solo", "auc", "gap", "retention", "replay"),
)


def solo_setting(runs: pd.DataFrame) -> str | None:
    """Return the first solo setting, None without one."""
    solo = runs.loc[runs["mode"] == SOLO, "setting"]
    return None if solo.empty else str(solo.iloc[0])


def graded(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with a verdict, with a column ``passed`` (1 or 0)."""
    rows = runs[runs["outcome"].isin(judgement.GRADED)]
    return rows.assign(passed=(rows["outcome"] == judgement.PASS).astype(float))


def scores(runs: pd.DataFrame, scale: str) -> pd.Series:
    """Return the difficulty of each pair or task: 1 less the mean solo success over the models.

    Each model has the same weight, regardless of its number of repeats or graded pairs. On the
    paper's scale the values are rescaled linearly from 0 to 1; the result is empty if all pairs are
    equally difficult.
    """
    solo = graded(runs[runs["setting"] == solo_setting(runs)])
    keys = _KEYS[scale]
    by_model = solo.groupby([*keys, "model"], sort=False)["passed"].mean()
    values = (1 - by_model.groupby(keys, sort=False).mean()).rename("difficulty")
    if scale != PAPER_SCALE or values.empty:
        return values
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else values.iloc[:0]


def buckets(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the success of each model and setting in each bucket with graded runs."""
    parts = [_buckets(runs, scale) for scale in SCALES]
    return pd.concat(parts, ignore_index=True)[list(BUCKET_COLUMNS)]


def _buckets(runs: pd.DataFrame, scale: str) -> pd.DataFrame:
    if solo_setting(runs) is None:
        return pd.DataFrame(columns=list(BUCKET_COLUMNS))
    rows = graded(runs).merge(scores(runs, scale).reset_index(), on=_KEYS[scale])
    if rows.empty:
        return pd.DataFrame(columns=list(BUCKET_COLUMNS))
    models = list(dict.fromkeys(runs["model"]))
    if scale == PAPER_SCALE and len(models) > 1:
        rows = pd.concat([rows, rows.assign(model=POOLED)], ignore_index=True)
    # Rounded, so that 1 - 0.7 is in the bucket [0.3, 0.4); 1 is in the last bucket.
    tenths = np.floor(np.round(rows["difficulty"].to_numpy(float) * BUCKETS, 9))
    rows["bucket"] = np.minimum(tenths, BUCKETS - 1)
    grouped = rows.groupby(["model", "setting", "mode", "bucket"], sort=False)
    table = grouped.agg(
        graded=("passed", "size"), passes=("passed", "sum"), replay=("replay", "any")
    ).reset_index()
    orders = {
        "setting": {name: n for n, name in enumerate(runs["setting"].unique())},
        "model": {name: n for n, name in enumerate([*models, POOLED])},
    }
    table = table.sort_values(
        ["model", "setting", "bucket"],
        key=lambda column: (
            column.map(orders[str(column.name)]) if column.name in orders else column
        ),
        kind="stable",
    )
    low, high = stats.wilson_many(table["passes"].to_numpy(float), table["graded"].to_numpy(float))
    return (
        table.assign(
            scale=scale,
            bucket=table["bucket"].astype(int),
            difficulty_low=(table["bucket"] / BUCKETS).round(6),
            difficulty_high=((table["bucket"] + 1) / BUCKETS).round(6),
            pass_rate=(table["passes"] / table["graded"]).round(6),
            ci_low=low,
            ci_high=high,
        )
        .rename(columns={"passes": "pass"})
        .astype({"pass": int})
    )


def gaps(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the area between solo's curve and that of each other setting, by model.

    Args:
        curves: the result of ``buckets``.
    """
    rows = []
    for (scale, model), group in curves.groupby(["scale", "model"], sort=False):
        solo = group[group["mode"] == SOLO]
        if solo.empty:
            continue
        name = solo["setting"].iloc[0]
        solo = solo[solo["setting"] == name]
        for setting, curve in group[group["mode"] != SOLO].groupby("setting", sort=False):
            shared = sorted(set(solo["bucket"]) & set(curve["bucket"]))
            area_solo, area_setting = (area(side, shared, str(scale)) for side in (solo, curve))
            rows.append(
                {
                    "scale": scale,
                    "model": model,
                    "solo_setting": name,
                    "setting": setting,
                    "buckets": len(shared),
                    "graded": int(curve.loc[curve["bucket"].isin(shared), "graded"].sum()),
                    "auc_solo": _rounded(area_solo),
                    "auc": _rounded(area_setting),
                    "gap": _rounded(area_solo - area_setting),
                    "retention": _rounded(area_setting / area_solo) if area_solo else math.nan,
                    "replay": bool(curve["replay"].iloc[0]),
                }
            )
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS))


def area(curve: pd.DataFrame, shared: list[int], scale: str) -> float:
    """Return the area under a success curve by the trapezoidal rule.

    The curve connects the midpoints of the buckets that both curves have. On the paper's scale the
    area extends from the first to the last of these and needs two. On the other scales the curve is
    extended horizontally to 0 and 1.
    """
    if not shared:
        return math.nan
    points = curve[curve["bucket"].isin(shared)].sort_values("bucket")
    x = (points["bucket"].to_numpy(float) + 0.5) / BUCKETS
    y = points["pass"].to_numpy(float) / points["graded"].to_numpy(float)
    if scale != PAPER_SCALE:
        x = np.concatenate([[0.0], x, [1.0]])
        y = np.concatenate([y[:1], y, y[-1:]])
    return trapezoids(x, y)


def trapezoids(x: stats.Floats, y: stats.Floats) -> float:
    """Return the area of the trapezoids between points sorted by x; NaN with fewer than two."""
    if len(x) < 2:
        return math.nan
    return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2))


def _rounded(value: float) -> float:
    return round(value, 6)


PUBLISHED_COLUMNS = (
    *("model", "framework", "git", "setting", "merge", "pairs", "pass", "pass_rate"),
    *("ci_low", "ci_high", "auc", "retention", "comparable", "source", "replay"),
)
THIS = "this experiment"
# How the two patches of a coop run were merged before the tests.
LEAD_ALONE = "git, else the lead's patch alone"  # upstream 0.0.29's verdict
NAIVE = "naive"  # plain git merge only


def published_table(runs: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the experiments, followed by the published rows.

    A coop experiment has two rows: by upstream's verdict, and by the passes of the plain merge
    alone, which are comparable with the published naive merge.

    Args:
        gaps: coordination_gap.csv as a table.
    """
    rows = [*_this_experiment(runs, gaps), *map(_published_row, published.read_rows())]
    return pd.DataFrame(rows, columns=list(PUBLISHED_COLUMNS)).astype({"pass": "Int64"})


def _this_experiment(runs: pd.DataFrame, gaps: pd.DataFrame) -> Iterator[dict[str, Any]]:
    # With two buckets a solo curve always falls from 1 to 0, so its area is not informative.
    areas = gaps[(gaps["scale"] == PAPER_SCALE) & (gaps["buckets"] > 2)]
    rated = graded(runs)
    for (model, setting), group in rated.groupby(["model", "setting"], sort=False):
        first = group.iloc[0]
        solo = first["mode"] == SOLO
        own = areas[areas["model"] == model]
        if not solo:
            own = own[own["setting"] == setting]
        row = {
            "model": model,
            "framework": first["framework"],
            "git": bool(first["git"]),
            "setting": setting,
            "pairs": len(group),
            "source": THIS,
            "replay": bool(group["replay"].any()),
        }
        area = float(own.iloc[0]["auc_solo" if solo else "auc"]) if len(own) else math.nan
        retention = math.nan if solo or own.empty else float(own.iloc[0]["retention"])
        passed = group["passed"] == 1
        figures = {"auc": area, "retention": retention, **_rates(int(passed.sum()), len(group))}
        if solo:
            yield {**row, "merge": "", "comparable": True, **figures}
            continue
        merged = passed & ~group["caveat"].str.contains(judgement.LEAD_ALONE, regex=False)
        yield {**row, "merge": LEAD_ALONE, "comparable": False, **figures}
        yield {
            **row,
            "merge": NAIVE,
            "comparable": first["mode"] == "coop",
            "auc": math.nan,
            "retention": math.nan,
            **_rates(int(merged.sum()), len(group)),
        }


def _rates(passed: int, pairs: int) -> dict[str, Any]:
    low, high = stats.wilson(passed, pairs)
    return {"pass": passed, "pass_rate": stats.rate(passed, pairs), "ci_low": low, "ci_high": high}


def _published_row(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a published row; rates and intervals that were not printed are computed."""
    pairs = int(row["pairs"])
    passed, rate, low, high, auc, retention = (
        float(row[key]) if row[key] else math.nan
        for key in ("pass", "pass_rate", "ci_low", "ci_high", "auc", "retention")
    )
    if math.isnan(rate):
        rate = round(passed / pairs, 6)
    if math.isnan(low):
        ends = stats.wilson_many(np.array([rate * pairs]), np.array([float(pairs)]))
        low, high = (float(end[0]) for end in ends)
    return {
        **row,
        "git": row["git"] == "True",
        "pairs": pairs,
        "pass": passed,
        "pass_rate": rate,
        "ci_low": low,
        "ci_high": high,
        "auc": auc,
        "retention": retention,
        "comparable": row["merge"] in ("", NAIVE),
        "replay": False,
    }
