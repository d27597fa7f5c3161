"""The budget, the notify command and draining: what stops new runs, and what never happens."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic
from listener import listener, said

from cooperflow import atomic_io, locks, processes, session_state
from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import budget, circuit_breaker, notification, run_job
from cooperflow.outcomes import forecast, usage


def limited(tmp_path: Path, usd: float | None = 1.0, **keys: Any) -> Plan:
    made = synthetic.make_plan(tmp_path / "results", "flash")
    raw = made.config.model_dump()
    raw["limits"]["budget_usd"] = usd
    return plan.make(config.parse({**raw, **keys}))


def attempt(made: Plan, run: Run, number: int, state: str, *calls: dict[str, Any]) -> None:
    place = run.folder(made.results).attempt(number)
    place.mkdir(parents=True)
    me = str(processes.this_process())
    atomic_io.write_json(place / "attempt.json", {"state": state, "process": me})
    (place / "calls.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))


def answered(number: int, cost: float) -> dict[str, Any]:
    return {"event": "end", "id": str(number), "thread": "1", "time": 2.0, "started": 1.0,
            "kind": usage.ANSWERED, "cost": cost}  # fmt: skip


def in_flight(number: int, bound: float) -> dict[str, Any]:
    return {"event": "start", "id": str(number), "thread": "1", "time": 1.0, "cost_bound": bound}


def test_all_money_counts(tmp_path: Path) -> None:
    """Finished, running and retried attempts, calls in flight, and what runs will still cost."""
    made = limited(tmp_path, 1.0)
    runs = made.runs
    synthetic.write_run(made, runs[0], "pass", synthetic.BEGAN, synthetic.Words())  # 0.03
    attempt(made, runs[1], 1, "ended", answered(1, 0.2))
    attempt(made, runs[1], 2, "running", answered(2, 0.01), in_flight(3, 0.05))
    attempt(made, runs[2], 1, "interrupted", in_flight(4, 0.07))
    budget.save_assumptions(made, {runs[1].experiment.run_name: 0.5})
    now = budget.read_position(made)
    assert now is not None
    # A finished run's bound counts too: 0.06 of it.
    assert now.known == pytest.approx(0.03 + 0.2 + 0.01)
    assert now.open == pytest.approx(0.03 + 0.05 + 0.07)
    mean = forecast.mean(0.5, [0.03])
    assert mean is not None
    assert now.expected == pytest.approx(mean - 0.06)
    assert now.running == 1
    assert now.reached == (now.known + now.open + now.expected > 1.0)
    assert "2 running" not in str(now)


def test_replayed_and_adopted_runs_cost_nothing(tmp_path: Path) -> None:
    made = limited(tmp_path)
    for run, label in zip(made.runs, ("replay", "adopted"), strict=False):
        synthetic.write_run(made, run, "pass", synthetic.BEGAN, synthetic.Words())
        path = run.folder(made.results).result
        document = json.loads(path.read_text())
        document["workflow"][label] = True
        path.write_text(json.dumps(document))
    assert budget.read_spending(made.results) == budget.Spending()


def test_without_a_budget_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = limited(tmp_path, None)
    monkeypatch.setattr(budget, "read_spending", lambda _: pytest.fail("read"))
    with budget.admission(made, made.runs[0]) as refusal:
        assert refusal == ""


def test_two_runs_do_not_start_on_the_same_money(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits until the first is noted, then until it has finished, and starts then."""
    monkeypatch.setattr(budget, "POLL_SECONDS", 0.01)
    made = limited(tmp_path, 0.4)
    first, second = made.runs[:2]
    budget.save_assumptions(made, {first.experiment.run_name: 0.5})
    said: list[str] = []

    def other() -> None:
        with budget.admission(made, second) as refusal:
            said.append(refusal)

    with budget.admission(made, first) as refusal:
        assert refusal == ""
        waiting = threading.Thread(target=other)
        waiting.start()
        time.sleep(0.3)
        assert said == []
        attempt(made, first, 1, "running")
    time.sleep(0.3)
    assert said == []
    # It was cheaper than expected: there is money left after all.
    synthetic.write_run(made, first, "pass", synthetic.BEGAN, synthetic.Words())
    waiting.join(20)
    assert said == [""]


