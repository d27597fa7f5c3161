"""symptoms.csv: how many of the judged runs show each symptom, and how far repeats agree. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cooperflow.analysis.symptoms import PAPER_SHARES, SYMPTOMS, Reading
from cooperflow.tables import stats

COLUMNS = (
    "symptom",
    "runs",
    "judged",
    "share",
    "ci_low",
    "ci_high",
    "labels_rejected",
    "agreement",
    "kappa",
    "paper_share_of_labels",
    "replay",
)
LABEL_COLUMNS = (
    "run_name",
    "repo",
    "task_id",
    "features",
    "repeat",
    "symptom",
    "accepted",
    "rejected_because",
    "quote1",
    "quote2",
    "replay",
)


def counts(readings: Mapping[str, Sequence[Reading]], replay: bool) -> pd.DataFrame:
    """Return a row for each symptom.

    A run shows a symptom if more than half of its readable answers do.

    Args:
        readings: run -> its answers, one per repeat.
    """
    judged = {
        key: [r for r in answers if r.readable]
        for key, answers in readings.items()
        if any(r.readable for r in answers)
    }
    rows = []
    for symptom in SYMPTOMS:
        votes = [[symptom in reading.accepted for reading in group] for group in judged.values()]
        runs = sum(2 * sum(group) > len(group) for group in votes)
        low, high = stats.wilson(runs, len(votes))
        rejected = sum(
            label.symptom == symptom and bool(label.rejected)
            for answers in readings.values()
            for reading in answers
            for label in reading.labels
        )
        agreement, kappa = agreement_of(votes)
        rows.append(
            {
                "symptom": symptom,
                "runs": runs,
                "judged": len(votes),
                "share": stats.rate(runs, len(votes)),
                "ci_low": low,
                "ci_high": high,
                "labels_rejected": rejected,
                "agreement": agreement,
                "kappa": kappa,
                "paper_share_of_labels": PAPER_SHARES[symptom],
                "replay": replay,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def agreement_of(votes: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """Return the pairwise agreement of the repeats and Fleiss' kappa; NaN without repeats.

    Only runs with the most answers count. Kappa is NaN where all answers are
    equal. Source: J. L. Fleiss, "Measuring nominal scale agreement among many raters",
    Psychological Bulletin 76 (1971) 378-382; computed by statsmodels.
    """
    repeats = max((len(group) for group in votes), default=0)
    table = np.array([[sum(g), len(g) - sum(g)] for g in votes if len(g) == repeats], dtype=float)
    if repeats < 2 or not len(table):
        return math.nan, math.nan
    pairs = (table * (table - 1)).sum(axis=1) / (repeats * (repeats - 1))
    if not table.sum(axis=0).all():
        return round(float(pairs.mean()), 6), math.nan
    from statsmodels.stats.inter_rater import fleiss_kappa

    return round(float(pairs.mean()), 6), round(float(fleiss_kappa(table)), 6)


def label_rows(
    key: Mapping[str, Any], repeat: int, reading: Reading, replay: bool
) -> list[dict[str, Any]]:
    """Return a row for each label of an answer."""
    return [
        {
            **key,
            "repeat": repeat,
            "symptom": label.symptom,
            "accepted": not label.rejected,
            "rejected_because": label.rejected,
            "quote1": label.quotes[0] if label.quotes else "",
            "quote2": label.quotes[1] if len(label.quotes) > 1 else "",
            "replay": replay,
        }
        for label in reading.labels
    ]
