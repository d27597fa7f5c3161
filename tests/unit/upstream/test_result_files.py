"""Output of the test runners: counts, the names of failing tests, the first failure."""

from __future__ import annotations

import pytest
from runner_outputs import (
    CARGO,
    COLLECTION,
    GO,
    GO_BUILD,
    GO_VERBOSE,
    JEST,
    NOT_APPLIED,
    PYTEST,
    VITEST,
    XDIST,
)

from cooperflow.upstream import result_files
from cooperflow.upstream.result_files import Count


@pytest.mark.parametrize(
    ("output", "count", "failing", "first"),
    [
        (
            PYTEST,
            Count(1, 2),
            ("tests/test_a.py::test_two[a b]", "tests/test_b.py::test_three"),
            9,
        ),
        (COLLECTION, Count(0, 1), ("tests/test_a.py",), 0),
        (XDIST, Count(1, 1), ("tests/test_a.py::test_two",), None),
        (JEST, Count(15, 1), ("form \u203a submits once",), 0),
        (VITEST, Count(8, 1), ("src/form.test.ts > form > submits once",), 1),
        (GO, Count(1, 0, "packages"), (), None),
        (GO_VERBOSE, Count(1, 2), ("TestB", "TestB/empty"), 5),
        (GO_BUILD, Count(1, 1, "packages"), ("github.com/go-chi/chi/v5 [build failed]",), 1),
        (CARGO, Count(2, 1), ("eval::two",), 5),
        (NOT_APPLIED, Count(), (), 1),
        ("bash: command not found", Count(), (), None),
    ],
)
def test_output(output: str, count: Count, failing: tuple[str, ...], first: int | None) -> None:
    assert result_files.count_tests(output) == count
    assert result_files.failing_tests(output) == failing
    line = output[: result_files.first_failure(output)].count("\n")
    assert line == (first or 0)


def test_colours_change_nothing() -> None:
    coloured = PYTEST.replace("1 failed", "\x1b[31m\x1b[1m1 failed\x1b[0m").replace(
        "FAILED tests", "\x1b[31mFAILED\x1b[0m tests"
    )
    assert result_files.count_tests(coloured) == Count(1, 2)
    assert result_files.failing_tests(coloured) == result_files.failing_tests(PYTEST)


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        (GO_BUILD, True),
        ("error: could not compile `typst` (lib) due to 2 previous errors", True),
        ("ERROR: Could not find a version that satisfies the requirement x", True),
        (GO_VERBOSE, False),
        (PYTEST, False),
        (CARGO, False),
    ],
)
def test_a_failed_build_is_no_failed_test(output: str, failed: bool) -> None:
    assert result_files.build_failed(output) is failed
