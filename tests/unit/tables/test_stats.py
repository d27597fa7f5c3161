"""Figures of the tables and of the cost forecast, against independently calculated values."""

from __future__ import annotations

import gc
import importlib
import math
import os
import random as plain_random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import synthetic_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, gamma, norm

from cooperflow import layout
from cooperflow.tables import comparison, stats
from cooperflow.upstream import published

settings.register_profile("statistics", deadline=None, max_examples=60)  # a machine may be busy
settings.load_profile("statistics")
COUNTS = st.tuples(*[st.integers(0, 60)] * 4)


@pytest.fixture(autouse=True, scope="module")
def cheap_collections() -> Iterator[None]:
    """Leave existing objects out of the collections that multipletests asks for at each call."""
    importlib.import_module("statsmodels.stats.multitest")
    gc.freeze()
    yield
    gc.unfreeze()


def compared(a: list[str], b: list[str], chosen: list[tuple[str, int, str]]) -> pd.Series:
    """Return the row of solo against coop-comm with these outcomes."""
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(chosen, a),
        synthetic_tables.experiment(chosen, b, setting="coop-comm"),
    )
    table = comparison.table(runs)
    assert len(table) == 1
    return table.iloc[0]


def constructed() -> tuple[list[str], list[str], list[tuple[str, int, str]]]:
    """100 pairs over 26 tasks: 20 pass both, 25 only solo, 8 only coop, 47 neither."""
    chosen = synthetic_tables.pairs("lite")
    assert len(chosen) == 100
    assert len({pair[:2] for pair in chosen}) == 26
    kinds = ["both"] * 20 + ["only_a"] * 25 + ["only_b"] * 8 + ["neither"] * 47
    plain_random.Random(3).shuffle(kinds)
    a = ["pass" if kind in ("both", "only_a") else "fail" for kind in kinds]
    b = ["pass" if kind in ("both", "only_b") else "fail" for kind in kinds]
    return a, b, chosen


# --- one formula at a time ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Newcombe 1998 (Stat Med 17:2635), table II, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((54, 0, 0, 0), -0.0664, 0.0664),
        # Fagerland, Lydersen and Laake 2014 (Stat Med 33:2850), Newcombe's square-and-add
        ((1, 1, 7, 12), -0.507, -0.026),
        ((59, 6, 16, 80), -0.119, -0.005),
    ],
)
def test_paired_interval_as_published(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    digits = 4 if abs(low) < 0.1 and low not in (-0.026,) else 3
    interval = stats.paired_interval(*counts)
    assert interval == pytest.approx((low, high), abs=0.6 * 10**-digits)


@given(COUNTS)
def test_paired_interval_mirrors(counts: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = counts
    low, high = stats.paired_interval(both, only_a, only_b, neither)
    swapped = stats.paired_interval(both, only_b, only_a, neither)
    if not sum(counts):
        assert math.isnan(low)
        return
    assert (low, high) == pytest.approx((-swapped[1], -swapped[0]), abs=2e-6)
    assert -1 <= low <= (only_a - only_b) / sum(counts) + 1e-6
    assert (only_a - only_b) / sum(counts) - 1e-6 <= high <= 1
    assert low < high


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_sign_test(only_a: int, only_b: int) -> None:
    p = stats.mcnemar(only_a, only_b)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert p == pytest.approx(expected)
    assert 0 <= p <= 1


def test_holm_by_hand() -> None:
    # 3 * 0.01; 2 * 0.03; then 1 * 0.04, not below the one before it
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


def test_holm_excludes_missing_values() -> None:
    adjusted = stats.holm([0.01, math.nan, 0.04])
    assert math.isnan(adjusted[1])
    assert [adjusted[0], adjusted[2]] == pytest.approx([0.02, 0.04])


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))


