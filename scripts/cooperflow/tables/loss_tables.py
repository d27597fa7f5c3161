"""Tables of the losses, of the own features, and of the merge conflicts. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from cooperflow.analysis import losses
from cooperflow.outcomes import judgement
from cooperflow.tables import comparison, stats
from cooperflow.upstream.result_files import CONFLICTS, MERGED

EXPERIMENT = ("run_name", "model", "setting")
INTERVALS = ("ci_low", "ci_high", "cluster_low", "cluster_high")
LOSS_COLUMNS = (
    *EXPERIMENT,
    "loss",
    "runs",
    "graded",
    "share",
    *INTERVALS,
    "failed",
    "share_of_failed",
    "failed_low",
    "failed_high",
    "infra_error",
    "replay",
)
OWN_COLUMNS = (
    *EXPERIMENT,
    "graded",
    "known",
    "both_passed",
    "both_rate",
    *INTERVALS,
    "agents",
    "agents_passed",
    "agent_rate",
    "agent_low",
    "agent_high",
    "passes_needing_both",
    "replay",
)
CONFLICT_COLUMNS = (
    *EXPERIMENT,
    "merged",
    "conflicts",
    "conflict_rate",
    *INTERVALS,
    "overlap_known",
    "overlapping",
    "near",
    "conflicts_overlapping",
    "conflicts_apart",
    "files_both_mean",
    "changed_lines_mean",
    "replay",
)
PASSED = "passed"  # the row of the passes among the losses


def _experiments(runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield each coop experiment: its identity and its runs."""
    for _, group in runs[runs["mode"] == "coop"].groupby("run_name", sort=False):
        first = group.iloc[0]
        yield {key: first[key] for key in EXPERIMENT}, group


def _intervals(group: pd.DataFrame, marks: pd.Series) -> dict[str, float]:
    """Return the Wilson and the clustered interval of the share of marked runs."""
    low, high = stats.wilson(int(marks.sum()), len(marks))
    values = pd.Series(marks.to_numpy(float))
    tasks = [group[column].to_numpy() for column in comparison.TASK]
    grouped = values.groupby(tasks, sort=True)
    cluster = (np.nan, np.nan)
    if len(marks):
        sums, sizes = (np.asarray(each, dtype=float) for each in (grouped.sum(), grouped.count()))
        cluster = stats.cluster_interval(sums, sizes)
    return dict(zip(INTERVALS, (low, high, *cluster), strict=True))


def loss_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each loss, and of the passes, in each coop experiment."""
    rows = []
    for identity, group in _experiments(runs):
        graded = group[group["outcome"].isin(judgement.GRADED)]
        has_failed = graded["outcome"] == judgement.FAIL
        failed = int(has_failed.sum())
        losses_of_runs = graded["loss"].where(graded["loss"].isin(losses.LOSSES), losses.UNKNOWN)
        kinds = losses_of_runs.where(has_failed, PASSED)
        for kind in (PASSED, *losses.LOSSES):
            marks = kinds == kind
            count = int(marks.sum())
            is_loss = kind != PASSED
            low, high = stats.wilson(count, failed) if is_loss else (np.nan, np.nan)
            rows.append(
                {
                    **identity,
                    "loss": kind,
                    "runs": count,
                    "graded": len(graded),
                    "share": stats.rate(count, len(graded)),
                    **_intervals(graded, marks),
                    "failed": failed,
                    "share_of_failed": stats.rate(count, failed) if is_loss else np.nan,
                    "failed_low": low,
                    "failed_high": high,
                    "infra_error": int((group["outcome"] == judgement.INFRA_ERROR).sum()),
                    "replay": bool(group["replay"].iloc[0]),
                }
            )
    return pd.DataFrame(rows, columns=list(LOSS_COLUMNS))


def own_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return how often both own features, and each of them, pass alone in each coop experiment."""
    rows = []
    for identity, group in _experiments(runs):
        graded = group[group["outcome"].isin(judgement.GRADED)]
        tested = graded[graded["own1_passed"].notna() & graded["own2_passed"].notna()]
        first, second = tested["own1_passed"].astype(bool), tested["own2_passed"].astype(bool)
        both = first & second
        passed = int(first.sum()) + int(second.sum())
        low, high = stats.wilson(passed, 2 * len(tested))
        rows.append(
            {
                **identity,
                "graded": len(graded),
                "known": len(tested),
                "both_passed": int(both.sum()),
                "both_rate": stats.rate(int(both.sum()), len(tested)),
                **_intervals(tested, both),
                "agents": 2 * len(tested),
                "agents_passed": passed,
                "agent_rate": stats.rate(passed, 2 * len(tested)),
                "agent_low": low,
                "agent_high": high,
                "passes_needing_both": int((~both & (tested["outcome"] == judgement.PASS)).sum()),
                "replay": bool(group["replay"].iloc[0]),
            }
        )
    return pd.DataFrame(rows, columns=list(OWN_COLUMNS))


def conflict_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the conflict rate of each coop experiment, and how it relates to the overlap."""
    rows = []
    for identity, group in _experiments(runs):
        merged = group[group["merge_status"].isin(MERGED)]
        conflict = merged["merge_status"] == CONFLICTS
        is_known = merged["hunks_overlapping"].notna()
        overlapping = is_known & (merged["hunks_overlapping"].fillna(0) > 0)
        near = is_known & (merged["hunks_near"].fillna(0) > 0)
        lines = merged.loc[is_known, ["changed1_lines", "changed2_lines"]].astype(float)
        rows.append(
            {
                **identity,
                "merged": len(merged),
                "conflicts": int(conflict.sum()),
                "conflict_rate": stats.rate(int(conflict.sum()), len(merged)),
                **_intervals(merged, conflict),
                "overlap_known": int(is_known.sum()),
                "overlapping": int(overlapping.sum()),
                "near": int(near.sum()),
                "conflicts_overlapping": int((conflict & overlapping).sum()),
                "conflicts_apart": int((conflict & is_known & ~overlapping).sum()),
                "files_both_mean": _mean(merged.loc[is_known, "files_both"]),
                "changed_lines_mean": _mean(lines.sum(axis=1)),
                "replay": bool(group["replay"].iloc[0]),
            }
        )
    return pd.DataFrame(rows, columns=list(CONFLICT_COLUMNS))


def _mean(values: pd.Series) -> float:
    return round(float(values.astype(float).mean()), 3) if len(values) else np.nan


# comparison.csv's columns under the names of the conflicts.
_RENAMED = {
    "both": "both_conflict",
    "only_a": "only_a_conflicts",
    "only_b": "only_b_conflicts",
    "neither": "neither_conflicts",
    "pass_rate_a": "conflict_rate_a",
    "pass_rate_b": "conflict_rate_b",
    "infra_excluded": "excluded",
}


def mark_conflicts(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the coop runs with the conflict in the place of the pass, for the same statistics.

    A run without a merge is marked as a run without a result, so that it is excluded and counted.
    """
    coop = runs[runs["mode"] == "coop"]
    marks = coop["merge_status"].map(
        {name: judgement.PASS if name == CONFLICTS else judgement.FAIL for name in MERGED}
    )
    is_finished = coop["outcome"].isin(judgement.OUTCOMES)
    marks = marks.where(marks.notna(), judgement.INFRA_ERROR)
    return coop.assign(outcome=marks.where(is_finished, coop["outcome"]))


def conflict_comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """Return paired comparisons of the conflict rate: McNemar, Newcombe and clustered interval."""
    return comparison.table(mark_conflicts(runs)).rename(columns=_RENAMED)
