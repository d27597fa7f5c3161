"""Statistics for the tables and the cost forecast, each with the source of its formula.

The functions are pure. They import numpy, scipy and statsmodels themselves, because `make status`
needs none of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from cooperflow.upstream import published

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
POWER = 0.80
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
SEED = 20260113  # fixed for every bootstrap, so that equal tables give equal intervals
DRAWS = 10_000

# Quantiles that limit a forecast's range.
FORECAST_LOW, FORECAST_HIGH = 0.025, 0.975

# Between experiments: the mean is within a factor of MEAN_TO_MEDIAN 19 times out of 20
# (log-normal).
BETWEEN = math.exp((math.log(published.MEAN_TO_MEDIAN) / 1.96) ** 2) - 1
# Within an experiment: the gamma distribution with shape 1/WITHIN has the same ratio of median and
# mean as the solo runs of the public run (test_stats checks it).
WITHIN = 2.63


def rate(count: int, of: int) -> float:
    """Return ``count`` / ``of``, rounded to six places; NaN without a total."""
    return round(count / of, 6) if of else math.nan


def wilson(count: int, of: int) -> tuple[float, float]:
    """Return the Wilson score interval (95 %) of a proportion.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927) 209-212.
    """
    if not of:
        return math.nan, math.nan
    low, high = _wilson(count, of)
    return round(float(low), 6), round(float(high), 6)


def wilson_many(count: Floats, of: Floats) -> tuple[Floats, Floats]:
    """Return ``wilson`` for arrays of proportions."""
    import numpy as np

    low, high = np.full(len(of), np.nan), np.full(len(of), np.nan)
    some = of > 0
    if some.any():
        low[some], high[some] = _wilson(count[some], of[some])
    return np.round(low, 6), np.round(high, 6)


def _wilson(count: Any, of: Any) -> tuple[Any, Any]:
    """Return the interval of a proportion or of an array of proportions."""
    middle = (count + Z**2 / 2) / (of + Z**2)
    half = Z / (of + Z**2) * (count * (of - count) / of + Z**2 / 4) ** 0.5
    return (middle - half) * (
        count > 0
    ), middle + half  # rounding can leave a tiny lower limit of 0


def paired_interval(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """Return the interval (95 %) of the difference of two paired proportions, a - b.

    Newcombe's method 10: the Wilson intervals of both proportions, joined by square and add
    with a correlation that is corrected for small samples. The interval stays within -1 and 1, and
    has a width even if no pair or every pair is discordant. Source: R. G. Newcombe, "Improved
    confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17 (1998) 2635-2650.
    """
    n = both + only_a + only_b + neither
    if not n:
        return math.nan, math.nan
    passed_a, passed_b = both + only_a, both + only_b
    a, b = passed_a / n, passed_b / n
    low_a, high_a = _wilson(passed_a, n)
    low_b, high_b = _wilson(passed_b, n)
    phi = _phi(both, only_a, only_b, neither)
    down, up = a - low_a, high_b - b
    low = a - b - math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    down, up = b - low_b, high_a - a
    high = a - b + math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    return round(max(low, -1.0), 6), round(min(high, 1.0), 6)


def difference_interval(a: int, of_a: int, b: int, of_b: int) -> tuple[float, float]:
    """Return the interval (95 %) of the difference of two independent proportions, a - b.

    Newcombe's method 10: the Wilson intervals of both proportions, joined by square and add.
    Source: R. G. Newcombe, "Interval estimation for the difference between independent
    proportions: comparison of eleven methods", Statistics in Medicine 17 (1998) 873-890.
    """
    if not of_a or not of_b:
        return math.nan, math.nan
    rate_a, rate_b = a / of_a, b / of_b
    low_a, high_a = _wilson(a, of_a)
    low_b, high_b = _wilson(b, of_b)
    low = rate_a - rate_b - math.hypot(rate_a - low_a, high_b - rate_b)
    high = rate_a - rate_b + math.hypot(high_a - rate_a, rate_b - low_b)
    return round(max(low, -1.0), 6), round(min(high, 1.0), 6)


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Return Newcombe's corrected estimate of the correlation of the two outcomes."""
    n = both + only_a + only_b + neither
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if not margins:
        return 0.0
    covariance: float = both * neither - only_a * only_b
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)
    return covariance / math.sqrt(margins)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p of McNemar's test; 1 if no pair is discordant.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947) 153-157; the exact form is a sign
    test of the discordant pairs. Computed by statsmodels' mcnemar.
    """
    if not only_a + only_b:
        return 1.0
    from statsmodels.stats.contingency_tables import mcnemar as test

    return float(test([[0, only_a], [only_b, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number; NaN stays NaN.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979) 65-70. Computed by statsmodels' multipletests.
    """
    import numpy as np

    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), np.nan)
    present = ~np.isnan(values)
    if present.any():
        from statsmodels.stats.multitest import multipletests

        adjusted[present] = multipletests(values[present], method="holm")[1]
    return adjusted.tolist()


