"""The small tables and repeats."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest
import synthetic_tables

from cooperflow import layout
from cooperflow.experiment import pairs
from cooperflow.tables import breakdowns, comparison, paper_tables, run_table
from cooperflow.upstream import published

PAIRS = [("a_task", 1, "1,2"), ("a_task", 1, "1,3"), ("b_task", 2, "1,2"), ("b_task", 2, "2,3")]
EMPTY = synthetic_tables.experiment(PAIRS, ["pass"] * 4).iloc[:0]


def small(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return breakdowns.tables(runs)


def test_names_are_those_of_the_files() -> None:
    assert tuple(small(EMPTY)) == layout.BREAKDOWNS


def test_every_column_is_documented() -> None:
    manual = (layout.REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    tables = [run_table.runs_table([]), run_table.summary_table(EMPTY), comparison.table(EMPTY)]
    for table in [*tables, *small(synthetic_tables.random(1)).values()]:
        for column in table.columns:
            assert re.search(rf"\b{column}\b", manual), column


def test_every_published_repo_has_a_language() -> None:
    repos = {repo for repo, _ in pairs.known_features()}
    assert repos == set(published.LANGUAGES)
    assert len(set(published.LANGUAGES.values())) == 4
    assert published.language_of("mine_task") == "unknown"
    assert published.language_of("mine_task", {"mine_task": "Zig"}) == "Zig"


def test_rates_count_and_leave_infra_errors_out() -> None:
    runs = synthetic_tables.experiment(PAIRS, ["pass", "infra_error", "fail", "pass"])
    table = small(runs)["by_repo"]
    assert table[["repo", "runs", "pass", "fail", "infra_error"]].to_numpy().tolist() == [
        ["a_task", 2, 1, 0, 1],
        ["b_task", 2, 1, 1, 0],
    ]
    assert table["pass_rate"].tolist() == [1.0, 0.5]
    lost = small(synthetic_tables.experiment(PAIRS, ["infra_error"] * 4))["by_task"]
    assert lost[["pass_rate", "ci_low", "ci_high"]].isna().all(axis=None)


def test_sums_agree_with_the_summary() -> None:
    runs = synthetic_tables.random(2)
    summary = run_table.summary_table(runs).set_index("run_name")
    for name, table in small(runs).items():
        if name.startswith("by_") and name not in ("by_difficulty", "by_reason"):
            sums = table.groupby("run_name")[["pass", "fail", "infra_error"]].sum()
            assert sums.equals(summary.loc[sums.index, ["pass", "fail", "infra_error"]]), name
    costs = small(runs)["cost"].set_index("run_name")
    assert costs["cost_usd"].to_numpy() == pytest.approx(summary["cost_usd"].to_numpy())
    assert (costs["work_s"] + costs["waited_s"]).to_numpy() == pytest.approx(
        costs["duration_s"].to_numpy()
    )


def test_bins() -> None:
    values = pd.Series([0, 1, 5, 6, 10, 11, 50, 51, 999])
    assert breakdowns.bin_values(values, breakdowns.MESSAGE_EDGES).tolist() == [
        "0", "1-5", "1-5", "6-10", "6-10", "11-20", "21-50", "51+", "51+",
    ]  # fmt: skip


def test_by_solo_outcome() -> None:
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(PAIRS, ["pass", "pass", "fail", "infra_error"]),
        synthetic_tables.experiment(PAIRS, ["pass", "fail", "pass", "pass"], setting="coop-comm"),
    )
    table = small(runs)["by_solo_outcome"].set_index("solo_outcome")
    assert table["pass"].to_dict() == {"fail": 1, "infra_error": 1, "pass": 1}
    assert table.loc["pass", "pass_rate"] == 0.5


def test_difficulty_and_areas_by_hand() -> None:
    # Task a: solo 1 of 2, so 0.5 and bucket 5; task b: 2 of 2, so 0 and bucket 0.
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(PAIRS, ["pass", "fail", "pass", "pass"]),
        synthetic_tables.experiment(PAIRS, ["fail", "fail", "pass", "fail"], setting="coop-comm"),
    )
    curves = paper_tables.buckets(runs)
    task = curves[curves["scale"] == "task"]
    assert task[["setting", "bucket", "graded", "pass"]].to_numpy().tolist() == [
        ["solo", 0, 2, 2],
        ["solo", 5, 2, 1],
        ["coop-comm", 0, 2, 1],
        ["coop-comm", 5, 2, 0],
    ]
    gap = paper_tables.gaps(curves).set_index("scale").loc["task"]
    # Middles at 0.05 and 0.55: solo 0.05 * 1 + 0.5 * 0.75 + 0.45 * 0.5; coop half a step lower.
    assert gap["auc_solo"] == pytest.approx(0.65)
    assert gap["auc"] == pytest.approx(0.05 * 0.5 + 0.5 * 0.25)
    assert gap["gap"] == pytest.approx(0.5)
    assert gap["retention"] == pytest.approx(0.15 / 0.65, abs=1e-6)
    # By pair, with one model: what solo passed, and what it did not.
    assert curves.loc[curves["scale"] == "pair", "bucket"].tolist() == [0, 9, 0, 9]


def test_difficulty_is_the_mean_over_models() -> None:
    runs = synthetic_tables.joined(
        *(
            synthetic_tables.experiment(PAIRS, [outcome] * 4, f"m{number}")
            for number, outcome in enumerate(["pass", "fail", "fail", "fail", "infra_error"])
        )
    )
    assert paper_tables.scores(runs, "pair").tolist() == [0.75] * 4
    # 1 - 0.7 is a little less than 0.3 in a computer; it is of the bucket from 0.3 on.
    ten = synthetic_tables.joined(
        *(
            synthetic_tables.experiment(PAIRS, ["pass" if n < 7 else "fail"] * 4, f"m{n}")
            for n in range(10)
        )
    )
    assert set(paper_tables.buckets(ten)["bucket"]) == {3}


def test_without_solo_there_is_no_difficulty() -> None:
    tables = small(synthetic_tables.experiment(PAIRS, ["pass"] * 4, setting="coop-comm"))
    for name in ("by_solo_outcome", "by_difficulty", "coordination_gap"):
        assert tables[name].empty


def test_repeats_by_hand() -> None:
    # Shares of passes: 1, 1/2, 0, 1/2 over tasks a, a, b, b.
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(PAIRS, ["pass", "pass", "fail", "fail"]),
        synthetic_tables.experiment(PAIRS, ["pass", "fail", "fail", "pass"], repeat=2),
    )
    row = breakdowns.repeats(runs).iloc[0]
    assert [row["repeats"], row["pairs"], row["graded"]] == [2, 4, 8]
    assert row["pass_at_1"] == 0.5
    # Deviations 0.5, 0, -0.5, 0: task sums 0.5 and -0.5.
    assert row["se"] == pytest.approx(math.sqrt(0.5) / 4, abs=1e-6)
    assert row["se_pairs"] == pytest.approx(math.sqrt(0.5) / 4, abs=1e-6)
    # Two pairs that changed: variance of a run 1/2 each, of the pair's share 1/4.
    assert row["se_repeats"] == pytest.approx(math.sqrt(2 * 0.25) / 4, abs=1e-6)
    assert [row["always_pass"], row["always_fail"], row["changed"]] == [1, 1, 2]
    assert [row["repeated_pairs"], row["changed_share"], row["disagreement"]] == [4, 0.5, 0.5]


def test_repeats_with_an_infra_error_use_the_evaluated_runs() -> None:
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(PAIRS, ["pass", "pass", "fail", "infra_error"]),
        synthetic_tables.experiment(
            PAIRS, ["infra_error", "fail", "fail", "infra_error"], repeat=2
        ),
    )
    row = breakdowns.repeats(runs).iloc[0]
    assert [row["pairs"], row["graded"], row["repeated_pairs"], row["changed"]] == [3, 5, 2, 1]
    assert row["pass_at_1"] == pytest.approx(0.5)


# --- the config key ---------------------------------------------------------------------------