def test_cluster_interval_against_a_plain_loop() -> None:
    generator = np.random.default_rng(1)
    sizes = generator.integers(1, 9, 26).astype(float)
    sums = np.array([generator.integers(-int(n), int(n) + 1) for n in sizes], dtype=float)
    low, high = stats.cluster_interval(sums, sizes)
    other = plain_random.Random(2)
    means = []
    for _ in range(20_000):
        sample = [other.randrange(26) for _ in range(26)]
        means.append(sum(sums[i] for i in sample) / sum(sizes[i] for i in sample))
    means.sort()
    assert low == pytest.approx(means[500], abs=0.015)
    assert high == pytest.approx(means[19_500], abs=0.015)
    # Near the normal interval of the ratio (Cochran 1977, 6.13): 26 clusters are not few.
    mean = sums.sum() / sizes.sum()
    error = math.sqrt(((sums - mean * sizes) ** 2).sum()) / sizes.sum()
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_cluster_interval_is_wider_where_tasks_agree() -> None:
    # 20 tasks of 5 pairs that all go the same way know as much as 20 pairs.
    sizes = np.full(20, 5.0)
    agreeing = np.array([5.0, -5.0] * 10)
    low, high = stats.cluster_interval(agreeing, sizes)
    alone = stats.cluster_interval(agreeing / 5, np.ones(20))
    assert (low, high) == alone
    assert high - low >= 0.8


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(5, 9)), min_size=2, max_size=30))
def test_cluster_interval_is_reproducible_and_mirrors(values: list[tuple[int, int]]) -> None:
    sums, sizes = (np.array(column, dtype=float) for column in zip(*values, strict=True))
    interval = stats.cluster_interval(sums, sizes)
    stats._draws.cache_clear()
    assert stats.cluster_interval(sums, sizes) == interval
    low, high = stats.cluster_interval(-sums, sizes)
    assert (-high, -low) == pytest.approx(interval, abs=2e-6)


def exact_power(pairs: int, share: float, difference: float) -> float:
    """Return the power of the exact McNemar test, by adding up all possible outcomes."""
    for_a = (1 + difference / share) / 2
    power = 0.0
    for count in range(1, pairs + 1):
        chance = binom.pmf(count, pairs, share)
        if chance < 1e-9:
            continue
        outcomes = np.arange(count + 1)
        p = np.minimum(1, 2 * binom.cdf(np.minimum(outcomes, count - outcomes), count, 0.5))
        power += chance * binom.pmf(outcomes[p <= 0.05], count, for_a).sum()
    return power


@pytest.mark.parametrize(("pairs", "discordant"), [(100, 33), (100, 12), (652, 150), (50, 25)])
def test_min_detectable_has_its_stated_power(pairs: int, discordant: int) -> None:
    difference = stats.min_detectable(pairs, discordant)
    share = discordant / pairs
    # Connor's formula gives back the number of pairs.
    z_alpha, z_beta = norm.ppf(0.975), norm.ppf(0.8)
    needed = (
        z_alpha * math.sqrt(share) + z_beta * math.sqrt(share - difference**2)
    ) ** 2 / difference**2
    assert needed == pytest.approx(pairs, rel=1e-4)
    # The exact test is more cautious, the less so the more pairs.
    assert 0.70 < exact_power(pairs, share, difference) < 0.84


def test_min_detectable_where_too_few_pairs_differ() -> None:
    one_way = stats.min_detectable(100, 0)
    assert one_way == stats.min_detectable(100, 3)
    assert exact_power(100, one_way, one_way) == pytest.approx(0.8, abs=0.1)
    assert math.isnan(stats.min_detectable(3, 2))
    assert math.isnan(stats.min_detectable(0, 0))


@pytest.mark.filterwarnings("ignore")  # of what statsmodels imports
def test_clustered_error_as_statsmodels_has_it() -> None:
    from statsmodels.regression.linear_model import OLS

    generator = np.random.default_rng(5)
    clusters = generator.integers(0, 12, 80)
    values = generator.random(80) + 0.3 * clusters
    fit = OLS(values, np.ones(80)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False}
    )
    assert stats.clustered_error(values, clusters.tolist()) == pytest.approx(fit.bse[0], abs=1e-6)


# --- the table ------------------------------------------------------------------------------


def test_constructed_hundred_pairs() -> None:
    row = compared(*constructed())
    assert [row["a"], row["b"]] == ["m-solo", "m-coop-comm"]
    assert [row[k] for k in ("both", "only_a", "only_b", "neither")] == [20, 25, 8, 47]
    assert [row["pairs"], row["tasks"], row["infra_excluded"], row["unfinished"]] == [100, 26, 0, 0]
    assert [row["pass_rate_a"], row["pass_rate_b"], row["diff"]] == [0.45, 0.28, 0.17]
    # By hand: Wilson's 0.45 (0.356145 to 0.547554) and 0.28 (0.201397 to 0.374880), and the
    # corrected correlation.
    phi = (20 * 47 - 25 * 8 - 50) / math.sqrt(45 * 55 * 28 * 72)
    below, above = (0.45 - 0.356145, 0.374880 - 0.28), (0.28 - 0.201397, 0.547554 - 0.45)
    low, high = (math.sqrt(x * x - 2 * phi * x * y + y * y) for x, y in (below, above))
    assert [row["ci_low"], row["ci_high"]] == pytest.approx([0.17 - low, 0.17 + high], abs=3e-6)
    assert [row["ci_low"], row["ci_high"]] == [0.059052, 0.27468]
    # Of 33 coins: 8 or fewer heads, twice.
    exact = 2 * sum(math.comb(33, heads) for heads in range(9)) / 2**33
    assert row["p"] == pytest.approx(exact, rel=1e-5)
    assert row["p"] == pytest.approx(0.00455138)
    assert row["p_holm"] == row["p"]
    assert row["cluster_low"] < 0.17 < row["cluster_high"]
    assert [row["diff_low_bound"], row["diff_high_bound"]] == [0.17, 0.17]