def test_the_budget_waits_for_evaluations_then_says_what_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(budget, "QUIET_SECONDS", 0.5)
    made = limited(tmp_path, 0.01)
    done = made.runs[0]
    synthetic.write_run(made, done, "pass", synthetic.BEGAN, synthetic.Words())
    evaluation = done.folder(made.results).eval
    document = evaluation.read_text()
    evaluation.unlink()
    budget.save_assumptions(made, {one.run_name: 0.5 for one in made.experiments})
    said: list[str] = []

    def run() -> None:
        with budget.admission(made, made.runs[1]) as refusal:
            said.append(refusal)

    with locks.claim(made.results.claims, f"eval {done.key}", 1):
        waiting = threading.Thread(target=run)
        waiting.start()
        time.sleep(1.0)
        assert said == []
        evaluation.write_text(document)
    waiting.join(20)
    (message,) = said
    assert "Budget reached" in message
    assert "149 runs remain" in message
    assert "limits.budget_usd" in message
    assert "finished runs are kept" in message


def test_a_retry_of_a_halted_session_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later try at any run ends at once, without an attempt."""
    monkeypatch.setattr(budget, "QUIET_SECONDS", 0.0)
    made = limited(tmp_path, 0.001)
    attempt(made, made.runs[0], 1, "ended", answered(1, 0.5))
    codes = [
        run_job.perform(made, run, run_job.Try(number, number == 3))
        for run in made.runs[:2]
        for number in (1, 2, 3)
    ]
    assert codes == [run_job.HALTED] * 6
    assert [len(run.folder(made.results).attempt_numbers()) for run in made.runs[:2]] == [1, 0]


def test_models_without_a_price_are_named(tmp_path: Path) -> None:
    made = limited(tmp_path)
    names = [one.run_name for one in made.experiments]
    assert budget.find_uncounted(made, {names[0]: 0.3, names[1]: None}) == [names[1]]


def test_budget_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(config.UserError, match=r"limits\.budget_usd"):
        limited(tmp_path, 0.0)


def test_an_event_is_sent_once_per_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COHERE_API_KEY", "a-key")
    command, target = listener(tmp_path)
    made = limited(tmp_path, notify=command)
    synthetic.write_run(made, made.runs[0], "pass", synthetic.BEGAN, synthetic.Words())
    assert notification.send(made, notification.HALTED, "auth")
    assert not notification.send(made, notification.HALTED, "auth")
    notification.session_ended(made, success=False)
    halted, ended = said(target)
    assert (halted["schema"], halted["event"], halted["message"]) == (1, "halted", "auth")
    assert (ended["event"], ended["success"]) == ("ended", False)
    assert ended["runs"] == {
        "total": 150, "pass": 1, "fail": 0, "infra_error": 0, "unfinished": 149,
    }  # fmt: skip
    assert ended["cost_usd"] == pytest.approx(0.03)
    assert ended["budget_usd"] == 1.0
    notification.reset(made)
    assert notification.send(made, notification.HALTED, "auth")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/nowhere/to/be/found"], "No such file"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit code 3"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "no end after 1 s"),
        (["true\0"], "null byte"),
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
    made = limited(tmp_path, notify=command)
    assert not notification.send(made, notification.ENDED, "x")
    out = capsys.readouterr().out
    assert words in out
    assert "The session is not affected." in out


def test_a_command_is_a_list_of_words(tmp_path: Path) -> None:
    with pytest.raises(config.UserError, match="notify"):
        limited(tmp_path, notify="mail -s done me@example.org")
    with pytest.raises(config.UserError, match="notify: the first word is empty"):
        limited(tmp_path, notify=[" "])


def test_a_long_wait_at_the_circuit_breaker_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(circuit_breaker, "PROBE_SECONDS", 0)
    command, target = listener(tmp_path)
    made = limited(tmp_path, notify=command, breaker={"notify_minutes": 0})
    obstacles = iter(["the provider does not answer", "the provider does not answer", ""])
    monkeypatch.setattr(circuit_breaker, "_obstacle", lambda *_: next(obstacles))
    made.results.state.mkdir(parents=True)
    with circuit_breaker.admission(made, made.runs[0]):
        pass
    (event,) = said(target)
    assert event["event"] == "waiting"
    assert "the provider does not answer" in event["message"]


def test_a_drained_session_is_halted_for_its_jobs_alone(tmp_path: Path) -> None:
    made = limited(tmp_path, None)
    other = processes.Process("another-host", 1, "x")
    assert session_state.declare_halt(
        made.results, "", session_state.DRAIN, session_state.DRAINING, other
    )
    assert session_state.halt_message(made.results, other) == session_state.DRAINING
    assert session_state.halt_message(made.results) is None
