"""Judgement of runs and evaluations: each row of the table of outcomes, and what always holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cooperflow import layout, session_state
from cooperflow.layout import Pair
from cooperflow.outcomes import judgement, patch_text, usage
from cooperflow.outcomes.judgement import (
    AgentEnd,
    CallsEnd,
    Evidence,
    Verdict,
    judge_eval,
    judge_run,
)
from cooperflow.outcomes.run_result import EvalRecord, RunRecord
from cooperflow.outcomes.usage import Usage
from cooperflow.upstream import result_files

DONE = (AgentEnd("solo", "Submitted", steps=4),)
BROKE = (AgentEnd("solo", "Error", "litellm.SomeError"),)
FINE = (CallsEnd(usage.ANSWERED, 0.0, 100.0),)


def last(kind: str, waited: float = 0.0) -> tuple[CallsEnd, ...]:
    return (CallsEnd(kind, waited, 100.0),)


UNREADABLE = (CallsEnd(usage.ANSWERED, 0.0, 100.0, unreadable=True),)
WITHHELD = (CallsEnd(usage.ANSWERED, 0.0, 100.0, withheld=True),)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(True, agents=DONE, calls=FINE), Verdict(None)),
        (Evidence(False, timed_out=True, calls=FINE), Verdict("fail", "timeout")),
        (
            Evidence(False, exit_code=judgement.UNRECORDED, calls=FINE),
            Verdict("infra_error", "disk_full", again=True),
        ),
        # Agents that cannot run a command, or get no message, do not fail by the clock.
        (
            Evidence(False, timed_out=True, calls=FINE, exec_refused=1),
            Verdict("infra_error", "docker_unavailable", again=True),
        ),
        (
            Evidence(False, timed_out=True, calls=FINE, redis_died=True),
            Verdict("infra_error", "redis_unavailable", again=True),
        ),
        # The time was over before an agent began.
        (
            Evidence(False, timed_out=True, silent=1),
            Verdict("infra_error", "agent_error", again=True),
        ),
        (
            Evidence(False, timed_out=True, calls=last(usage.OPEN, 80)),
            Verdict("infra_error", "api_timeout", again=True),
        ),
        (
            Evidence(False, timed_out=True, calls=last(usage.OPEN, 40)),
            Verdict("fail", "timeout"),
        ),
        *(
            (
                Evidence(True, agents=BROKE, calls=last(kind)),
                Verdict("infra_error", kind, again=True),
            )
            for kind in ("rate_limited", "api_unavailable", "api_timeout", "bad_request")
        ),
        *(
            (
                Evidence(True, agents=BROKE, calls=last(kind)),
                Verdict("infra_error", kind, halts=True),
            )
            for kind in ("auth", "quota", "model_not_found")
        ),
        (
            Evidence(True, agents=DONE, calls=FINE, containers_died=1),
            Verdict("infra_error", "container_died", again=True),
        ),
        (
            Evidence(True, agents=DONE, calls=FINE, containers_died=1, containers_oom=1),
            Verdict("infra_error", "oom_killed", again=True),
        ),
        (
            Evidence(True, agents=DONE, calls=FINE, gateway_died=True),
            Verdict("infra_error", "process_died", again=True),
        ),
        (
            Evidence(True, agents=DONE, calls=FINE, silent=1),
            Verdict("infra_error", "agent_error", again=True),
        ),
        (
            Evidence(True, agents=DONE, calls=FINE, patch_unread=True),
            Verdict("infra_error", "docker_unavailable", again=True),
        ),
        (
            Evidence(True, agents=(AgentEnd("solo", "CostLimitExceeded", steps=9),), calls=FINE),
            Verdict(None, "cost_limit"),
        ),
        (
            Evidence(False, timed_out=True, calls=FINE, engine_lost=True),
            Verdict("infra_error", "docker_unavailable", again=True),
        ),
        (
            Evidence(True, agents=BROKE, image_missing=True),
            Verdict("infra_error", "image_missing", again=True),
        ),
        # An agent got nothing to do from its provider: at its step limit, as an end, in its time.
        *(
            (
                Evidence(not late, late, agents=agents, calls=FINE + WITHHELD, step_limit=100),
                Verdict("infra_error", "content_filter", again=True),
            )
            for agents, late in (
                ((AgentEnd("solo", "LimitsExceeded", steps=100),), False),
                (DONE, False),
                ((), True),
            )
        ),
        # One agent outgrew its window, the other one never got its container.
        (
            Evidence(
                True,
                agents=BROKE + BROKE,
                calls=last(usage.CONTEXT),
                silent=1,
                containers_started=1,
                containers_asked=2,
            ),
            Verdict("infra_error", "docker_unavailable", again=True),
        ),
        (
            Evidence(True, agents=BROKE + BROKE, calls=FINE + last(usage.CONTEXT)),
            Verdict("infra_error", "agent_error", again=True),
        ),
        # The model's own tool call ended its agent; the other agent submitted, or failed otherwise.
        *(
            (Evidence(True, agents=agents, calls=FINE + UNREADABLE), verdict)
            for agents, verdict in (
                (DONE + BROKE, Verdict(None, "invalid_call")),
                (BROKE + BROKE, Verdict("infra_error", "agent_error", again=True)),
                (DONE, Verdict(None)),
            )
        ),
        (
            Evidence(True, agents=BROKE, calls=UNREADABLE, exec_refused=1),
            Verdict("infra_error", "docker_unavailable", again=True),
        ),
        (
            Evidence(True, agents=DONE + BROKE, calls=FINE + last(usage.CONTEXT)),
            Verdict(None, "context_limit"),
        ),
        (
            Evidence(True, agents=BROKE, calls=FINE, redis_died=True),
            Verdict("infra_error", "redis_unavailable", again=True),
        ),
        (
            Evidence(False, exit_code=-9, calls=FINE),
            Verdict("infra_error", "process_died", again=True),
        ),
        (
            Evidence(True, agents=BROKE, calls=FINE),
            Verdict("infra_error", "agent_error", again=True),
        ),
        (Evidence(True, agents=BROKE, calls=last(usage.CONTEXT)), Verdict(None, "context_limit")),
        (
            Evidence(
                True,
                agents=(AgentEnd("solo", "LimitsExceeded", steps=100),),
                calls=FINE,
                step_limit=100,
            ),
            Verdict(None, "step_limit"),
        ),
        (
            Evidence(
                True,
                agents=(AgentEnd("solo", "LimitsExceeded", steps=40),),
                calls=FINE,
                step_limit=100,
            ),
            Verdict(None, "cost_limit"),
        ),
        (
            Evidence(True, agents=(AgentEnd("solo", result_files.CONTEXT_EXCEEDED),), calls=FINE),
            Verdict(None, "context_limit"),
        ),
        # One agent's provider fails, the other one submits: the run is not one to be judged.
        (
            Evidence(True, agents=DONE + BROKE, calls=FINE + last("rate_limited")),
            Verdict("infra_error", "rate_limited", again=True),
        ),
        # A call failed on the way and was tried again with success: nothing happened.
        (Evidence(True, agents=DONE, calls=last("rate_limited", 10)), Verdict(None)),
    ],
)
def test_run(evidence: Evidence, verdict: Verdict) -> None:
    assert judge_run(evidence) == verdict


PYTEST = "===== 3 passed in 0.1s ====="
FAILED = "===== 1 failed, 2 passed in 0.1s ====="


def solo(first: str, second: str, passed: bool, **more: Any) -> dict[str, Any]:
    return {
        "merge": None,
        "feature1": {"passed": passed, "test_output": first},
        "feature2": {"passed": passed, "test_output": second},
        "both_passed": passed,
        "error": None,
        **more,
    }


def coop(status: str, passed: bool, strategy: str = "naive", **more: Any) -> dict[str, Any]:
    text = PYTEST if passed else FAILED
    both = {"agent1": "applied", "agent2": "applied"}
    details = {"merge": {"status": status, "strategy": strategy}, "apply_status": both}
    return solo(text, text, passed) | details | more


@pytest.mark.parametrize(
    ("document", "empty", "verdict"),
    [
        (None, [False], Verdict("infra_error", "eval_error", again=True)),
        (
            solo("", "", False, error="no such image"),
            [False],
            Verdict("infra_error", "eval_error", again=True),
        ),
        (coop("error", False), [False] * 2, Verdict("infra_error", "eval_error", again=True)),
        (solo(PYTEST, PYTEST, True), [False], Verdict("pass")),
        (solo(PYTEST, FAILED, False), [False], Verdict("fail", "tests_failed")),
        (solo("", "", False), [True], Verdict("fail", "empty_patch")),
        (
            solo("error: No valid patches in input\n", "", False),
            [True],
            Verdict("fail", "empty_patch"),
        ),
        # Something is in the patch, and git finds no change there: colour codes, a gitlink.
        (
            solo("error: No valid patches in input\n", "", False),
            [False],
            Verdict("fail", "patch_not_applied"),
        ),
        (
            coop("clean", False, feature1={"test_output": "error: No valid patches in input\n"}),
            [False] * 2,
            Verdict("fail", "patch_not_applied"),
        ),
        (
            solo("error: patch failed: a.py:3\nerror: a.py: patch does not apply\n", "", False),
            [False],
            Verdict("fail", "patch_not_applied"),
        ),
        (coop("clean", True), [False] * 2, Verdict("pass")),
        (coop("identical", True, "skip-merge-identical"), [False] * 2, Verdict("pass")),
        (coop("conflicts", False), [False] * 2, Verdict("fail", "merge_conflict")),
        (
            coop("conflicts", True, "solo-agent1"),
            [False] * 2,
            Verdict("pass", caveat="lead_alone"),
        ),
        (coop("missing_input", False), [False] * 2, Verdict("fail", "patch_not_applied")),
        (coop("clean", False), [False] * 2, Verdict("fail", "tests_failed")),
        (
            coop("clean", False, apply_status={"agent1": "applied", "agent2": "skipped"}),
            [False, True],
            Verdict("fail", "empty_patch"),
        ),
        (
            solo("ok  \texample.org/x\t0.01s [no tests to run]", PYTEST, True),
            [False],
            Verdict("pass", caveat="no_tests_run"),
        ),
    ],
)
def test_eval(document: dict[str, Any] | None, empty: list[bool], verdict: Verdict) -> None:
    assert judge_eval(document, empty) == verdict


TESTS_ONLY = b"diff --git a/tests/test_a.py b/tests/test_a.py\n+def test_a(): pass\n"
ONE_FILE = b"diff --git a/a.py b/a.py\n+a = 1\n"


@pytest.mark.parametrize(
    ("patch", "empty", "caveats"),
    [
        (b"", True, ()),
        (b"\n \n", True, ()),
        (TESTS_ONLY, True, ()),
        (b"error: Could not access 'abc'\n", True, ()),
        (b"warning: unable to read\n" + ONE_FILE, False, ()),
        (TESTS_ONLY + ONE_FILE, False, ()),
        (TESTS_ONLY.replace(b"diff", b"\x1b[1mdiff"), False, ()),
        (b"diff --git a/lib b/lib\n+Subproject commit 1234\n", False, ()),
        (ONE_FILE.replace(b"1\n", b"1\r\n"), False, ("line_endings",)),
        (ONE_FILE.replace(b"1", "'\u00e9'".encode("latin-1")), False, ("not_utf8",)),
        (ONE_FILE.replace(b"1", "'\u00e9'".encode()), False, ()),
        (b"-a\r\n+\xff\n", False, ("line_endings", "not_utf8")),
    ],
)
def test_patch(patch: bytes, empty: bool, caveats: tuple[str, ...]) -> None:
    assert patch_text.is_empty(patch) is empty
    assert patch_text.text_caveats(patch) == caveats


def test_a_pass_whose_patch_is_not_plain_text_has_a_caveat() -> None:
    caveats = patch_text.collect_caveats([b"+a\r\n", b"+b\r\n", b"+\xff\n"])
    passed = judge_eval(solo(PYTEST, PYTEST, True), [False], text_caveats=caveats)
    assert passed == Verdict("pass", caveat="line_endings;not_utf8")
    failed = judge_eval(solo(FAILED, FAILED, False), [False], text_caveats=caveats)
    assert failed == Verdict("fail", "tests_failed")


def test_tasks_with_patches_that_are_not_plain_text_are_found(tmp_path: Path) -> None:
    for task, content in ((1, b"+a\n"), (2, b"+a\r\n+\xff\n")):
        for feature in (1, 2):
            folder = tmp_path / "a_task" / f"task{task}" / f"feature{feature}"
            folder.mkdir(parents=True)
            for name in patch_text.PATCH_FILES:
                (folder / name).write_bytes(content)
    pairs = [Pair("a_task", task, (1, 2)) for task in (1, 2)]
    assert patch_text.task_caveats(tmp_path, pairs) == {"a_task 2": ("line_endings", "not_utf8")}


def test_an_agents_limit_is_the_reason_only_if_the_tests_fail() -> None:
    assert judge_eval(solo(PYTEST, PYTEST, True), [False], "step_limit") == Verdict("pass")
    assert judge_eval(solo(FAILED, FAILED, False), [False], "step_limit").reason == "step_limit"


@pytest.mark.parametrize(
    ("output", "passed", "all_"),
    [
        (PYTEST, 3, 3),
        (FAILED, 2, 3),
        ("Tests:       2 failed, 15 passed, 17 total", 15, 17),
        ("--- PASS: TestA (0.0s)\n--- FAIL: TestB\nFAIL\n", 1, 2),
        ("ok  \tgithub.com/go-chi/chi\t0.1s\n", 1, 1),
        ("ok  \tgithub.com/go-chi/chi\t0.1s [no tests to run]\n", 0, 0),
        ("test result: ok. 7 passed; 0 failed; 0 ignored", 7, 7),
        ("bash: command not found", 0, 0),
    ],
)
def test_count_tests(output: str, passed: int, all_: int) -> None:
    assert judgement.count_tests(output) == passed
    assert judgement.count_tests(output, failed=True) == all_


ends = st.builds(
    AgentEnd,
    agent=st.sampled_from(["solo", "agent1", "agent2"]),
    status=st.sampled_from(["Submitted", "LimitsExceeded", "Error"]),
    error=st.text(),
    steps=st.integers(0, 200),
)
evidences = st.builds(
    Evidence,
    document=st.booleans(),
    timed_out=st.booleans(),
    exit_code=st.one_of(st.none(), st.integers(-15, 2)),
    agents=st.lists(ends, max_size=2).map(tuple),
    calls=st.lists(
        st.builds(
            CallsEnd,
            last=st.sampled_from(sorted({usage.ANSWERED, usage.CONTEXT, *usage.WAITING})),
            waited=st.floats(0, 600),
            seconds=st.floats(0, 600),
            withheld=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    containers_died=st.integers(0, 2),
    containers_oom=st.integers(0, 2),
    engine_lost=st.booleans(),
    image_missing=st.booleans(),
    redis_died=st.booleans(),
)


@given(evidences)
def test_an_infrastructure_failure_is_never_a_fail(evidence: Evidence) -> None:
    verdict = judge_run(evidence)
    broke = (
        evidence.containers_died
        or evidence.containers_oom
        or evidence.engine_lost
        or evidence.image_missing
        or any(calls.withheld for calls in evidence.calls)
        or evidence.redis_died
    )
    if broke:
        assert verdict.outcome == "infra_error"
    assert verdict.outcome != "pass"
    assert not (verdict.outcome == "fail" and (verdict.again or verdict.halts))


@given(evidences, st.sampled_from(["rate limit exceeded", "OOM", "Cannot connect to Docker"]))
def test_text_of_an_agent_changes_nothing(evidence: Evidence, words: str) -> None:
    import dataclasses

    talking = tuple(dataclasses.replace(agent, error=words) for agent in evidence.agents)
    assert judge_run(dataclasses.replace(evidence, agents=talking)) == judge_run(evidence)


def test_a_setting_that_the_model_refuses_halts() -> None:
    """Every other run would be refused as well; a bad request about a conversation is one run's."""
    refused = (CallsEnd(usage.BAD_REQUEST, 0.0, 100.0, refused_setting=True),)
    assert judge_run(Evidence(True, agents=BROKE, calls=refused)) == Verdict(
        "infra_error", "bad_request", halts=True
    )
    # A command that succeeds in upstream's retries does not count as refused.
    fine = (CallsEnd(usage.ANSWERED, 0.0, 100.0),)
    assert judge_run(Evidence(True, agents=DONE, calls=fine)) == Verdict(None)


