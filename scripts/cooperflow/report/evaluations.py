"""Evaluation of a run for its page: tests per feature, output from the first failure on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cooperflow.outcomes import judgement, runner_output
from cooperflow.outcomes.records import EvalRecord, RunRecord
from cooperflow.outcomes.runner_output import Count

# Names of failing tests that a page lists; the output has all of them.
MOST_NAMES = 50
# Lines of preamble up to which it is not folded.
SHORT_PREAMBLE = 3


@dataclass(frozen=True)
class Feature:
    """The tests of one feature. tested: there is evidence of an evaluation."""

    number: int
    tested: bool
    passed: bool
    count: Count
    failing: tuple[str, ...]
    preamble: str  # the output before the first failure
    output: str  # the output from the first failure on

    @property
    def listed(self) -> tuple[str, ...]:
        return self.failing[:MOST_NAMES]

    @property
    def unlisted(self) -> int:
        return len(self.failing) - len(self.listed)

    @property
    def preamble_lines(self) -> int:
        return self.preamble.count("\n")

    @property
    def summary(self) -> str:
        """The result in a few words, tests counted by the workflow on every page."""
        if not self.tested:
            return "not tested"
        word = "passed" if self.passed else "failed"
        if not self.count.total:
            return f"{word} (no test ran)" if self.output or self.preamble else word
        unit = "tests" if self.count.unit == "tests" else "Go packages"
        if self.count.total == 1:
            unit = unit.removesuffix("s")
        return f"{word} ({self.count.passed:,} of {self.count.total:,} {unit} passed)"


def features(evaluation: Mapping[str, Any], numbers: tuple[int, ...]) -> tuple[Feature, ...]:
    """Return both features of a run; ``numbers`` are those of the data set, sorted."""
    return tuple(_feature(evaluation, key, number) for key, number in enumerate(numbers, start=1))


def _feature(evaluation: Mapping[str, Any], key: int, number: int) -> Feature:
    part = evaluation.get(f"feature{key}") or {}
    output = str(part.get("test_output") or part.get("output") or "")
    passed = bool(part.get("passed"))
    failing = () if passed else runner_output.failing_tests(output)
    start = 0 if passed else runner_output.first_failure(output)
    if output[:start].count("\n") <= SHORT_PREAMBLE:
        start = 0
    counted = bool(part.get("tests_passed") or part.get("tests_failed"))
    return Feature(
        number=number,
        tested=passed or bool(output) or counted,
        passed=passed,
        count=runner_output.count(output),
        failing=failing,
        preamble=output[:start],
        output=output[start:],
    )


def was_evaluated(result: Mapping[str, Any], evaluation: Mapping[str, Any]) -> bool:
    """Return whether the run's patches were evaluated, or an attempt at it failed.

    A run that ended before its evaluation (a timeout, an infrastructure error) has an eval.json
    with its outcome only.
    """
    if EvalRecord.read(evaluation).reason == judgement.EVAL_ERROR:
        return True
    return bool(evaluation) and (RunRecord.read(result) or RunRecord()).outcome is None
