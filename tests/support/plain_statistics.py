"""The statistics of the tables, implemented independently in plain Python from their formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from scipy.optimize import brentq

Z = 1.959963984540054  # 97.5 % of the standard normal distribution
Z_POWER = 0.8416212335729143  # 80 %


def same(got: float, expected: float) -> bool:
    """Return whether a figure equals the expected one, rounded to six places."""
    if math.isnan(expected):
        return math.isnan(got)
    return abs(got - expected) <= 5.01e-7 and got == round(got, 6)


def wilson(count: float, of: int) -> tuple[float, float]:
    if not of:
        return math.nan, math.nan
    p = count / of
    middle = (p + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z * math.sqrt(p * (1 - p) / of + Z * Z / (4 * of * of)) / (1 + Z * Z / of)
    return max(middle - half, 0.0), middle + half


def mcnemar(b: int, c: int) -> float:
    """Return the exact p: twice the tail probability of a fair coin tossed b + c times."""
    n = b + c
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n)


def newcombe_paired(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Return Newcombe's interval of (a + b) / n - (a + c) / n for the cells of a paired table."""
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n), wilson(a + c, n)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    numerator = a * d - b * c
    if numerator > 0:
        numerator = max(numerator - n / 2, 0)
    phi = numerator / math.sqrt(product) if product else 0.0
    delta = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    epsilon = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    return p1 - p2 - math.sqrt(delta), p1 - p2 + math.sqrt(epsilon)


def newcombe(a: int, m: int, b: int, n: int) -> tuple[float, float]:
    """Return Newcombe's interval of a / m - b / n."""
    if not m or not n:
        return math.nan, math.nan
    p1, p2, (l1, u1), (l2, u2) = a / m, b / n, wilson(a, m), wilson(b, n)
    low = p1 - p2 - math.sqrt((p1 - l1) ** 2 + (u2 - p2) ** 2)
    return low, p1 - p2 + math.sqrt((u1 - p1) ** 2 + (p2 - l2) ** 2)


def clustered(values: Mapping[tuple[str, int], Sequence[tuple[float, float]]]) -> tuple[float, ...]:
    """Return the percentile interval of a ratio of sums, by resampling tasks.

    Args:
        values: numerator and denominator of each run, by task.
    """
    tasks = sorted(values)
    if len(tasks) < 2:
        return math.nan, math.nan
    above = [sum(v[0] for v in values[task]) for task in tasks]
    below = [sum(v[1] for v in values[task]) for task in tasks]
    k = len(tasks)
    ratios = np.sort((_draws(k) @ np.array(above)) / (_draws(k) @ np.array(below))).tolist()
    ends = []
    for quantile in (0.025, 0.975):
        position = quantile * (len(ratios) - 1)
        low = int(position)
        ends.append(ratios[low] + (position - low) * (ratios[low + 1] - ratios[low]))
    return tuple(ends)


@cache
def _draws(tasks: int) -> np.ndarray:
    """Return how often each of 10,000 draws contains each task; the seed is documented."""
    return np.random.default_rng(20260113).multinomial(tasks, [1 / tasks] * tasks, 10_000)


def detectable(pairs: int, discordant: int) -> float:
    """Return the difference at which Connor's sample size equals the number of pairs."""
    share = discordant / pairs

    def surplus(d: float) -> float:
        return (
            Z * math.sqrt(share) + Z_POWER * math.sqrt(max(share - d * d, 0.0))
        ) ** 2 / d**2 - pairs

    return float(brentq(surplus, 1e-9, math.sqrt(share), xtol=1e-14))


def holm(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, most = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = most
    return adjusted


def median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2