def test_a_family_is_adjusted_together() -> None:
    a, b, chosen = constructed()
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(chosen, a),
        synthetic_tables.experiment(chosen, b, setting="coop-comm"),
        synthetic_tables.experiment(chosen, b, setting="coop-nocomm"),
    )
    table = comparison.table(runs)
    names = ["m-solo", "m-coop-comm", "m-coop-nocomm"]
    assert table["a"].tolist() == [names[0], names[0], names[1]]
    assert table["b"].tolist() == [names[1], names[2], names[2]]
    p = table["p"].iloc[0]
    assert table["p"].tolist() == [p, p, 1.0]
    assert table["p_holm"].tolist() == pytest.approx([3 * p, 3 * p, 1.0], rel=1e-4)


def test_models_are_compared_within_a_setting_and_a_repeat() -> None:
    chosen = synthetic_tables.pairs("flash")[:4]
    rows = [
        synthetic_tables.experiment(chosen, ["pass"] * 4, model, setting, repeat)
        for setting in ("solo", "coop-comm")
        for repeat in (1, 2)
        for model in ("m", "n")
    ]
    table = comparison.table(synthetic_tables.joined(*rows))
    assert table["compared"].tolist() == ["settings"] * 4 + ["models"] * 4
    assert list(zip(table["a"], table["b"], strict=True))[:4] == [
        ("m-solo", "m-coop-comm"),
        ("n-solo", "n-coop-comm"),
        ("m-solo-r2", "m-coop-comm-r2"),
        ("n-solo-r2", "n-coop-comm-r2"),
    ]
    assert set(zip(table["a"][4:], table["b"][4:], strict=True)) == {
        ("m-solo", "n-solo"),
        ("m-solo-r2", "n-solo-r2"),
        ("m-coop-comm", "n-coop-comm"),
        ("m-coop-comm-r2", "n-coop-comm-r2"),
    }


def test_infra_errors_are_left_out_counted_and_bounded() -> None:
    chosen = synthetic_tables.pairs("flash")[:8]
    a = ["pass", "pass", "fail", "infra_error", "infra_error", "pass", "infra_error", "fail"]
    b = ["pass", "fail", "fail", "pass", "fail", "infra_error", "infra_error", "pass"]
    row = compared(a, b, chosen)
    assert [row["pairs"], row["infra_excluded"]] == [4, 4]
    assert row["diff"] == 0.0
    # The four: at worst -1, 0, 0, -1, at best 0, 1, 1, 1; the others add 0, of 8.
    assert [row["diff_low_bound"], row["diff_high_bound"]] == [-2 / 8, 3 / 8]


def test_unfinished_and_missing_runs_are_distinguished_from_infra_errors() -> None:
    chosen = synthetic_tables.pairs("flash")[:3]
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(chosen, ["pass", "infra_error", "pass"]),
        synthetic_tables.experiment(chosen[:2], ["fail", "unfinished"], setting="coop-comm"),
    )
    row = comparison.table(runs).iloc[0]
    assert [row["pairs"], row["infra_excluded"], row["unfinished"]] == [1, 0, 2]


def test_nothing_discordant() -> None:
    chosen = synthetic_tables.pairs("lite")
    row = compared(["pass"] * 100, ["pass"] * 100, chosen)
    assert [row["diff"], row["p"], row["p_holm"]] == [0.0, 1.0, 1.0]
    assert row["ci_low"] < 0 < row["ci_high"]
    assert [row["cluster_low"], row["cluster_high"]] == [0.0, 0.0]


def test_nothing_graded() -> None:
    chosen = synthetic_tables.pairs("lite")
    row = compared(["infra_error"] * 100, ["pass"] * 100, chosen)
    assert [row["pairs"], row["tasks"], row["infra_excluded"]] == [0, 0, 100]
    assert row[["diff", "ci_low", "cluster_low", "p", "p_holm", "min_detectable"]].isna().all()
    assert [row["diff_low_bound"], row["diff_high_bound"]] == [-1.0, 0.0]


