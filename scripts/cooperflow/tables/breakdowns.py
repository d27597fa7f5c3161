"""Breakdowns of the results: pass rates by property, cost, repeats, losses and conflicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cooperflow.analysis import losses
from cooperflow.outcomes import judgement
from cooperflow.tables import comparison, paper_tables, stats
from cooperflow.tables.paper_tables import graded
from cooperflow.tables.run_table import EXPERIMENT
from cooperflow.upstream import published
from cooperflow.upstream.result_files import CONFLICTS, MERGED

COUNTS = ["runs", "pass", "fail", "infra_error", "pass_rate", "ci_low", "ci_high", "replay"]
# The last bin has no upper edge. 0 is a separate bin: no message, no patch.
MESSAGE_EDGES = (1, 6, 11, 21, 51)
PATCH_EDGES = (1, 51, 101, 201, 501, 1001)
COST_COLUMNS = (
    *EXPERIMENT,
    *("runs", "pass"),
    *("cost_usd", "cost_complete", "cost_per_run_usd", "cost_per_pass_usd"),
    *("input_tokens", "cached_tokens", "output_tokens"),
    *("input_tokens_per_run", "output_tokens_per_run", "steps_per_run", "attempts_per_run"),
    *("duration_s", "duration_mean_s", "duration_median_s", "duration_p90_s"),
    *("duration_per_pass_s", "model_s", "waited_s", "work_s", "eval_s"),
    "replay",
)

REPEATS_COLUMNS = (
    *("model", "setting", "repeats", "pairs", "graded"),
    *("pass_at_1", "se", "ci_low", "ci_high", "se_pairs", "se_repeats"),
    *("always_pass", "always_fail", "changed", "repeated_pairs", "changed_share", "disagreement"),
    "replay",
)
INTERVALS = ("ci_low", "ci_high", "cluster_low", "cluster_high")
LOSS_COLUMNS = (
    *EXPERIMENT,
    *("loss", "runs", "graded", "share"),
    *INTERVALS,
    *("failed", "share_of_failed", "failed_low", "failed_high", "infra_error", "replay"),
)
OWN_COLUMNS = (
    *EXPERIMENT,
    *("graded", "known", "both_passed", "both_rate"),
    *INTERVALS,
    *("agents", "agents_passed", "agent_rate", "agent_low", "agent_high"),
    *("passes_needing_both", "replay"),
)
CONFLICT_COLUMNS = (
    *EXPERIMENT,
    *("merged", "conflicts", "conflict_rate"),
    *INTERVALS,
    *("overlap_known", "overlapping", "near", "conflicts_overlapping", "conflicts_apart"),
    *("files_both_mean", "changed_lines_mean", "replay"),
)
PASSED = "passed"  # name of the row with the passes in the table of losses
_PAIR = ["repo", "task_id", "features"]


def tables(
    runs: pd.DataFrame, repo_languages: Mapping[str, str] | None = None
) -> dict[str, pd.DataFrame]:
    """Return all breakdowns by name.

    Args:
        runs: the table of runs.
        repo_languages: configured languages by repo.
    """
    binned_runs = runs.assign(
        language=[published.language_of(repo, repo_languages) for repo in runs["repo"]]
    )
    binned_runs = binned_runs.assign(
        messages=bin_values(binned_runs["messages_sent"], MESSAGE_EDGES),
        lines=bin_values(binned_runs["patch_lines"], PATCH_EDGES),
    )
    solo = _solo_outcome(binned_runs)
    curves = paper_tables.buckets(binned_runs)
    gaps = paper_tables.gaps(curves)
    return {
        "by_repo": rates(binned_runs, ["repo", "language"]),
        "by_language": rates(binned_runs, ["language"]),
        "by_task": rates(binned_runs, ["repo", "task_id"]),
        "by_solo_outcome": rates(solo, ["solo_outcome"]),
        "by_difficulty": curves,
        "coordination_gap": gaps,
        "by_messages": rates(binned_runs[binned_runs["mode"] != paper_tables.SOLO], ["messages"]),
        "by_patch_size": rates(binned_runs, ["lines"]),
        "by_reason": reasons(binned_runs),
        "cost": cost(binned_runs),
        "repeats": repeats(binned_runs),
        "losses": loss_table(runs),
        "own_features": own_table(runs),
        "conflicts": conflict_table(runs),
        "conflict_comparison": conflict_comparison(runs),
        "published": paper_tables.published_table(binned_runs, gaps),
    }


def bin_values(values: pd.Series, edges: Sequence[int]) -> pd.Categorical:
    """Return the bin of each integer as text: 0, 1-5, 6-10, ..., 51+."""
    lows = [0, *edges]
    labels = [_label(low, high) for low, high in zip(lows, edges, strict=False)]
    labels.append(f"{edges[-1]}+")
    index = np.searchsorted(np.asarray(edges), values.to_numpy(), side="right")
    return pd.Categorical([labels[i] for i in index], categories=labels, ordered=True)


def _label(low: int, high: int) -> str:
    return str(low) if high - low == 1 else f"{low}-{high - 1}"


def rates(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return outcomes and pass rate for each experiment and each value of the columns ``by``.

    Experiments are in the order of ``runs``, values are sorted.
    """
    columns = [*EXPERIMENT, *by, *COUNTS]
    done = runs[runs["outcome"].isin(judgement.OUTCOMES)]
    if done.empty:
        return pd.DataFrame(columns=columns)
    order = {name: n for n, name in enumerate(done["run_name"].unique())}
    marked = done.assign(**{o: done["outcome"] == o for o in judgement.OUTCOMES})
    grouped = marked.groupby([*EXPERIMENT, *by], sort=True, observed=True)
    table = grouped[list(judgement.OUTCOMES)].sum().astype(int)
    table["replay"] = grouped["replay"].first().astype(bool)
    table = table.reset_index().sort_values(
        "run_name", key=lambda names: names.map(order), kind="stable", ignore_index=True
    )
    passed = table[judgement.PASS].to_numpy(float)
    decided = passed + table[judgement.FAIL].to_numpy(float)
    low, high = stats.wilson_many(passed, decided)
    table["runs"] = table[list(judgement.OUTCOMES)].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        table["pass_rate"] = np.round(np.where(decided > 0, passed / decided, np.nan), 6)
    table["ci_low"], table["ci_high"] = low, high
    return table[columns]


