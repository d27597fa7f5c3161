"""Own features and losses: verdicts from documents, and the loss of every kind of run."""

from __future__ import annotations

import hashlib
import itertools
import math

import pandas as pd
import pytest
import synthetic_tables

from cooperflow.analysis import losses
from cooperflow.analysis.losses import OwnFeature
from cooperflow.layout import Pair
from cooperflow.plots import specifications, vega
from cooperflow.tables import breakdowns, oracle, run_table
from cooperflow.tables.oracle import Probe

PATCH = b"diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-1\n+2\n"
TEST_ONLY = b"diff --git a/tests/test_a.py b/tests/test_a.py\n@@ -1 +1 @@\n-1\n+2\n"


def solo(first: bool, second: bool, **more: object) -> dict[str, object]:
    """Return a document of upstream's evaluation of one patch."""
    outputs = {True: "3 passed in 0.1s", False: "1 failed, 2 passed in 0.1s"}
    return {
        "feature1": {"passed": first, "test_output": outputs[first]},
        "feature2": {"passed": second, "test_output": outputs[second]},
        "both_passed": first and second,
        "error": None,
        **more,
    }


def test_the_own_feature_decides_not_the_other() -> None:
    """Agent 2's patch is judged by feature 2, whatever it does to feature 1."""
    for first, second in itertools.product((True, False), repeat=2):
        document = solo(first, second)
        judged = [losses.judge_tested(10 + n, n, PATCH, document, 1.23456) for n in (1, 2)]
        assert [verdict.passed for verdict in judged] == [first, second]
        assert [verdict.feature for verdict in judged] == [11, 12]
        assert [verdict.reason for verdict in judged] == [
            "" if passed else "tests_failed" for passed in (first, second)
        ]
        assert judged[0].tests_passed == (3 if first else 2)
        assert judged[0].seconds == 1.235
        assert judged[0].patch_sha256 == hashlib.sha256(PATCH).hexdigest()


def test_a_refused_patch_and_a_broken_evaluation() -> None:
    """A patch that git refuses fails; an evaluation that broke decides nothing."""
    refused = solo(False, False)
    refused["feature1"] = {"passed": False, "test_output": "error: a.py: patch does not apply\n"}
    assert losses.judge_tested(1, 1, PATCH, refused, 1).reason == "patch_not_applied"
    for document in (None, solo(False, False, error="no image")):
        broken = losses.judge_tested(1, 1, PATCH, document, 1)
        assert (broken.passed, broken.broke) == (None, True)


def test_verdicts_that_need_no_test() -> None:
    """An empty submission is a failed feature; an infrastructure error is not a verdict."""
    assert losses.judge_untested(1, PATCH, "") is None
    cases = ((None, "no_patch"), (b"", "empty_patch"), (b"\n", "empty_patch"))
    for patch, reason in (*cases, (TEST_ONLY, "empty_patch")):
        judged = losses.judge_untested(1, patch, "")
        assert judged is not None and (judged.passed, judged.reason) == (False, reason)
    broken = losses.judge_untested(1, PATCH, "rate_limited")
    assert broken == OwnFeature(1, None, "rate_limited")


@pytest.mark.parametrize(
    ("outcome", "own", "merge_status", "expected"),
    [
        ("pass", (True, True), "clean", ""),
        ("pass", (False, True), "clean", ""),  # works only with the other's patch
        ("pass", (None, None), "conflicts", ""),
        ("unfinished", (None, None), "", ""),
        ("fail", (True, True), "conflicts", "merge"),
        ("fail", (True, True), "clean", "integration"),
        ("fail", (True, True), "identical", "integration"),
        ("fail", (True, True), "missing_input", "unknown"),
        ("fail", (True, True), "", "unknown"),
        ("fail", (False, True), "conflicts", "agent"),
        ("fail", (True, False), "clean", "agent"),
        ("fail", (False, None), "clean", "agent"),
        ("fail", (None, True), "conflicts", "unknown"),
        ("fail", (None, None), "clean", "unknown"),
        ("infra_error", (True, True), "clean", "unknown"),
        ("infra_error", (False, False), "", "unknown"),
    ],
)
def test_loss(
    outcome: str, own: tuple[bool | None, bool | None], merge_status: str, expected: str
) -> None:
    assert losses.loss(outcome, own, merge_status) == expected
    assert expected in ("", *losses.LOSSES)


def test_the_document_is_read_as_it_was_written() -> None:
    """A missing document, or one with another form, has no verdicts."""
    own = {"agent1": OwnFeature(1, True, "", 3, 1.5, "ab"), "agent2": OwnFeature(2, None, "x")}
    document = losses.make_document({"repo": "r", "features": [1, 2]}, own)
    assert document["schema"] == 1 and document["repo"] == "r"
    assert losses.read_document(document) == (True, None)
    assert OwnFeature.parse(document["agents"]["agent1"]) == own["agent1"]
    for nothing in (None, [], {}, {"agents": None}, {"agents": {"agent1": {"passed": "yes"}}}):
        assert losses.read_document(nothing) == (None, None)


