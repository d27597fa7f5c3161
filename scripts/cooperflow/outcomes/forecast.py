"""Forecast of a sum of more runs from an assumption and the finished runs. Pure.

Costs are positive and skewed, and experiments differ. The gamma-gamma model describes both: runs of
an experiment follow a gamma distribution, and its mean varies between experiments. The forecast of
the mean is a weighted average of the assumption and the observed mean,

    mean = (k * assumed + sum of the finished runs) / (k + n),   k = w / b,

with w the squared coefficient of variation between the runs of an experiment and b that between
experiments. This is Bühlmann's credibility estimate (H. Bühlmann, "Experience rating and
credibility", ASTIN Bulletin 4, 1967). The sum of more runs then follows a beta prime
distribution, whose 2.5 % and 97.5 % quantiles are the range (P. Fader and B. Hardie, "The
gamma-gamma model of monetary value", 2013). w is itself estimated: the assumed value counts as one
degree of freedom beside those of the finished runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cooperflow.upstream import published

LOW, HIGH = 0.025, 0.975

# Between experiments: the mean is within a factor of MEAN_TO_MEDIAN, 19 times of 20 (log-normal).
BETWEEN = math.exp((math.log(published.MEAN_TO_MEDIAN) / 1.96) ** 2) - 1
# Between the runs of an experiment: the gamma distribution with shape 1/WITHIN has the ratio of
# median and mean that the solo runs of the public run had (test_forecast checks it).
WITHIN = 2.63


@dataclass(frozen=True)
class Range:
    """A value with a lower and an upper limit."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def scaled(self, factor: float) -> Range:
        return Range(self.low * factor, self.mid * factor, self.high * factor)


NOTHING = Range(0.0, 0.0, 0.0)


def mean(assumed: float | None, finished: Sequence[float]) -> float | None:
    """Return the expected value of another run; None if nothing is known about it."""
    count, total = len(finished), sum(finished)
    if assumed is None:
        return total / count if count else None
    weight = _within(finished) / BETWEEN
    return (weight * assumed + total) / (weight + count)


def total(assumed: float | None, finished: Sequence[float], further: int) -> Range | None:
    """Return the forecast of the sum of ``count`` runs; None if nothing is known about it."""
    from scipy import stats

    expected = mean(assumed, finished)
    if expected is None:
        return None
    within = _within(finished)
    prior = 0.0 if assumed is None else within / BETWEEN
    shape = further / within
    other = (prior + len(finished)) / within + 1
    # The beta prime distribution as a scaled F distribution, with the mean at ``expected``.
    scale = further * expected * (other - 1) / other
    low, high = (float(stats.f.ppf(q, 2 * shape, 2 * other)) for q in (LOW, HIGH))
    return Range(scale * low, further * expected, scale * high)


def _within(values: Sequence[float]) -> float:
    """Return the squared coefficient of variation between runs."""
    count = len(values)
    average = sum(values) / count if count else 0.0
    if average <= 0:
        return WITHIN
    squares = sum((value / average - 1) ** 2 for value in values)
    return (WITHIN + squares) / count