def _solo_outcome(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs other than solo, with the outcome of the same model's solo run."""
    keys = ["model", "repeat", "repo", "task_id", "features"]
    solo = runs[runs["setting"] == paper_tables.solo_setting(runs)]
    solo = solo[[*keys, "outcome"]].rename(columns={"outcome": "solo_outcome"})
    return runs[runs["mode"] != paper_tables.SOLO].merge(solo, on=keys)


def reasons(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the number of runs of each experiment by outcome, reason and caveat."""
    columns = [*EXPERIMENT, "outcome", "reason", "caveat"]
    counted = runs.groupby(columns, sort=False, dropna=False).size().rename("runs").reset_index()
    order = {name: n for n, name in enumerate(runs["run_name"].unique())}
    ranks = {name: n for n, name in enumerate(judgement.OUTCOMES)}
    return (
        counted.assign(_e=counted["run_name"].map(order), _o=counted["outcome"].map(ranks))
        .sort_values(["_e", "_o", "runs"], ascending=[True, True, False], kind="stable")
        .reset_index(drop=True)[[*columns, "runs"]]
    )


def cost(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the money, tokens and time of each experiment.

    work_s is duration_s less waited_s, the time spent waiting for a provider.
    """
    rows = []
    for _, group in runs.groupby("run_name", sort=False):
        count, passed = len(group), int((group["outcome"] == judgement.PASS).sum())
        spent, seconds = float(group["cost_usd"].sum()), group["duration_s"].astype(float)
        waited = float(group["waited_s"].sum())
        first = group.iloc[0]
        rows.append(
            {
                **{key: first[key] for key in EXPERIMENT},
                "runs": count,
                "pass": passed,
                "cost_usd": round(spent, 6),
                "cost_complete": bool(group["cost_complete"].all()),
                "cost_per_run_usd": _per(spent, count),
                "cost_per_pass_usd": _per(spent, passed),
                "input_tokens": int(group["input_tokens"].sum()),
                "cached_tokens": int(group["cached_tokens"].sum()),
                "output_tokens": int(group["output_tokens"].sum()),
                "input_tokens_per_run": _per(float(group["input_tokens"].sum()), count, 1),
                "output_tokens_per_run": _per(float(group["output_tokens"].sum()), count, 1),
                "steps_per_run": _per(float(group["steps"].sum()), count, 2),
                "attempts_per_run": _per(float(group["attempts"].sum()), count, 3),
                "duration_s": round(float(seconds.sum()), 3),
                "duration_mean_s": round(float(seconds.mean()), 3),
                "duration_median_s": round(float(seconds.median()), 3),
                "duration_p90_s": round(float(seconds.quantile(0.9)), 3),
                "duration_per_pass_s": _per(float(seconds.sum()), passed, 3),
                "model_s": round(float(group["model_s"].sum()), 3),
                "waited_s": round(waited, 3),
                "work_s": round(float(seconds.sum()) - waited, 3),
                "eval_s": round(float(group["eval_s"].sum()), 3),
                "replay": bool(first["replay"]),
            }
        )
    return pd.DataFrame(rows, columns=list(COST_COLUMNS))


def _per(amount: float, count: int, digits: int = 6) -> float:
    return round(amount / count, digits) if count else float("nan")


def repeats(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model and setting over all repeats, even if there is only one.

    pass_at_1 is the mean over pairs of the share of the pair's graded runs that pass.
    """
    rows = [
        _repeats_row(str(model), str(setting), group)
        for (model, setting), group in runs.groupby(["model", "setting"], sort=False)
    ]
    return pd.DataFrame(rows, columns=list(REPEATS_COLUMNS))


def _repeats_row(model: str, setting: str, group: pd.DataFrame) -> dict[str, object]:
    verdicts = graded(group)
    pairs = verdicts.groupby(_PAIR, sort=False)["passed"].agg(["sum", "size"])
    count = pairs["size"].to_numpy(float)
    passed = pairs["sum"].to_numpy(float)
    share = passed / count
    tasks = [f"{key[0]}/{key[1]}" for key in pairs.index]
    mean = float(share.mean()) if len(share) else math.nan
    error = stats.clustered_error(share, tasks)
    # With a standard error of 0 the normal interval has no width, which would be misleading.
    half = stats.Z * error if error else math.nan
    low, high = round(max(mean - half, 0.0), 6), round(min(mean + half, 1.0), 6)
    repeated = count > 1
    changed = repeated & (share > 0) & (share < 1)
    # The probability that two different runs of a pair end differently, estimated from its runs.
    differs = 2 * passed[repeated] * (count - passed)[repeated] / (count * (count - 1))[repeated]
    # Half of this probability is the unbiased variance of a run of the pair.
    within = (
        np.sqrt((differs / 2 / count[repeated]).sum()) / repeated.sum()
        if repeated.any()
        else math.nan
    )
    return {
        "model": model,
        "setting": setting,
        "repeats": int(group["repeat"].nunique()),
        "pairs": len(share),
        "graded": len(verdicts),
        "pass_at_1": round(mean, 6),
        "se": error,
        "ci_low": math.nan if math.isnan(half) else low,
        "ci_high": math.nan if math.isnan(half) else high,
        "se_pairs": stats.clustered_error(share, range(len(share))),
        "se_repeats": round(float(within), 6),
        "always_pass": int((share == 1).sum()),
        "always_fail": int((share == 0).sum()),
        "changed": int(changed.sum()),
        "repeated_pairs": int(repeated.sum()),
        "changed_share": stats.rate(int(changed.sum()), int(repeated.sum())),
        "disagreement": round(float(differs.mean()), 6) if repeated.any() else math.nan,
        "replay": bool(group["replay"].iloc[0]),
    }


def _experiments(runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the identifying columns and the runs of each coop experiment."""
    for _, group in runs[runs["mode"] == "coop"].groupby("run_name", sort=False):
        first = group.iloc[0]
        yield {key: first[key] for key in EXPERIMENT}, group


def _intervals(group: pd.DataFrame, marks: pd.Series) -> dict[str, float]:
    """Return the Wilson interval and the clustered interval of the share of marked runs."""
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
    """Return the shares of the losses and of the passes in each coop experiment."""
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
    """Return how often both own features, or single ones, pass alone in each coop experiment."""
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
    """Return the conflict rate of each coop experiment, and its relation to the overlap."""
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


# Columns of comparison.csv, and their names in the comparison of conflicts.
_RENAMED = {
    "both": "both_conflict",
    "only_a": "only_a_conflicts",
    "only_b": "only_b_conflicts",
    "neither": "neither_conflicts",
    "pass_rate_a": "conflict_rate_a",
    "pass_rate_b": "conflict_rate_b",
    "infra_excluded": "excluded",
}


def replace_pass_by_conflict(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the coop runs with a conflict recorded as the pass, for the same statistics.

    A run without a merge becomes a run without a result, so that it is excluded and counted.
    """
    coop = runs[runs["mode"] == "coop"]
    marks = coop["merge_status"].map(
        {name: judgement.PASS if name == CONFLICTS else judgement.FAIL for name in MERGED}
    )
    is_finished = coop["outcome"].isin(judgement.OUTCOMES)
    marks = marks.where(marks.notna(), judgement.INFRA_ERROR)
    return coop.assign(outcome=marks.where(is_finished, coop["outcome"]))


def conflict_comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the paired comparisons of the conflict rate, with the columns of comparison.csv."""
    return comparison.table(replace_pass_by_conflict(runs)).rename(columns=_RENAMED)
