"""Evaluation of a run for its page: tests per feature, output from the first failure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cooperflow.analysis import losses
from cooperflow.outcomes import judgement, runner_output
from cooperflow.outcomes.records import EvalRecord, RunRecord
from cooperflow.outcomes.runner_output import Count
from cooperflow.upstream import result_files

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
    output = result_files.output_of(evaluation, key)
    passed = result_files.has_passed(evaluation, key)
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
    """Return whether the run's patches were evaluated, even if the evaluation failed.

    A run that ended before its evaluation (a timeout, an infrastructure error) has an eval.json
    with its outcome only.
    """
    if EvalRecord.read(evaluation).reason == judgement.EVAL_ERROR:
        return True
    return bool(evaluation) and (RunRecord.read(result) or RunRecord()).outcome is None


# Names of a summary: conflicting files and failing tests.
FEW_NAMES = 3
LONGEST = 80
_LOSSES = {
    losses.MERGE: "Lost in the merge: both features work alone, but the patches conflict.",
    losses.INTEGRATION: "Lost in the integration: both features work alone and the patches merge "
    "cleanly, but together tests fail.",
}


@dataclass(frozen=True)
class Failure:
    """The facts about a run that is not a pass."""

    outcome: str
    reason: str
    attempts: int
    loss: str  # empty for a solo run
    own: tuple[bool | None, bool | None]
    has_conflict: bool
    features: tuple[Feature, ...]
    files: tuple[str, ...] = ()  # with overlapping hunks of both patches


def explain(failure: Failure) -> tuple[str, ...]:
    """Return two lines on why a run is not a pass; none for a pass or an unfinished run."""
    if failure.outcome == judgement.INFRA_ERROR:
        tries = f"{failure.attempts} attempt{'' if failure.attempts == 1 else 's'}"
        return (
            f"No result after {tries}: {failure.reason or 'an infrastructure error'}.",
            "This is a failure of the infrastructure, not of the model; it is in no pass rate.",
        )
    if failure.outcome != judgement.FAIL:
        return ()
    return _headline(failure), _detail(failure)


def _headline(failure: Failure) -> str:
    if failure.loss in _LOSSES:
        return _LOSSES[failure.loss]
    if failure.loss == losses.AGENT:
        alone = [
            feature.number
            for feature, passed in zip(failure.features, failure.own, strict=False)
            if passed is False
        ]
        return f"Lost before the merge: {_feature_names(alone)} alone."
    if failure.has_conflict:
        return "The patches conflict; whether both features work alone is unknown."
    failed = [feature.number for feature in failure.features if not feature.passed]
    why = f" ({failure.reason})" if failure.reason not in ("", judgement.TESTS_FAILED) else ""
    return f"The run fails: {_feature_names(failed)}{why}."


def _feature_names(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"feature {numbers[0]} fails"
    return f"features {' and '.join(map(str, numbers))} fail" if numbers else "no feature passes"


def _detail(failure: Failure) -> str:
    """Return the conflicting files, else the first failing tests."""
    if failure.has_conflict:
        if not failure.files:
            return "The patches do not show in which file."
        word = "file" if len(failure.files) == 1 else "files"
        return f"Conflicting {word}: {_names(failure.files)}."
    named = [(feature, feature.failing) for feature in failure.features if feature.failing]
    if not named:
        return "The output of the evaluation names no failing test."
    parts = [f"{_names(names)} (feature {feature.number})" for feature, names in named]
    return f"First failing tests: {'; '.join(parts)}."


def _names(names: Sequence[str]) -> str:
    shown = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    rest = len(shown) - FEW_NAMES
    return ", ".join(shown[:FEW_NAMES]) + (f" and {rest} more" if rest > 0 else "")