def cluster_interval(sums: Floats, sizes: Floats) -> tuple[float, float]:
    """Return the percentile interval (95 %) of a mean whose values come in clusters.

    Complete clusters are drawn with replacement, as many as in the data. The result is NaN with
    fewer than two. Source: A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their
    Application" (1997), sections 3.8 and 5.3. With few clusters (below about 20) it is too
    narrow: A. C. Cameron, J. B. Gelbach and D. L. Miller, "Bootstrap-based improvements for
    inference with clustered errors", Review of Economics and Statistics 90 (2008) 414-427.

    Args:
        sums: sum of the values in each cluster.
        sizes: number of values in each cluster.
    """
    import numpy as np

    if len(sums) < 2:
        return math.nan, math.nan
    draws = _draws(len(sums))
    means = (draws @ sums) / (draws @ sizes)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return round(float(low), 6), round(float(high), 6)


@cache
def _draws(clusters: int) -> Floats:
    """Return how often each draw contains each cluster."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), DRAWS).astype(float)


def min_detectable(pairs: int, discordant: int) -> float:
    """Return the smallest true difference that this number of pairs detects with a power of 80 %.

    The test is a two-sided McNemar test at 5 % with this number of pairs. The share of discordant
    pairs is the observed one. If it is too small for any difference to be detected, all discordant
    pairs are assumed to favour the same side. The result is NaN if even a difference of 1 would be
    missed. Source, solved for the difference d at the share s: n = (z_{alpha/2} sqrt(s) + z_beta
    sqrt(s - d^2))^2 / d^2, R. J. Connor, "Sample size for testing differences in proportions for
    the paired-sample design", Biometrics 43 (1987) 207-211. The exact test is slightly more
    conservative.
    """
    beta = NormalDist().inv_cdf(POWER)
    under_root = pairs + beta**2 - Z**2
    if under_root <= 0:
        return math.nan
    factor = (Z * math.sqrt(pairs) + beta * math.sqrt(under_root)) / (pairs + beta**2)
    difference = factor * max(math.sqrt(discordant / pairs), factor)
    return round(difference, 6) if difference <= 1 else math.nan


def clustered_error(values: Floats, clusters: Sequence[object]) -> float:
    """Return the cluster-robust standard error of the mean of ``values``.

    It is the square root of the sum over clusters of (sum of the deviations from the mean)^2,
    divided by the number of values. Source: E. Miller, "Adding error bars to evals"
    (arXiv:2411.00640, 2024); the cluster-robust estimator without a correction for small samples.
    The result is NaN with fewer than two clusters.
    """
    import numpy as np

    _, index = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    if not len(values) or index.max() < 1:
        return math.nan
    sums = np.bincount(index, weights=values - values.mean())
    return round(float(np.sqrt((sums**2).sum()) / len(values)), 6)


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


def forecast_mean(assumed: float | None, finished: Sequence[float]) -> float | None:
    """Return the expected value of another run, None if nothing is known.

    Costs are positive and skewed, and experiments differ. The gamma-gamma model describes both:
    runs of an experiment follow a gamma distribution, and its mean varies between experiments. The
    forecast of the mean is a weighted average of the assumption and the observed mean,

        mean = (k * assumed + sum of the finished runs) / (k + n),   k = w / b,

    with w the squared coefficient of variation between the runs of an experiment and b that
    between experiments. Source: H. Bühlmann, "Experience rating and credibility", ASTIN Bulletin 4,
    1967.
    """
    count, total = len(finished), sum(finished)
    if assumed is None:
        return total / count if count else None
    weight = _within(finished) / BETWEEN
    return (weight * assumed + total) / (weight + count)


def forecast_total(assumed: float | None, finished: Sequence[float], count: int) -> Range | None:
    """Return the forecast of the sum of ``count`` further runs, None if nothing is known.

    The sum follows a beta prime distribution, whose 2.5 % and 97.5 % quantiles are the range.
    Source: P. Fader and B. Hardie, "The gamma-gamma model of monetary value", 2013.
    """
    from scipy import stats

    expected = forecast_mean(assumed, finished)
    if expected is None:
        return None
    within = _within(finished)
    prior = 0.0 if assumed is None else within / BETWEEN
    shape = count / within
    other = (prior + len(finished)) / within + 1
    # The beta prime distribution as a scaled F distribution, with the mean at ``expected``.
    scale = count * expected * (other - 1) / other
    low, high = (float(stats.f.ppf(q, 2 * shape, 2 * other)) for q in (FORECAST_LOW, FORECAST_HIGH))
    return Range(scale * low, count * expected, scale * high)


def _within(values: Sequence[float]) -> float:
    """Return the squared coefficient of variation between runs.

    WITHIN counts as one degree of freedom in addition to those of the finished runs.
    """
    count = len(values)
    average = sum(values) / count if count else 0.0
    if average <= 0:
        return WITHIN
    squares = sum((value / average - 1) ** 2 for value in values)
    return (WITHIN + squares) / count
