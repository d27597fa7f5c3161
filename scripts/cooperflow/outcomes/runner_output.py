"""The output of a test runner: how many tests ran, which failed, where the first failure is.

Knows the runners of the data set: pytest, jest and vitest, go test, cargo test. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

# Lines with the totals of runners.
_JEST_TOTAL = re.compile(r"^[ \t]*Tests:?[ \t]+(.*\b(?:passed|failed)\b.*)$", re.MULTILINE)
_CARGO_TOTAL = re.compile(r"test result:.*?(\d+) passed.*?(\d+) failed")
_PYTEST_TOTAL = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+ ?s\b.*$", re.MULTILINE)
_GO_TEST = re.compile(r"--- (PASS|FAIL):")
_GO_PACKAGE = re.compile(r"^(ok|FAIL)[ \t]+(\S+)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Count:
    """Tests that passed and failed. unit: packages where the output of Go names no tests."""

    passed: int = 0
    failed: int = 0
    unit: str = "tests"

    @property
    def total(self) -> int:
        return self.passed + self.failed


def count(output: str) -> Count:
    """Return how many tests passed and failed by a runner's output.

    A Go package without a test to run counts as none, unlike in upstream's count.
    """
    output = _ANSI.sub("", output)
    for totals in (_JEST_TOTAL.findall(output), _PYTEST_TOTAL.findall(output)):
        if totals:
            return Count(
                sum(_number(total, "passed") for total in totals),
                sum(_number(total, "failed") + _number(total, "errors?") for total in totals),
            )
    cargo = _CARGO_TOTAL.findall(output)
    if cargo:
        return Count(sum(int(p) for p, _ in cargo), sum(int(f) for _, f in cargo))
    tests = _GO_TEST.findall(output)
    if tests:
        return Count(tests.count("PASS"), tests.count("FAIL"))
    packages = [
        word for word, _, rest in _GO_PACKAGE.findall(output) if "no tests to run" not in rest
    ]
    if packages:
        return Count(packages.count("ok"), packages.count("FAIL"), "packages")
    return Count(_number(output, "passed"), _number(output, "failed") + _number(output, "errors?"))


def _number(text: str, word: str) -> int:
    return sum(int(number) for number in re.findall(rf"\b(\d+) {word}\b", text))


_PROGRESS = re.compile(r"[ \t]+\[ *\d+%\][ \t]*$", re.MULTILINE)
_FAILED_PYTEST = (
    # The short summary; the line of a test with -v; the same with pytest-xdist.
    re.compile(r"^(?:FAILED|ERROR) (\S+\.py(?:::.+?)?)(?: - .*)?$", re.MULTILINE),
    re.compile(r"^(\S+\.py::.+?) (?:FAILED|ERROR)$", re.MULTILINE),
    re.compile(r"^\[gw\d+\].* (?:FAILED|ERROR) (\S+\.py::.+?)[ \t]*$", re.MULTILINE),
)
_FAILED_ELSEWHERE = (
    # go test: tests and subtests; packages that were not built
    re.compile(r"^[ \t]*--- FAIL: (\S+)", re.MULTILINE),
    re.compile(r"^FAIL[ \t]+(\S+ \[(?:build|setup) failed\])", re.MULTILINE),
    # cargo test
    re.compile(r"^test (.+?) \.\.\. FAILED\b", re.MULTILINE),
    # jest; vitest
    re.compile(r"^[ \t]*● (?!Console$)(.+?)[ \t]*$", re.MULTILINE),
    re.compile(r"^[ \t]*FAIL[ \t]+(\S+ > .+?)[ \t]*$", re.MULTILINE),
)


def failing_tests(output: str) -> tuple[str, ...]:
    """Return the names of the tests that failed, each once, in the order of the output."""
    output = _PROGRESS.sub("", _ANSI.sub("", output))
    for patterns in (_FAILED_PYTEST, _FAILED_ELSEWHERE):
        matches = [(match.start(), match[1]) for p in patterns for match in p.finditer(output)]
        if matches:
            return tuple(dict.fromkeys(name for _, name in sorted(matches)))
    return ()


_FIRST_FAILURE = re.compile(
    r"^(?:=+ (?:FAILURES|ERRORS) =+"  # pytest
    r"|[ \t]*--- FAIL: |panic: |# \S+(?: \[\S+\])?$|\S+\.go:\d+:\d+: "  # go
    r"|failures:$|error(?:\[E\d+\])?: (?!patch failed)|---- .+ stdout ----$"  # cargo; git
    r"|[ \t]*● |⎯+ ?Failed |[ \t]*FAIL[ \t]+\S"  # jest, vitest
    r"|E  +\S|Traceback \(most recent call last\):|ERROR: "
    r"|error: patch failed: |error: .*: patch does not apply)",
    re.MULTILINE,
)


def first_failure(output: str) -> int:
    """Return the offset of the first failure's line; 0 if no failure is recognized."""
    match = _FIRST_FAILURE.search(output)
    return match.start() if match else 0


_BUILD_FAILED = re.compile(
    r"\[(?:build|setup) failed\]|^error: could not compile |^error\[E\d+\]: |: error TS\d+: "
    r"|^npm (?:ERR!|error)|^ERROR: (?:Failed building|Could not (?:find a version|build|install))"
    r"|subprocess-exited-with-error",
    re.MULTILINE,
)


def build_failed(output: str) -> bool:
    """Return whether the tests could not run because the code or its dependencies did not build."""
    return bool(_BUILD_FAILED.search(_ANSI.sub("", output)))
