"""Budget, notify command, circuit breaker and draining: everything that stops new runs."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic
from listener import make_listener, read_events

from cooperflow import atomic_io, locks, processes, session_state
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import admission, notification, run_job
from cooperflow.outcomes import judgement, usage
from cooperflow.outcomes.judgement import CallsEnd, Evidence
from cooperflow.tables import stats


def make_limited_plan(tmp_path: Path, usd: float | None = 1.0, **keys: Any) -> Plan:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    raw = plan.config.model_dump()
    raw["limits"]["budget_usd"] = usd
    return planning.make(config.parse({**raw, **keys}))


def write_attempt(plan: Plan, run: Run, number: int, state: str, *calls: dict[str, Any]) -> None:
    folder = run.folder(plan.results).attempt(number)
    folder.mkdir(parents=True)
    process = str(processes.this_process())
    atomic_io.write_json(folder / "attempt.json", {"state": state, "process": process})
    (folder / "calls.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))


def answered(number: int, cost: float) -> dict[str, Any]:
    return {"event": "end", "id": str(number), "thread": "1", "time": 2.0, "started": 1.0,
            "kind": usage.ANSWERED, "cost": cost}  # fmt: skip


def in_flight(number: int, bound: float) -> dict[str, Any]:
    return {"event": "start", "id": str(number), "thread": "1", "time": 1.0, "cost_bound": bound}


def test_the_position_includes_every_cost(tmp_path: Path) -> None:
    """Finished, running and retried attempts, calls in flight, and what runs will still cost."""
    plan = make_limited_plan(tmp_path, 1.0)
    runs = plan.runs
    synthetic.write_run(plan, runs[0], "pass", synthetic.BEGAN, synthetic.Words())  # 0.03
    write_attempt(plan, runs[1], 1, "ended", answered(1, 0.2))
    write_attempt(plan, runs[1], 2, "running", answered(2, 0.01), in_flight(3, 0.05))
    write_attempt(plan, runs[2], 1, "interrupted", in_flight(4, 0.07))
    admission.save_assumptions(plan, {runs[1].experiment.run_name: 0.5})
    now = admission.read_position(plan)
    assert now is not None
    # A finished run's bound counts too: 0.06 of it.
    assert now.known == pytest.approx(0.03 + 0.2 + 0.01)
    assert now.open == pytest.approx(0.03 + 0.05 + 0.07)
    mean = stats.forecast_mean(0.5, [0.03])
    assert mean is not None
    assert now.expected == pytest.approx(mean - 0.06)
    assert now.running == 1
    assert now.reached == (now.known + now.open + now.expected > 1.0)
    assert "2 running" not in str(now)


def test_an_attempt_on_another_machine_runs_while_its_job_holds_its_claim(tmp_path: Path) -> None:
    """Otherwise a job that was killed there would keep the session waiting for ever."""
    plan = make_limited_plan(tmp_path)
    run = plan.runs[0]
    write_attempt(plan, run, 1, "running")
    path = run.folder(plan.results).attempt(1) / "attempt.json"
    atomic_io.write_json(path, {"state": "running", "process": "elsewhere:1:boot"})
    assert admission.read_spending(plan.results).running == ()
    with locks.claim(plan.results.claims, run.key, 1):
        assert len(admission.read_spending(plan.results).running) == 1


def test_replayed_and_adopted_runs_cost_nothing(tmp_path: Path) -> None:
    plan = make_limited_plan(tmp_path)
    for run, label in zip(plan.runs, ("replay", "adopted"), strict=False):
        synthetic.write_run(plan, run, "pass", synthetic.BEGAN, synthetic.Words())
        path = run.folder(plan.results).result
        document = json.loads(path.read_text())
        document["workflow"][label] = True
        path.write_text(json.dumps(document))
    assert admission.read_spending(plan.results) == admission.Spending()


def test_without_a_budget_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_limited_plan(tmp_path, None)
    monkeypatch.setattr(admission, "read_spending", lambda _: pytest.fail("read"))
    with admission.budget_admission(plan, plan.runs[0]) as refusal:
        assert refusal == ""


def test_two_runs_do_not_use_the_same_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits until the first is recorded, then until it has finished, and then starts."""
    monkeypatch.setattr(admission, "POLL_SECONDS", 0.01)
    plan = make_limited_plan(tmp_path, 0.4)
    first, second = plan.runs[:2]
    admission.save_assumptions(plan, {first.experiment.run_name: 0.5})
    refusals: list[str] = []

    def other() -> None:
        with admission.budget_admission(plan, second) as refusal:
            refusals.append(refusal)

    with admission.budget_admission(plan, first) as refusal:
        assert refusal == ""
        waiting = threading.Thread(target=other)
        waiting.start()
        time.sleep(0.3)
        assert refusals == []
        write_attempt(plan, first, 1, "running")
    time.sleep(0.3)
    assert refusals == []
    # It was cheaper than expected: the budget is not used up.
    synthetic.write_run(plan, first, "pass", synthetic.BEGAN, synthetic.Words())
    waiting.join(20)
    assert refusals == [""]


