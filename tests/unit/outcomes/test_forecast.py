"""The forecast: its mean moves from the assumption to the finished runs, its range holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cooperflow.outcomes import forecast
from cooperflow.upstream import published


def test_the_spread_between_runs_is_that_of_the_public_solo_runs() -> None:
    shape = 1 / forecast.WITHIN
    ratio = shape / float(stats.gamma.median(shape))
    assert ratio == pytest.approx(published.MEAN_TO_MEDIAN, rel=0.01)


def test_the_mean_is_a_weighted_average() -> None:
    assert forecast.mean(0.5, []) == 0.5
    assert forecast.mean(None, []) is None
    assert forecast.mean(None, [1.0, 3.0]) == 2.0
    k = forecast.WITHIN / forecast.BETWEEN
    assert forecast.mean(0.5, [2.0]) == pytest.approx((k * 0.5 + 2.0) / (k + 1))
    means = [forecast.mean(0.5, [2.0] * count) or 0.0 for count in range(40)]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(2.0, rel=0.02)


def test_costs_of_nothing_are_a_forecast_too() -> None:
    found = forecast.total(None, [0.0, 0.0], 5)
    assert found == forecast.Range(0.0, 0.0, 0.0)
    assert forecast.total(None, [], 5) is None


@pytest.mark.parametrize("count", [0, 1, 3, 10, 30])
def test_the_range_holds_nineteen_times_of_twenty(count: int) -> None:
    """Experiments drawn from the model itself, whose spreads the forecast does not know."""
    draw = np.random.default_rng(1)
    shape, between = 1 / forecast.WITHIN, 1 / forecast.BETWEEN
    held = 0
    for _ in range(300):
        mean = between / draw.gamma(between + 1)
        finished = [float(value) for value in draw.gamma(shape, mean / shape, count)]
        found = forecast.total(1.0, finished, 50)
        assert found is not None
        assert found.low <= found.mid <= found.high
        held += found.low <= float(draw.gamma(shape, mean / shape, 50).sum()) <= found.high
    assert held / 300 > 0.88