# Six pairs of three tasks: the outcome, own features, merge and overlap of each run with and
# without messages.
PAIRS = [("a_task", 1, (1, 2)), ("a_task", 1, (1, 3)), ("b_task", 1, (1, 2))]
PAIRS += [("b_task", 1, (1, 3)), ("c_task", 1, (1, 2)), ("c_task", 1, (1, 3))]
Known = tuple[str, bool | None, bool | None, str, str, int | None]
COMM: list[Known] = [
    ("pass", True, True, "", "clean", 0),
    ("pass", False, True, "", "clean", 0),
    ("fail", True, True, "integration", "clean", 0),
    ("fail", True, False, "agent", "conflicts", 2),
    ("fail", True, True, "merge", "conflicts", 1),
    ("infra_error", None, None, "unknown", "", None),
]
NOCOMM: list[Known] = [
    ("fail", True, True, "merge", "conflicts", 1),
    ("fail", True, True, "merge", "conflicts", 1),
    ("fail", True, True, "merge", "conflicts", 0),
    ("pass", True, True, "", "clean", 0),
    ("fail", None, True, "unknown", "conflicts", None),
    ("pass", True, True, "", "clean", 0),
]


def runs() -> pd.DataFrame:
    solo = synthetic_tables.experiment(PAIRS, ["pass"] * 6, "m", "solo")
    parts = [solo]
    for setting, rows in (("coop-comm", COMM), ("coop-nocomm", NOCOMM)):
        outcomes, first, second, kinds, merges, overlaps = map(list, zip(*rows, strict=True))
        part = synthetic_tables.experiment(PAIRS, outcomes, "m", setting, merge_status=merges)
        part["own1_passed"] = pd.Series(first, dtype=object)
        part["own2_passed"] = pd.Series(second, dtype=object)
        part["loss"] = kinds
        for column in ("hunks_overlapping", "hunks_near", "files_both"):
            part[column] = overlaps
        for column in ("changed1_lines", "changed2_lines"):
            part[column] = [None if n is None else 10 for n in overlaps]
        parts.append(part)
    return synthetic_tables.joined(*parts)


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's interval from its formula, independently of the package's."""
    z, p = 1.959963984540054, count / total
    center = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(center - half, 0.0), center + half


def test_loss_table() -> None:
    table = breakdowns.loss_table(runs()).set_index(["setting", "loss"])
    counts = {"passed": 2, "agent": 1, "merge": 1, "integration": 1, "unknown": 0}
    for loss, count in counts.items():
        row = table.loc[("coop-comm", loss)]
        assert (row["runs"], row["graded"], row["failed"], row["infra_error"]) == (count, 5, 3, 1)
        assert row["share"] == pytest.approx(count / 5)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson(count, 5), abs=1e-6)
        if loss == "passed":
            assert math.isnan(row["share_of_failed"]) and math.isnan(row["failed_low"])
        else:
            assert row["share_of_failed"] == pytest.approx(count / 3, abs=1e-6)
            expected = pytest.approx(wilson(count, 3), abs=1e-6)
            assert (row["failed_low"], row["failed_high"]) == expected
    without = {"passed": 2, "agent": 0, "merge": 3, "integration": 0, "unknown": 1}
    assert table.loc["coop-nocomm"]["runs"].to_dict() == without
    assert set(table.index.get_level_values("setting")) == {"coop-comm", "coop-nocomm"}
    assert breakdowns.loss_table(synthetic_tables.experiment([], [])).empty


def test_the_clustered_interval_is_that_of_complete_tasks() -> None:
    """Every draw of three tasks with replacement, weighed by its probability."""
    table = breakdowns.loss_table(runs()).set_index(["setting", "loss"])
    row = table.loc[("coop-nocomm", "merge")]
    sums, sizes = (2, 1, 0), (2, 2, 2)
    means = sorted(
        sum(sums[i] for i in draw) / sum(sizes[i] for i in draw)
        for draw in itertools.product(range(3), repeat=3)
    )
    assert (means[0], means[-1]) == (row["cluster_low"], row["cluster_high"]) == (0.0, 1.0)


def test_own_features_table() -> None:
    table = breakdowns.own_table(runs()).set_index("setting")
    row = table.loc["coop-comm"]
    assert (row["graded"], row["known"], row["both_passed"], row["both_rate"]) == (5, 5, 3, 0.6)
    assert (row["agents"], row["agents_passed"], row["agent_rate"]) == (10, 8, 0.8)
    assert row["passes_needing_both"] == 1
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson(3, 5), abs=1e-6)
    assert (row["agent_low"], row["agent_high"]) == pytest.approx(wilson(8, 10), abs=1e-6)
    row = table.loc["coop-nocomm"]
    assert (row["graded"], row["known"], row["both_passed"]) == (6, 5, 5)


def test_conflict_tables() -> None:
    table = breakdowns.conflict_table(runs()).set_index("setting")
    row = table.loc["coop-comm"]
    assert (row["merged"], row["conflicts"], row["conflict_rate"]) == (5, 2, 0.4)
    assert (row["overlap_known"], row["overlapping"], row["near"]) == (5, 2, 2)
    assert (row["conflicts_overlapping"], row["conflicts_apart"]) == (2, 0)
    assert (row["files_both_mean"], row["changed_lines_mean"]) == (0.6, 20.0)
    row = table.loc["coop-nocomm"]
    assert (row["merged"], row["conflicts"], row["overlap_known"]) == (6, 4, 5)
    assert (row["conflicts_overlapping"], row["conflicts_apart"]) == (2, 1)

    (row,) = breakdowns.conflict_comparison(runs()).to_dict("records")
    assert (row["a"], row["b"]) == ("m-coop-comm", "m-coop-nocomm")
    cells = ("both_conflict", "only_a_conflicts", "only_b_conflicts", "neither_conflicts")
    assert [row[cell] for cell in cells] == [1, 1, 3, 0]
    assert (row["pairs"], row["excluded"], row["unfinished"]) == (5, 1, 0)
    assert (row["conflict_rate_a"], row["conflict_rate_b"]) == (0.4, 0.8)
    assert row["diff"] == pytest.approx(-0.4)
    # Exact McNemar: 2 (C(4,0) + C(4,1)) / 2^4.
    assert row["p"] == pytest.approx(2 * 5 / 16)
    # Manski: of the excluded pair only b is known, no conflict; a adds 0 or 1 of 6.
    assert row["diff_low_bound"] == pytest.approx(-2 / 6, abs=1e-6)
    assert row["diff_high_bound"] == pytest.approx(-1 / 6, abs=1e-6)


def test_the_flow_adds_up() -> None:
    """Runs that remain after a stage and runs lost until then add up to all graded runs."""
    frame = runs()
    summary, small = run_table.summary_table(frame), breakdowns.tables(frame)
    tables = specifications.Tables(frame, summary, pd.DataFrame(), small)
    panels = vega.views(specifications.loss_flow(tables))
    titles = [panel["title"] for panel in panels]
    assert titles == ["m-coop-comm (n=5)", "m-coop-nocomm (n=6)"]
    bars = [panel["data"]["values"] for panel in panels]
    word = specifications.LOSS_WORDS[breakdowns.PASSED]
    passed = [[part["count"] for part in parts if part["kind"] == word] for parts in bars]
    # 5 runs: one agent loss, one conflict, one integration; 6: one unknown, three conflicts.
    assert passed == [[5, 4, 3, 2], [6, 5, 2, 2]]
    for parts, graded in zip(bars, (5, 6), strict=True):
        for stage in specifications.STAGES:
            inside = [part for part in parts if part["name"] == stage]
            assert sum(part["count"] for part in inside) == graded
            assert inside[-1]["end"] == pytest.approx(1.0)


def test_the_oracle_has_the_same_columns() -> None:
    """The gold patches' own features and loss; documents of earlier versions have neither."""
    pair = Pair("a_task", 1, (4, 2))

    def probe(passed: tuple[bool, bool], merge: str = "") -> dict[str, object]:
        return Probe(passed, (1, 1), merge, "naive", True, 1.0).as_dict()

    plain = {
        "solo": probe((True, True)),
        "coop": probe((False, False), "conflicts"),
        "control": probe((False, False)),
    }

    def row(**more: dict[str, object]) -> tuple[object, ...]:
        documents = [{"repeat": 1, "probes": {**plain, **more}}]
        columns = oracle.add_loss(oracle.row(pair, documents), documents)
        return columns["own1_passed"], columns["own2_passed"], columns["loss"]

    own = {"own1": probe((True, False)), "own2": probe((False, True))}
    assert row(**own) == (True, True, "merge")
    assert row(**{**own, "own2": probe((True, False))}) == (True, False, "agent")
    assert row(**own, coop=probe((True, False), "clean")) == (True, True, "integration")
    assert row(**own, coop=probe((True, True), "clean")) == (True, True, "")
    broken = Probe.without_verdict("no image").as_dict()
    assert row(**{**own, "own1": broken}) == (None, True, "unknown")
    assert row(**own, coop=broken) == (True, True, "unknown")
    assert row() == (None, None, "unknown")
    assert oracle.add_loss(oracle.row(pair, []), [])["loss"] == ""
