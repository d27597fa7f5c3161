"""The runs to look at first, and the summary of a run that failed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic_tables

from cooperflow.plots import specifications
from cooperflow.report import pages
from cooperflow.report.pages import Failure, Feature
from cooperflow.tables import findings
from cooperflow.upstream.result_files import Count

TALKING = frozenset({"coop-comm"})


def constructed() -> pd.DataFrame:
    """100 pairs by three settings, in which the position of each notable run is known."""
    chosen = synthetic_tables.pairs("lite")
    n = np.arange(100)
    outcome = np.where(n % 3 == 0, "pass", "fail").tolist()
    cost = np.full(100, 0.1)
    cost[40] = 2.5  # 40 % 3 == 1: a fail
    cost[42] = 9.0  # a pass that cost more
    solo = synthetic_tables.experiment(chosen, outcome, cost_usd=cost, reason="step_limit")
    comm = synthetic_tables.experiment(
        chosen,
        outcome,
        setting="coop-comm",
        messages_sent=np.where(n == 52, 30, np.where(n == 7, 0, 3)),
        merge_status=np.where(np.isin(n, (52, 53, 70)), "conflicts", "clean"),
        patch_lines=np.where(n == 53, 4, 60),
        loss=np.where(np.isin(n, (52, 53, 70)), "merge", ""),
    )
    silent = synthetic_tables.experiment(
        chosen,
        outcome,
        setting="coop-nocomm",
        merge_status="clean",
        caveat=np.where(np.isin(n, (30, 33)), "lead_alone", ""),
    )
    return synthetic_tables.joined(solo, comm, silent)


def test_each_rule_chooses_its_run() -> None:
    runs = constructed()
    notable = findings.choose_notable(runs, TALKING)
    chosen = synthetic_tables.pairs("lite")
    expected = [
        ("solo", 40, "The most expensive fail: $2.50, 10 steps, step_limit."),
        ("coop-comm", 53, "Both features work alone, but the patches conflict (1 of 3 such runs)."),
        ("coop-comm", 52,
         "30 messages, and still a merge conflict (1 of 2 conflicts after messages)."),
        ("coop-comm", 7, "No message at all, although the agents could write."),
        ("coop-nocomm", 30, "A pass with the caveat lead_alone (1 of 2 such passes)."),
    ]  # fmt: skip
    assert len(notable) == len(expected)
    for entry, (setting, number, line) in zip(notable, expected, strict=True):
        row = entry.row
        assert (row["setting"], (row["repo"], row["task_id"], row["features"])) == (
            setting,
            chosen[number],
        )
        assert entry.line == line


def test_no_run_is_chosen_twice_and_rules_without_a_run_are_left_out() -> None:
    runs = constructed()
    single = runs[(runs["setting"] == "coop-comm")].iloc[[52]]
    notable = findings.choose_notable(single, TALKING)
    assert [entry.line.split(":")[0] for entry in notable] == ["The most expensive fail"]
    assert findings.choose_notable(runs.iloc[:0], TALKING) == []
    # A setting without messages is not silent by choice.
    silent_runs = runs[runs["setting"] == "coop-nocomm"]
    assert not any(
        "No message" in entry.line for entry in findings.choose_notable(silent_runs, TALKING)
    )


def feature(number: int, *failing: str, passed: bool = False) -> Feature:
    return Feature(number, True, passed, Count(), failing, "", "")


FEATURES = (feature(2, "test_a"), feature(5, passed=True))
BASE = Failure("fail", "tests_failed", 1, "", (None, None), False, FEATURES)


@pytest.mark.parametrize(
    ("failure", "lines"),
    [
        (BASE, ("The run fails: feature 2 fails.", "First failing tests: test_a (feature 2).")),
        (replace(BASE, features=(feature(2, "a", "b", "c", "d", "e"), feature(5, "z" * 90))),
         ("The run fails: features 2 and 5 fail.",
          f"First failing tests: a, b, c and 2 more (feature 2); {'z' * 79}… (feature 5).")),
        (replace(BASE, reason="step_limit", features=(feature(2), feature(5))),
         ("The run fails: features 2 and 5 fail (step_limit).",
          "The output of the evaluation names no failing test.")),
        (replace(BASE, loss="merge", has_conflict=True, files=("store.py",), own=(True, True)),
         ("Lost in the merge: both features work alone, but the patches conflict.",
          "Conflicting file: store.py.")),
        (replace(BASE, loss="merge", has_conflict=True, files=tuple("abcd")),
         ("Lost in the merge: both features work alone, but the patches conflict.",
          "Conflicting files: a, b, c and 1 more.")),
        (replace(BASE, loss="integration", own=(True, True)),
         ("Lost in the integration: both features work alone and the patches merge cleanly, but "
          "together tests fail.", "First failing tests: test_a (feature 2).")),
        (replace(BASE, loss="agent", own=(True, False)),
         ("Lost before the merge: feature 5 fails alone.",
          "First failing tests: test_a (feature 2).")),
        (replace(BASE, loss="unknown", has_conflict=True),
         ("The patches conflict; whether both features work alone is unknown.",
          "The patches do not show which file conflicts.")),
        (replace(BASE, outcome="infra_error", reason="rate_limited", attempts=3),
         ("No result after 3 attempts: rate_limited.",
          "This is a failure of the infrastructure, not of the model; pass rates exclude it.")),
        (replace(BASE, outcome="pass"), ()),
        (replace(BASE, outcome=""), ()),
    ],
)  # fmt: skip
def test_two_lines_on_why_a_run_failed(failure: Failure, lines: tuple[str, ...]) -> None:
    assert pages.explain(failure) == lines


@pytest.mark.parametrize(
    ("limit", "form"), [(12.0, "$,.2f"), (0.11, "$,.2f"), (0.05, "$,.3f"), (0.002, "$,.4f")]
)
def test_an_axis_of_money_has_its_sign_and_enough_digits(limit: float, form: str) -> None:
    assert specifications._money(limit) == form
