"""Own features and losses: verdicts from documents, and the loss of every kind of run."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from cooperflow.analysis import losses
from cooperflow.analysis.losses import OwnFeature

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
        assert [one.passed for one in judged] == [first, second]
        assert [one.feature for one in judged] == [11, 12]
        assert [one.reason for one in judged] == [
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
    """Nothing submitted is a failed feature; an infrastructure error is no verdict."""
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
    """And one that is missing or of another shape has no verdicts."""
    own = {"agent1": OwnFeature(1, True, "", 3, 1.5, "ab"), "agent2": OwnFeature(2, None, "x")}
    document = losses.make_document({"repo": "r", "features": [1, 2]}, own)
    assert document["schema"] == 1 and document["repo"] == "r"
    assert losses.read_document(document) == (True, None)
    assert OwnFeature.parse(document["agents"]["agent1"]) == own["agent1"]
    for nothing in (None, [], {}, {"agents": None}, {"agents": {"agent1": {"passed": "yes"}}}):
        assert losses.read_document(nothing) == (None, None)
