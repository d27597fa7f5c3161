"""The circuit breaker: waiting after consecutive failures, and pauses for a provider."""

from __future__ import annotations

import socket

import pytest

from cooperflow import layout
from cooperflow.engine import containers
from cooperflow.experiment import config, config_schema, fingerprint
from cooperflow.instrumentation import rate_limit
from cooperflow.jobs import circuit_breaker
from cooperflow.outcomes import judgement, usage
from cooperflow.outcomes.judgement import CallsEnd, Evidence


def ends(*words: str) -> list[dict[str, object]]:
    """Attempts as `run:reason`, ten seconds apart."""
    pairs = [word.split(":") for word in words]
    return [{"run": r, "reason": why, "time": 10.0 * n} for n, (r, why) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("attempts", "runs"),
    [
        ((), 0),
        (("a:x", "b:x"), 0),
        (("a:x", "a:x", "a:x"), 0),  # one run alone is not evidence about the others
        (("a:x", "b:x", "c:x"), 3),
        (("a:x", "b:x", "c:", "d:x", "e:x"), 0),
        (("z:", "a:x", "b:x", "a:x", "c:x"), 3),
    ],
)
def test_trouble_is_several_runs_in_a_row(attempts: tuple[str, ...], runs: int) -> None:
    trouble = circuit_breaker.judge(ends(*attempts), failures=3, pause=30)
    assert (trouble.runs if trouble else 0) == runs


def test_the_pause_doubles_with_each_failure_and_ends() -> None:
    three = circuit_breaker.judge(ends("a:x", "b:x", "c:x"), 3, 30)
    four = circuit_breaker.judge(ends("a:x", "b:x", "c:x", "d:x"), 3, 30)
    many = circuit_breaker.judge(ends(*(f"r{n}:x" for n in range(40))), 3, 30)
    assert three is not None
    assert three.until == 20 + 30
    assert four is not None
    assert four.until == 30 + 60
    assert many is not None
    assert many.until == 390 + circuit_breaker.LONGEST_PAUSE


def test_zero_failures_switch_it_off() -> None:
    assert circuit_breaker.judge(ends("a:x", "b:x", "c:x"), 0, 30) is None


def call(thread: str, end: float, retry_after: float | None, start: float = 0.0) -> usage.Call:
    return usage.Call("1", thread, start, end, usage.RATE_LIMITED, retry_after=retry_after)


def test_the_longest_wish_of_any_agents_last_call_counts_from_its_end() -> None:
    calls = [call("a", 100, 60), call("b", 110, 20), call("a", 105, None, 101)]
    assert usage.asked_pause(calls, now=115) == 15
    assert usage.asked_pause(calls, now=500) == 0
    assert usage.asked_pause([], now=0) == 0


def test_a_time_out_that_the_engine_caused_is_not_the_agents() -> None:
    busy = (CallsEnd(usage.ANSWERED, 0.0, 600.0),)
    slow = Evidence(False, timed_out=True, seconds=600, calls=busy)
    assert judgement.judge_run(slow).reason == judgement.TIMEOUT
    hung = Evidence(False, timed_out=True, seconds=600, calls=busy, engine_stalled=400)
    assert judgement.judge_run(hung).reason == judgement.DOCKER_UNAVAILABLE
    waited = (CallsEnd(usage.OPEN, 350.0, 600.0),)
    both = Evidence(False, timed_out=True, seconds=600, calls=waited, engine_stalled=400)
    assert judgement.judge_run(both).reason == usage.API_TIMEOUT


def test_a_full_disk_is_told_before_what_it_brings_about() -> None:
    evidence = Evidence(False, disk_full=True, engine_lost=True, exit_code=74)
    assert judgement.judge_run(evidence).reason == judgement.DISK_FULL


def test_a_patch_that_upstream_cannot_hand_over_is_the_agents_doing() -> None:
    document = {"error": "Failed to write patch1.patch: ", "both_passed": False}
    large = judgement.judge_eval(document, [False, False], largest_patch=212_500_114)
    assert (large.outcome, large.reason, large.again) == ("fail", "patch_too_large", False)
    small = judgement.judge_eval(document, [False, False], largest_patch=500)
    assert (small.outcome, small.reason) == ("infra_error", "eval_error")
    tests = {"error": "Failed to write tests1.patch: "}
    assert judgement.judge_eval(tests, [False], largest_patch=212_500_114).again


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, usage.API_UNAVAILABLE), (429, usage.RATE_LIMITED), (401, usage.AUTH)],
)
def test_words_of_an_answer_do_not_outweigh_its_status(status: int, kind: str) -> None:
    causes = ["AuthenticationError", "CohereError", "MaskedHTTPStatusError", "HTTPStatusError"]
    said = 'CohereException - {"message": "invalid api token, as was sent"}'
    assert usage.kind_of_error("AuthenticationError", status, said, causes) == kind


def test_the_probe_of_the_provider_asks_no_model() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert circuit_breaker.provider_problem(f"http://127.0.0.1:{port}/v2/chat") == ""
        connection, _ = server.accept()
        assert connection.recv(100).startswith(b"HEAD ")
    assert "cannot be reached" in circuit_breaker.provider_problem(
        f"http://127.0.0.1:{port}/v2/chat"
    )
    assert "cannot be reached" in circuit_breaker.provider_problem(
        "https://provider.invalid/v2/chat"
    )
    assert circuit_breaker.provider_problem(None) == ""


def test_limits_reach_docker_run_and_the_sdk_alike() -> None:
    wanted = config_schema.Containers(memory="2g", cpus=0.5, pids=100, network="none")
    arguments, sdk = containers.limits(wanted)
    assert arguments == [
        "--oom-score-adj=500",
        "--memory=2g",
        "--memory-swap=2g",
        "--cpus=0.5",
        "--pids-limit=100",
        "--network=none",
    ]
    assert sdk == {
        "oom_score_adj": 500,
        "mem_limit": "2g",
        "memswap_limit": "2g",
        "nano_cpus": 500_000_000,
        "pids_limit": 100,
        "network": "none",
    }
    assert "--network=none" not in containers.limits(wanted, own_network=True)[0]


def test_more_processors_than_there_are_is_no_error_of_docker() -> None:
    _, sdk = containers.limits(config_schema.Containers(cpus=100_000))
    assert sdk["nano_cpus"] < 100_000 * 10**9


def test_limits_decide_results_and_so_stand_in_experiment_json() -> None:
    from cooperflow.experiment import plan

    made = plan.make(config.load([layout.REPOSITORY / "config" / "demo.yaml"]))
    asked = fingerprint.asked(made.experiments[0], made)
    assert asked["containers"] == config_schema.Containers().model_dump()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        ("1.5", 1.5),
        ("Sat, 28 Nov 2026 01:00:30 GMT", 30.0),
        ("Saturday, 28-Nov-26 01:00:30 GMT", 30.0),
        ("Sat Nov 28 01:00:30 2026", 30.0),
        ("Sat, 28 Nov 2026 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("nan", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, seconds: float | None) -> None:
    now = 1795827600.0  # 2026-11-28 01:00:00 UTC
    assert rate_limit.parse_retry_after(header, now) == seconds