def test_the_budget_waits_for_evaluations_then_reports_what_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(admission, "QUIET_SECONDS", 0.5)
    plan = make_limited_plan(tmp_path, 0.01)
    finished_run = plan.runs[0]
    synthetic.write_run(plan, finished_run, "pass", synthetic.BEGAN, synthetic.Words())
    evaluation = finished_run.folder(plan.results).eval
    document = evaluation.read_text()
    evaluation.unlink()
    admission.save_assumptions(plan, {experiment.run_name: 0.5 for experiment in plan.experiments})
    refusals: list[str] = []

    def run() -> None:
        with admission.budget_admission(plan, plan.runs[1]) as refusal:
            refusals.append(refusal)

    with locks.claim(plan.results.claims, f"eval {finished_run.key}", 1):
        waiting = threading.Thread(target=run)
        waiting.start()
        time.sleep(1.0)
        assert refusals == []
        evaluation.write_text(document)
    waiting.join(20)
    (message,) = refusals
    assert "Budget reached" in message
    assert "149 runs remain" in message
    assert "limits.budget_usd" in message
    assert "finished runs are kept" in message


def test_the_budget_waits_for_the_result_of_a_run_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between an attempt's end and the run's result, the run is neither running nor evaluated."""
    monkeypatch.setattr(admission, "QUIET_SECONDS", 60.0)
    plan = make_limited_plan(tmp_path, 0.001)
    ended = plan.runs[0]
    write_attempt(plan, ended, 1, "ended", answered(1, 0.5))
    pending = admission._PendingVerdicts(plan)
    assert not pending.have_finished()
    synthetic.write_run(plan, ended, "pass", synthetic.BEGAN, synthetic.Words())
    assert pending.have_finished()


def test_a_retry_of_a_halted_session_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later try at any run ends at once, without an attempt."""
    monkeypatch.setattr(admission, "QUIET_SECONDS", 0.0)
    plan = make_limited_plan(tmp_path, 0.001)
    write_attempt(plan, plan.runs[0], 1, "ended", answered(1, 0.5))
    codes = [
        run_job.RunJob(plan, run, run_job.Try(number, number == 3)).perform()
        for run in plan.runs[:2]
        for number in (1, 2, 3)
    ]
    assert codes == [run_job.HALTED] * 6
    assert [len(run.folder(plan.results).attempt_numbers()) for run in plan.runs[:2]] == [1, 0]


def test_models_without_a_price_are_named(tmp_path: Path) -> None:
    plan = make_limited_plan(tmp_path)
    names = [experiment.run_name for experiment in plan.experiments]
    assert admission.find_uncounted(plan, {names[0]: 0.3, names[1]: None}) == [names[1]]


def test_budget_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(config.UserError, match=r"limits\.budget_usd"):
        make_limited_plan(tmp_path, 0.0)


def test_an_event_is_sent_once_per_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COHERE_API_KEY", "a-key")
    command, target = make_listener(tmp_path)
    plan = make_limited_plan(tmp_path, notify=command)
    synthetic.write_run(plan, plan.runs[0], "pass", synthetic.BEGAN, synthetic.Words())
    assert notification.send(plan, notification.HALTED, "auth")
    assert not notification.send(plan, notification.HALTED, "auth")
    notification.session_ended(plan, success=False)
    halted, ended = read_events(target)
    assert (halted["schema"], halted["event"], halted["message"]) == (1, "halted", "auth")
    assert (ended["event"], ended["success"]) == ("ended", False)
    assert ended["runs"] == {
        "total": 150, "pass": 1, "fail": 0, "infra_error": 0, "unfinished": 149,
    }  # fmt: skip
    assert ended["cost_usd"] == pytest.approx(0.03)
    assert ended["budget_usd"] == 1.0
    session_state.clear(plan.results)
    assert notification.send(plan, notification.HALTED, "auth")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/nowhere/to/be/found"], "No such file"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit code 3"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "killed after 1 s"),
    ],
)
def test_a_failing_command_changes_nothing(
    command: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notification, "SECONDS", 1.0)
    plan = make_limited_plan(tmp_path, notify=command)
    assert not notification.send(plan, notification.ENDED, "x")
    out = capsys.readouterr().out
    assert words in out
    assert "The session is not affected." in out


def test_a_command_is_a_list_of_words(tmp_path: Path) -> None:
    with pytest.raises(config.UserError, match="notify"):
        make_limited_plan(tmp_path, notify="mail -s done me@example.org")
    with pytest.raises(config.UserError, match="notify: the first word is empty"):
        make_limited_plan(tmp_path, notify=[" "])


def test_a_long_wait_at_the_circuit_breaker_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(admission, "PROBE_SECONDS", 0)
    command, target = make_listener(tmp_path)
    plan = make_limited_plan(tmp_path, notify=command, breaker={"notify_minutes": 0})
    obstacles = iter(["the provider does not answer", "the provider does not answer", ""])
    monkeypatch.setattr(admission, "_obstacle", lambda *_: next(obstacles))
    plan.results.state.mkdir(parents=True)
    with admission.breaker_admission(plan, plan.runs[0]):
        pass
    (event,) = read_events(target)
    assert event["event"] == "waiting"
    assert "the provider does not answer" in event["message"]


