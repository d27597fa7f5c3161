"""Paired comparisons of two experiments, and the table comparison.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cooperflow.outcomes import judgement
from cooperflow.tables import stats

SETTINGS = "settings"
MODELS = "models"
COLUMNS = (
    *("compared", "a", "b", "model", "setting", "repeat"),
    *("pairs", "tasks", "both", "only_a", "only_b", "neither"),
    *("pass_rate_a", "pass_rate_b", "diff", "ci_low", "ci_high", "cluster_low", "cluster_high"),
    *("p", "p_holm", "min_detectable"),
    *("infra_excluded", "diff_low_bound", "diff_high_bound", "unfinished"),
    *("replay", "adopted"),
)
SIGNIFICANT = 0.05
TASK = ["repo", "task_id"]
PAIR = [*TASK, "features"]


@dataclass(frozen=True)
class Contrast:
    """Two run names to compare: two settings of a model, or two models in a setting.

    The difference is the rate of the minuend (column a) less the rate of the subtrahend (column b).
    """

    compared: str
    minuend: str
    subtrahend: str
    model: str  # the common model; empty if models are compared
    setting: str  # the common setting; empty if settings are compared
    repeat: int


def contrasts(runs: pd.DataFrame) -> list[Contrast]:
    """Return the comparisons in the order of the table; the earlier experiment is the minuend.

    Each repeat is compared with the same repeat of the other experiment.
    """
    columns = ["run_name", "model", "setting", "repeat"]
    experiments = runs[columns].drop_duplicates("run_name").to_dict("records")
    pairs = []
    for a, b in combinations(experiments, 2):
        if a["repeat"] != b["repeat"]:
            continue
        names = str(a["run_name"]), str(b["run_name"])
        if a["model"] == b["model"]:
            pairs.append(Contrast(SETTINGS, *names, str(a["model"]), "", int(a["repeat"])))
        elif a["setting"] == b["setting"]:
            pairs.append(Contrast(MODELS, *names, "", str(a["setting"]), int(a["repeat"])))
    return sorted(pairs, key=lambda contrast: contrast.compared != SETTINGS)


def table(runs: pd.DataFrame, chosen: Sequence[Contrast] | None = None) -> pd.DataFrame:
    """Return one row per contrast, from the table of runs.

    Only pairs that are evaluated in both experiments are compared. The others are counted, and
    pairs excluded by an infra_error are used for the bounds of the difference.

    Args:
        chosen: the contrasts; by default those between settings and between models.
    """
    outcomes = runs.pivot_table(
        index=PAIR, columns="run_name", values="outcome", aggfunc="first", sort=False
    )
    replayed = set(runs.loc[runs["replay"].astype(bool), "run_name"])
    adopted = set(runs.loc[runs["adopted"].astype(bool), "run_name"])
    rows = [
        {
            **_row(contrast, outcomes),
            "replay": bool(replayed & {contrast.minuend, contrast.subtrahend}),
            "adopted": bool(adopted & {contrast.minuend, contrast.subtrahend}),
        }
        for contrast in (contrasts(runs) if chosen is None else chosen)
    ]
    adjusted = stats.holm([row["p"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["p_holm"] = _round_p(p)
        row["p"] = _round_p(row["p"])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(contrast: Contrast, outcomes: pd.DataFrame) -> dict[str, Any]:
    sides = outcomes[[contrast.minuend, contrast.subtrahend]]
    a, b = sides[contrast.minuend], sides[contrast.subtrahend]
    graded = a.isin(judgement.GRADED) & b.isin(judgement.GRADED)
    infra = ((a == judgement.INFRA_ERROR) | (b == judgement.INFRA_ERROR)) & ~graded
    infra &= a.isin(judgement.OUTCOMES) & b.isin(judgement.OUTCOMES)
    passed_a = (a[graded] == judgement.PASS).to_numpy()
    passed_b = (b[graded] == judgement.PASS).to_numpy()
    both, neither = int((passed_a & passed_b).sum()), int((~passed_a & ~passed_b).sum())
    only_a, only_b = int((passed_a & ~passed_b).sum()), int((~passed_a & passed_b).sum())
    pairs = both + only_a + only_b + neither
    low, high = stats.paired_interval(both, only_a, only_b, neither)
    sums, sizes = _by_task(sides[graded].index, passed_a.astype(float) - passed_b.astype(float))
    cluster_low, cluster_high = stats.cluster_interval(sums, sizes)
    bound_low, bound_high = _bounds(a[infra], b[infra], only_a - only_b, pairs)
    return {
        "compared": contrast.compared,
        "a": contrast.minuend,
        "b": contrast.subtrahend,
        "model": contrast.model,
        "setting": contrast.setting,
        "repeat": contrast.repeat,
        "pairs": pairs,
        "tasks": len(sums),
        "both": both,
        "only_a": only_a,
        "only_b": only_b,
        "neither": neither,
        "pass_rate_a": stats.rate(both + only_a, pairs),
        "pass_rate_b": stats.rate(both + only_b, pairs),
        "diff": stats.rate(only_a - only_b, pairs),
        "ci_low": low,
        "ci_high": high,
        "cluster_low": cluster_low,
        "cluster_high": cluster_high,
        "p": stats.mcnemar(only_a, only_b) if pairs else math.nan,
        "min_detectable": stats.min_detectable(pairs, only_a + only_b),
        "infra_excluded": int(infra.sum()),
        "diff_low_bound": bound_low,
        "diff_high_bound": bound_high,
        "unfinished": int((~graded & ~infra).sum()),
    }


def _by_task(index: pd.Index, differences: np.ndarray) -> tuple[stats.Floats, stats.Floats]:
    """Return the sum of the differences and the number of pairs of each task."""
    if not len(index):
        return np.empty(0), np.empty(0)
    grouped = pd.Series(differences).groupby(
        [index.get_level_values(level) for level in TASK], sort=True
    )
    return np.asarray(grouped.sum(), dtype=float), np.asarray(grouped.count(), dtype=float)


def _bounds(a: pd.Series, b: pd.Series, difference: int, pairs: int) -> tuple[float, float]:
    """Return the difference if each unknown outcome were against a, and if it were in its favour.

    Source: C. F. Manski, "Partial identification of probability distributions" (2003), ch. 1.
    """
    total = pairs + len(a)
    passed_a, passed_b = a == judgement.PASS, b == judgement.PASS
    lost_a, lost_b = a == judgement.INFRA_ERROR, b == judgement.INFRA_ERROR
    low = difference + int(passed_a.sum()) - int((passed_b | lost_b).sum())
    high = difference + int((passed_a | lost_a).sum()) - int(passed_b.sum())
    return stats.rate(low, total), stats.rate(high, total)


def _round_p(p: float) -> float:
    """Return a p value with six significant digits, so that a tiny value does not become zero."""
    return float(f"{p:.6g}")


@dataclass(frozen=True)
class Difference:
    """A paired difference of two rates, the second less the first, from -1 to 1."""

    pairs: int
    value: float
    low: float
    high: float
    p: float
    detectable: float
    cluster_low: float = math.nan
    cluster_high: float = math.nan
    excluded: int = 0  # pairs excluded because of an infrastructure error
    bound_low: float = math.nan
    bound_high: float = math.nan

    @classmethod
    def of_row(cls, row: Mapping[Any, Any]) -> Difference:
        """Return the difference in a row of comparison.csv or conflict_comparison.csv."""
        excluded = row["infra_excluded" if "infra_excluded" in row else "excluded"]
        return cls(
            pairs=int(row["pairs"]),
            value=float(row["diff"]),
            low=float(row["ci_low"]),
            high=float(row["ci_high"]),
            p=float(row["p"]),
            detectable=float(row["min_detectable"]),
            cluster_low=float(row["cluster_low"]),
            cluster_high=float(row["cluster_high"]),
            excluded=int(excluded),
            bound_low=float(row["diff_low_bound"]),
            bound_high=float(row["diff_high_bound"]),
        )

    def reversed(self) -> Difference:
        """Return the first rate less the second."""
        return replace(
            self,
            value=-self.value,
            low=-self.high,
            high=-self.low,
            cluster_low=-self.cluster_high,
            cluster_high=-self.cluster_low,
            bound_low=-self.bound_high,
            bound_high=-self.bound_low,
        )

    @property
    def is_established(self) -> bool:
        """True if the evidence supports a direction."""
        intervals = [(self.low, self.high)]
        if not math.isnan(self.cluster_low):
            intervals.append((self.cluster_low, self.cluster_high))
        return self.p < SIGNIFICANT and all(low > 0 or high < 0 for low, high in intervals)