def test_one_task_has_no_clustered_interval() -> None:
    chosen = [("a_task", 1, f"{i},{i + 1}") for i in range(1, 9)]
    row = compared(["pass"] * 8, ["fail"] * 8, chosen)
    assert row["tasks"] == 1
    assert row[["cluster_low", "cluster_high"]].isna().all()
    assert row["p"] == pytest.approx(2 / 2**8)


def test_empty_table_and_one_experiment() -> None:
    chosen = synthetic_tables.pairs("flash")[:3]
    alone = synthetic_tables.experiment(chosen, ["pass"] * 3)
    for runs in (alone, alone.iloc[:0]):
        table = comparison.table(runs)
        assert list(table.columns) == list(comparison.COLUMNS)
        assert table.empty


OUTCOMES = st.sampled_from(["pass", "fail", "infra_error"])


@settings(max_examples=20)
@given(st.lists(st.tuples(OUTCOMES, OUTCOMES), min_size=5, max_size=40))
def test_swapping_sides_mirrors_the_row(outcomes: list[tuple[str, str]]) -> None:
    chosen = synthetic_tables.pairs("lite")[: len(outcomes)]
    a, b = (list(side) for side in zip(*outcomes, strict=True))
    row, back = compared(a, b, chosen), compared(b, a, chosen)
    same = ["pairs", "both", "neither", "p", "p_holm", "min_detectable", "infra_excluded"]
    assert row[same].astype(float).tolist() == pytest.approx(
        back[same].astype(float).tolist(), nan_ok=True
    )
    for column, mirrored in (
        ("diff", "diff"),
        ("ci_low", "ci_high"),
        ("cluster_low", "cluster_high"),
        ("diff_low_bound", "diff_high_bound"),
    ):
        assert row[column] == pytest.approx(-back[mirrored], abs=2e-6, nan_ok=True)


def test_wilson() -> None:
    # Worked out by hand from Wilson's formula: k = 8, n = 10, z = 1.959964.
    assert stats.wilson(8, 10) == (0.490162, 0.943318)
    low, high = stats.wilson(0, 0)
    assert low != low
    assert high != high


def test_wilson_is_that_of_statsmodels_to_six_places() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for total in (1, 2, 3, 7, 24, 100, 652):
        for count in range(total + 1):
            low, high = proportion_confint(count, total, alpha=0.05, method="wilson")
            assert stats.wilson(count, total) == (round(max(low, 0.0), 6), round(high, 6))


def test_the_statistics_of_make_status_need_no_numpy() -> None:
    """`make status` is repeated during a run, and numpy and pandas take longer than its work."""
    program = "import sys; from cooperflow.session import progress; print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(layout.REPOSITORY / "scripts")}
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert {"docker", "numpy", "pandas", "scipy", "statsmodels"}.isdisjoint(output.split())


def test_the_spread_between_runs_is_that_of_the_public_solo_runs() -> None:
    shape = 1 / stats.WITHIN
    ratio = shape / float(gamma.median(shape))
    assert ratio == pytest.approx(published.MEAN_TO_MEDIAN, rel=0.01)


def test_the_mean_is_a_weighted_average() -> None:
    assert stats.forecast_mean(0.5, []) == 0.5
    assert stats.forecast_mean(None, []) is None
    assert stats.forecast_mean(None, [1.0, 3.0]) == 2.0
    k = stats.WITHIN / stats.BETWEEN
    assert stats.forecast_mean(0.5, [2.0]) == pytest.approx((k * 0.5 + 2.0) / (k + 1))
    means = [stats.forecast_mean(0.5, [2.0] * count) or 0.0 for count in range(40)]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(2.0, rel=0.02)


def test_a_forecast_from_free_runs_is_zero() -> None:
    forecast = stats.forecast_total(None, [0.0, 0.0], 5)
    assert forecast == stats.Range(0.0, 0.0, 0.0)
    assert stats.forecast_total(None, [], 5) is None


@pytest.mark.parametrize("count", [0, 1, 3, 10, 30])
def test_the_range_covers_most_drawn_experiments(count: int) -> None:
    """Experiments drawn from the model itself, whose spreads the forecast does not know."""
    draw = np.random.default_rng(1)
    shape, between = 1 / stats.WITHIN, 1 / stats.BETWEEN
    covered = 0
    for _ in range(300):
        mean = between / draw.gamma(between + 1)
        finished = [float(value) for value in draw.gamma(shape, mean / shape, count)]
        forecast = stats.forecast_total(1.0, finished, 50)
        assert forecast is not None
        assert forecast.low <= forecast.mid <= forecast.high
        covered += forecast.low <= float(draw.gamma(shape, mean / shape, 50).sum()) <= forecast.high
    assert covered / 300 > 0.88
