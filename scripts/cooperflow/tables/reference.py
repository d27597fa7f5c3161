"""published.csv: the experiments beside the published models, each row with its source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cooperflow.tables import difficulty, stats
from cooperflow.upstream import published

COLUMNS = (
    "model",
    "framework",
    "git",
    "setting",
    "merge",
    "pairs",
    "pass",
    "pass_rate",
    "ci_low",
    "ci_high",
    "auc",
    "retention",
    "comparable",
    "source",
    "replay",
)
OWN = "this experiment"
SOLO = "solo"
# How the two patches of a coop run were merged before the tests.
LEAD_ALONE = "git, else the lead's patch alone"  # upstream 0.0.29's verdict
NAIVE = "naive"  # plain git merge only
# The caveat of a pass by the lead's patch alone.
CAVEAT = "lead_alone"


def table(runs: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the experiments, then the published ones.

    A coop experiment has two rows: upstream's verdict, and the passes of the plain merge alone,
    which compare with the published naive merge.

    Args:
        gaps: the areas of coordination_gap.csv.
    """
    rows = [*_own(runs, gaps), *map(_published, published.read_rows())]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"pass": "Int64"})


def _own(runs: pd.DataFrame, gaps: pd.DataFrame) -> Iterator[dict[str, Any]]:
    # In two buckets a solo curve runs from 1 to 0: its area is the same for every model.
    areas = gaps[(gaps["scale"] == difficulty.PAPER_SCALE) & (gaps["buckets"] > 2)]
    rated = difficulty.graded(runs)
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
            "source": OWN,
            "replay": bool(group["replay"].any()),
        }
        area = float(own.iloc[0]["auc_solo" if solo else "auc"]) if len(own) else math.nan
        kept = math.nan if solo or own.empty else float(own.iloc[0]["retention"])
        passed = group["passed"] == 1
        whole = {"auc": area, "retention": kept, **_rates(int(passed.sum()), len(group))}
        if solo:
            yield {**row, "merge": "", "comparable": True, **whole}
            continue
        merged = passed & ~group["caveat"].str.contains(CAVEAT, regex=False)
        yield {**row, "merge": LEAD_ALONE, "comparable": False, **whole}
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


def _published(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a published row; a rate or interval that was not printed is computed."""
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