def test_a_drained_session_is_halted_for_its_jobs_alone(tmp_path: Path) -> None:
    plan = make_limited_plan(tmp_path, None)
    other = processes.Process("another-host", 1, "x")
    assert session_state.declare_halt(
        plan.results, "", session_state.DRAIN, session_state.DRAINING, other
    )
    assert session_state.halt_message(plan.results, other) == session_state.DRAINING
    assert session_state.halt_message(plan.results) is None


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
def test_trouble_needs_consecutive_failures_of_several_runs(
    attempts: tuple[str, ...], runs: int
) -> None:
    trouble = admission.find_trouble(ends(*attempts), failures=3, pause=30)
    assert (trouble.runs if trouble else 0) == runs


def test_the_pause_doubles_with_each_failed_trial_and_ends() -> None:
    attempts = ends("a:x", "b:x", "c:x")
    for wait in (30, 60, 120, 240, 480, 600, 600):
        trouble = admission.find_trouble(attempts, 3, 30)
        assert trouble is not None
        assert trouble.until == float(str(attempts[-1]["time"])) + wait
        attempts.append({"run": "d", "reason": "x", "time": trouble.until + 5})


def test_failures_of_attempts_that_were_under_way_do_not_double_the_pause() -> None:
    """A short outage ends all parallel attempts at once; the first trial follows soon."""
    attempts = [{"run": f"r{n}", "reason": "x", "time": 100.0 + n} for n in range(16)]
    trouble = admission.find_trouble(attempts, 3, 30)
    assert trouble is not None
    assert (trouble.runs, trouble.until) == (16, 115.0 + 30)


@pytest.mark.parametrize(("ahead", "waits"), [(-10, True), (-40, False), (86_400, False)])
def test_a_clock_that_is_set_back_does_not_stop_a_session(
    ahead: float, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "engine_problem", lambda: "")
    monkeypatch.setattr(admission, "provider_problem", lambda _: "")
    plan = make_limited_plan(tmp_path, breaker={"failures": 3, "pause_seconds": 30})
    owner = str(processes.session_process())
    ended = [
        {**end, "owner": owner, "time": time.time() + ahead} for end in ends("a:x", "b:x", "c:x")
    ]
    plan.results.state.mkdir(parents=True)
    plan.results.breaker.write_text("".join(json.dumps(end) + "\n" for end in ended))
    assert bool(admission._obstacle(plan, plan.runs[0], False, True)) is waits


def test_zero_failures_disable_the_circuit_breaker() -> None:
    assert admission.find_trouble(ends("a:x", "b:x", "c:x"), 0, 30) is None


def call(thread: str, end: float, retry_after: float | None, start: float = 0.0) -> usage.Call:
    return usage.Call("1", thread, start, end, usage.RATE_LIMITED, retry_after=retry_after)


def test_the_longest_requested_pause_counts_from_the_end_of_its_call() -> None:
    calls = [call("a", 100, 60), call("b", 110, 20), call("a", 105, None, 101)]
    assert usage.requested_pause(calls, now=115) == 15
    assert usage.requested_pause(calls, now=500) == 0
    assert usage.requested_pause([], now=0) == 0


def test_a_timeout_caused_by_the_engine_is_not_the_agents() -> None:
    busy = (CallsEnd(usage.ANSWERED, 0.0, 600.0),)
    slow = Evidence(False, timed_out=True, seconds=600, calls=busy)
    assert judgement.judge_run(slow).reason == judgement.TIMEOUT
    hung = Evidence(False, timed_out=True, seconds=600, calls=busy, engine_stalled=400)
    assert judgement.judge_run(hung).reason == judgement.DOCKER_UNAVAILABLE
    open_call = (CallsEnd(usage.OPEN, 350.0, 600.0),)
    both = Evidence(False, timed_out=True, seconds=600, calls=open_call, engine_stalled=400)
    assert judgement.judge_run(both).reason == usage.API_TIMEOUT


def test_a_full_disk_takes_precedence_over_its_consequences() -> None:
    evidence = Evidence(False, disk_full=True, engine_lost=True, exit_code=74)
    assert judgement.judge_run(evidence).reason == judgement.DISK_FULL


def test_a_patch_too_large_for_upstream_is_a_fail() -> None:
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
def test_the_status_of_an_answer_outweighs_its_text(status: int, kind: str) -> None:
    causes = ["AuthenticationError", "CohereError", "MaskedHTTPStatusError", "HTTPStatusError"]
    text = 'CohereException - {"message": "invalid api token, as was sent"}'
    assert usage.kind_of_error("AuthenticationError", status, text, causes) == kind


def test_the_probe_of_the_provider_calls_no_model() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert admission.provider_problem(f"http://127.0.0.1:{port}/v2/chat") == ""
        connection, _ = server.accept()
        assert connection.recv(100).startswith(b"HEAD ")
    assert "cannot be reached" in admission.provider_problem(f"http://127.0.0.1:{port}/v2/chat")
    assert "cannot be reached" in admission.provider_problem("https://provider.invalid/v2/chat")
    assert admission.provider_problem(None) == ""
