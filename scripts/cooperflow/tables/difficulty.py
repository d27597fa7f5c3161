"""Difficulty of the pairs by their solo runs, and the coordination gap over difficulty. Pure.

The CooperBench paper (A. Khatua, H. Zhu et al., "CooperBench: Why Coding Agents Cannot be Your
Teammates Yet", arXiv:2601.13295) takes as the difficulty of a pair t the share of solo runs
that fail, d(t) = 1 - 1/|M| * sum over the models M of Solo_m(t); puts the pairs into ten
buckets of equal width over [0, 1], with a Wilson interval for each bucket's success rate; and
compares the areas under the success curves of solo and coop over difficulty (trapezoidal
rule). docs/results.md lists the verified and the added parts.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from cooperflow.outcomes import judgement
from cooperflow.tables import stats

BUCKETS = 10
PAIR_SCALE = "pair"  # the paper's: a pair's own solo runs
TASK_SCALE = "task"  # added: the solo runs of all pairs of its task, for few models
SCALES = (PAIR_SCALE, TASK_SCALE)
SOLO = "solo"
_TASK = ["repo", "task_id"]
_KEYS = {PAIR_SCALE: [*_TASK, "features"], TASK_SCALE: _TASK}
_GRADED = (judgement.PASS, judgement.FAIL)
BUCKET_COLUMNS = (
    "scale",
    "model",
    "setting",
    "mode",
    "bucket",
    "difficulty_low",
    "difficulty_high",
    "graded",
    "pass",
    "pass_rate",
    "ci_low",
    "ci_high",
    "replay",
)
GAP_COLUMNS = (
    "scale",
    "model",
    "solo_setting",
    "setting",
    "buckets",
    "graded",
    "auc_solo",
    "auc",
    "gap",
    "retention",
    "replay",
)


def solo_setting(runs: pd.DataFrame) -> str | None:
    """Return the first setting in which one agent does both features; None without one."""
    solo = runs.loc[runs["mode"] == SOLO, "setting"]
    return None if solo.empty else str(solo.iloc[0])


def graded(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that have a verdict, with the column ``passed`` (1 or 0)."""
    kept = runs[runs["outcome"].isin(_GRADED)]
    return kept.assign(passed=(kept["outcome"] == judgement.PASS).astype(float))


def scores(runs: pd.DataFrame, scale: str) -> pd.Series:
    """Return the difficulty of each pair or task: 1 - the mean solo success over the models.

    Each model counts the same, however many repeats or graded pairs it has.
    """
    solo = graded(runs[runs["setting"] == solo_setting(runs)])
    keys = _KEYS[scale]
    by_model = solo.groupby([*keys, "model"], sort=False)["passed"].mean()
    return (1 - by_model.groupby(keys, sort=False).mean()).rename("difficulty")


def buckets(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the success of each model and setting in each bucket that holds graded runs."""
    parts = [_buckets(runs, scale) for scale in SCALES]
    return pd.concat(parts, ignore_index=True)[list(BUCKET_COLUMNS)]


def _buckets(runs: pd.DataFrame, scale: str) -> pd.DataFrame:
    if solo_setting(runs) is None:
        return pd.DataFrame(columns=list(BUCKET_COLUMNS))
    rows = graded(runs).merge(scores(runs, scale).reset_index(), on=_KEYS[scale])
    # Rounded, so that 0.3 as 1 - 0.7 falls into the bucket that starts at 0.3; 1 into the last.
    tenths = np.floor(np.round(rows["difficulty"].to_numpy(float) * BUCKETS, 9))
    rows["bucket"] = np.minimum(tenths, BUCKETS - 1)
    grouped = rows.groupby(["model", "setting", "mode", "bucket"], sort=False)
    table = grouped.agg(
        graded=("passed", "size"), passes=("passed", "sum"), replay=("replay", "first")
    ).reset_index()
    order = {name: n for n, name in enumerate(runs["setting"].unique())}
    table = table.sort_values(
        ["model", "setting", "bucket"],
        key=lambda column: column.map(order) if column.name == "setting" else column,
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
    """Return, for each model and setting that is not solo, the area between its curve and solo's.

    Args:
        curves: what ``buckets`` returned.
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
            above, below = area(solo, shared), area(curve, shared)
            rows.append(
                {
                    "scale": scale,
                    "model": model,
                    "solo_setting": name,
                    "setting": setting,
                    "buckets": len(shared),
                    "graded": int(curve.loc[curve["bucket"].isin(shared), "graded"].sum()),
                    "auc_solo": _rounded(above),
                    "auc": _rounded(below),
                    "gap": _rounded(above - below),
                    "retention": _rounded(below / above) if above else math.nan,
                    "replay": bool(curve["replay"].iloc[0]),
                }
            )
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS))


def area(curve: pd.DataFrame, shared: list[int]) -> float:
    """Return the area under a success curve over [0, 1], by the trapezoidal rule.

    The curve goes through the middles of the buckets that both curves have, straight between
    them (empty buckets are skipped), level from the first to 0 and from the last to 1.
    """
    if not shared:
        return math.nan
    kept = curve[curve["bucket"].isin(shared)].sort_values("bucket")
    middles = (kept["bucket"].to_numpy(float) + 0.5) / BUCKETS
    rates = kept["pass"].to_numpy(float) / kept["graded"].to_numpy(float)
    x = np.concatenate([[0.0], middles, [1.0]])
    y = np.concatenate([rates[:1], rates, rates[-1:]])
    return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2))


def _rounded(value: float) -> float:
    return round(value, 6)