def test_a_halt_names_the_key_to_change() -> None:
    advice = session_state.HALT_ADVICE[usage.BAD_REQUEST].format(key="K", model="m")
    assert "agent.config.model.model_kwargs.max_tokens" in advice


@pytest.mark.parametrize(
    ("caveat", "strict"),
    [("", True), ("output_limit", True), ("lead_alone", False), ("no_tests_run", False)],
)
def test_which_caveats_leave_a_pass_strict(caveat: str, strict: bool) -> None:
    assert judgement.is_strict(caveat) is strict


def test_output_is_read_from_both_of_upstreams_keys() -> None:
    document = {"feature1": {"test_output": PYTEST}, "feature2": {"output": FAILED}}
    assert result_files.output_of(document, 1) == PYTEST
    assert result_files.output_of(document, 2) == FAILED  # patches that are identical
    assert result_files.output_of({}, 1) == ""


@pytest.mark.parametrize("rules", [judgement.RUN_RULES, judgement.EVAL_RULES])
def test_docs_list_the_rules_in_order(rules: Any) -> None:
    page = (layout.REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    rows = []
    for rule in rules:
        verdict = rule.verdict
        outcome = f"`{verdict.outcome}`" if verdict.outcome else "the tests decide"
        reason = f"`{verdict.reason}`" if verdict.reason else ""
        next_step = "halts" if verdict.halts else "tried again" * verdict.again
        rows.append(f"| {rule.condition} | {outcome} | {reason} | {next_step} |")
    assert "\n".join(rows) in page


def test_records_of_other_versions_are_read() -> None:
    """Missing and null keys have their defaults; a document without `workflow` has no record."""
    old = {"workflow": {"outcome": None, "attempts": 2, "cost_usd": 0.5, "cost_bound_usd": None}}
    record = RunRecord.read({**old, "agents": {}})
    assert record is not None
    assert (record.outcome, record.attempts, record.model_seconds) == (None, 2, 0.0)
    assert (record.usage.cost_usd, record.usage.cost_bound_usd) == (0.5, None)
    assert record.usage.cost_complete and record.is_paid
    assert not RunRecord(adopted=True).is_paid
    newer = {"workflow": {"outcome": "pass", "tests_passed": [3, 4], "key of a newer version": 1}}
    assert EvalRecord.read(newer).outcome == "pass"
    for document in (None, [], {}, {"workflow": None}):
        assert RunRecord.read(document) is None
        assert EvalRecord.read(document) == EvalRecord()


def test_records_are_read_as_they_were_written() -> None:
    record = RunRecord("pass", attempts=1, usage=Usage(calls=3, cost_usd=0.25), seconds=2.0)
    assert RunRecord.read({"workflow": record.as_dict()}) == record
    assert "caveats" not in record.as_dict()
