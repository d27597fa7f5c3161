"""Files that cooperbench writes for a run: their names, their readers, and the test output in them.

The output is that of the data set's runners: pytest, jest and vitest, go test, cargo test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cooperflow.upstream.trajectory import Tokens

RESULT = "result.json"
EVAL = "eval.json"
# Upstream's tables of all runs of one invocation.
TABLES = ("config.json", "summary.json")

# Statuses of a merge that was tried.
CLEAN = "clean"
CONFLICTS = "conflicts"
IDENTICAL = "identical"
MERGED = (CLEAN, CONFLICTS, IDENTICAL)

# Statuses of an agent.
ERROR = "Error"
LIMITS_EXCEEDED = "LimitsExceeded"  # of steps or of cost
COST_EXCEEDED = "CostLimitExceeded"

# Anthropic's usage: input_tokens without what was read from or written to the cache.
INPUT_WITHOUT_CACHE = frozenset({"claude_code"})

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

# Lines with the totals of runners.
_JEST_TOTAL = re.compile(r"^[ \t]*Tests:?[ \t]+(.*\b(?:passed|failed)\b.*)$", re.MULTILINE)
_CARGO_TOTAL = re.compile(r"test result:.*?(\d+) passed.*?(\d+) failed")
_PYTEST_TOTAL = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+ ?s\b.*$", re.MULTILINE)
_GO_TEST = re.compile(r"--- (PASS|FAIL):")
_GO_PACKAGE = re.compile(r"^(ok|FAIL)[ \t]+(\S+)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class AgentEnd:
    """How one agent ended."""

    agent: str
    status: str
    error: str = ""
    steps: int = 0
    cost: float = 0.0


def patch_name(feature: int) -> str:
    """Return upstream's name of the patch of the agent with this feature, in a coop run."""
    return f"agent{feature}.patch"


def workflow(document: Any) -> Mapping[str, Any]:
    """Return the object `workflow`, which this project adds; empty where there is none."""
    part = document.get("workflow") if isinstance(document, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def agent_entries(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return result.json's entry of each agent by name."""
    return document.get("agents") or {"solo": document.get("agent") or {}}


def agent_ends(document: Mapping[str, Any] | None) -> tuple[AgentEnd, ...]:
    """Return how each agent ended, by result.json."""
    if document is None:
        return ()
    return tuple(
        AgentEnd(
            agent=name,
            status=str(entry.get("status") or ERROR),
            error=str(entry.get("error") or ""),
            steps=int(entry.get("steps") or 0),
            cost=float(entry.get("cost") or 0.0),
        )
        for name, entry in agent_entries(document).items()
    )


def tokens(document: Mapping[str, Any]) -> Tokens:
    """Return the tokens of all agents; cached tokens are part of the input."""
    total = {"input": 0, "output": 0, "read": 0, "written": 0}
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    for entry in agent_entries(document).values():
        for key, name in zip(total, names, strict=True):
            total[key] += int(entry.get(name) or 0)
    is_separate = document.get("agent_framework") in INPUT_WITHOUT_CACHE
    if is_separate or total["read"] > total["input"]:
        total["input"] += total["read"] + total["written"]
    return Tokens(total["input"], total["output"], total["read"])


@dataclass(frozen=True)
class Evaluation:
    """The facts of an eval.json; pairs are by feature."""

    error: str = ""
    merge_status: str = ""
    merge_strategy: str = ""
    applied: tuple[str, ...] = ()  # status of each agent's patch
    both_passed: bool = False
    passed: tuple[bool, bool] = (False, False)
    outputs: tuple[str, str] = ("", "")  # of the tests

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Evaluation:
        merge = document.get("merge") or {}
        return cls(
            error=str(document.get("error") or ""),
            merge_status=str(merge.get("status") or ""),
            merge_strategy=str(merge.get("strategy") or ""),
            applied=tuple(map(str, (document.get("apply_status") or {}).values())),
            both_passed=document.get("both_passed") is True,
            passed=(has_passed(document, 1), has_passed(document, 2)),
            outputs=(output_of(document, 1), output_of(document, 2)),
        )

    @property
    def lead_alone(self) -> bool:
        """True if the first agent's patch alone was tested, after a conflict."""
        return self.merge_strategy.startswith("solo-")


def has_passed(document: Mapping[str, Any], number: int) -> bool:
    """Return whether the tests of a feature (1 or 2) passed, by eval.json."""
    return bool((document.get(f"feature{number}") or {}).get("passed"))


def output_of(document: Mapping[str, Any], number: int) -> str:
    """Return the test output of a feature (1 or 2).

    Upstream uses another key where the patches of both agents are identical.
    """
    feature = document.get(f"feature{number}") or {}
    return str(feature.get("test_output") or feature.get("output") or "")


@dataclass(frozen=True)
class Count:
    """Tests that passed and failed. unit: packages where the output of Go names no tests."""

    passed: int = 0
    failed: int = 0
    unit: str = "tests"

    @property
    def total(self) -> int:
        return self.passed + self.failed


def count_tests(output: str) -> Count:
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
