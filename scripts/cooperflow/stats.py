"""The statistics of the tables, each with the source of its formula. Pure."""

from __future__ import annotations

import math

CONFIDENCE = 0.95


def rate(count: int, of: int) -> float:
    """Return ``count`` / ``of``, rounded to six places; not a number where there is nothing."""
    return round(count / of, 6) if of else math.nan


def wilson(count: int, of: int) -> tuple[float, float]:
    """Return the Wilson score interval (95 %) of a proportion.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927) 209-212; computed by statsmodels' proportion_confint.
    """
    if not of:
        return math.nan, math.nan
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, of, alpha=1 - CONFIDENCE, method="wilson")
    return round(float(low), 6), round(float(high), 6)
