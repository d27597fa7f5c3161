"""The live status: counts, cost and troubles from files that a test has written."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any

import made_runs
import pytest
import synthetic
from rich.console import Console
from rich.table import Table

from commands import status
from cooperflow import formats, processes
from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import Results
from cooperflow.outcomes import usage
from cooperflow.processes import Process
from cooperflow.session import progress
from cooperflow.tables import derived_tables, run_table


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    return synthetic.make_plan(tmp_path / "results", "flash")


def running(
    plan: Plan, run: Run, process: str, calls: list[dict[str, Any]], state: str = "running"
) -> None:
    place = run.folder(plan.results).attempt(1)
    place.mkdir(parents=True)
    record = {"number": 1, "state": state, "started": time.time() - 60, "process": process}
    if state == "ended":
        record |= {"outcome": "infra_error", "reason": "rate_limited"}
    (place / "attempt.json").write_text(json.dumps(record))
    (place / "calls.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))


def call(number: int, kind: str, cost: float = 0.02) -> dict[str, Any]:
    now = time.time() - 50 + number
    return {"event": "end", "id": str(number), "thread": "1", "time": now, "started": now - 1,
            "kind": kind, "cost": cost}  # fmt: skip


def text_of(plan: Plan, width: int = 130) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(status.view(progress.Reader(plan).status(), width))
    return console.export_text()


def test_nothing_has_begun(made: Plan) -> None:
    now = progress.Reader(made).status()
    assert [one.states[progress.WAITING] for one in now.experiments] == [50, 50, 50]
    assert now.problems == []
    assert now.seconds_left is None
    assert "no session is running" in text_of(made)


def test_counts_cost_and_what_is_expected(made: Plan) -> None:
    solo = made.runs[:50]
    for run, kind in zip(solo[:10], ["pass"] * 6 + ["fail"] * 3 + ["infra_error"], strict=True):
        synthetic.write_run(made, run, kind, synthetic.BEGAN, synthetic.Words())
    solo[9].folder(made.results).eval.unlink()
    me = str(processes.this_process())
    running(made, solo[10], me, [call(1, "answered"), call(2, "answered")])
    now = progress.Reader(made).status()
    one = now.experiments[0]
    assert (one.states[progress.DONE], one.states[progress.TO_EVALUATE]) == (9, 1)
    assert (one.states[progress.RUNNING], one.states[progress.WAITING]) == (1, 39)
    assert dict(one.outcomes) == {"pass": 6, "fail": 3}
    assert one.pass_rate == pytest.approx(6 / 9, abs=1e-6)
    assert one.cost == pytest.approx(10 * 0.03 + 0.04)
    assert one.expected_cost == pytest.approx(10 * 0.03 + 40 * 0.03)
    # The others have no finished run yet: the first experiment serves as their sample.
    assert now.experiments[1].expected_cost == pytest.approx(50 * 0.03)
    assert now.seconds_left == pytest.approx((40 + 50 + 50) * 95)
    assert [a.steps for a in now.active] == [2]
    assert "6" in text_of(made)


def test_what_is_wrong_is_told(made: Plan) -> None:
    me = processes.this_process()
    gone = Process(me.host, me.pid, "another boot:1")
    limited = [call(1, "answered"), call(2, usage.RATE_LIMITED), call(3, usage.RATE_LIMITED)]
    running(made, made.runs[0], str(me), limited)
    running(made, made.runs[1], str(gone), [call(1, "answered")])
    running(made, made.runs[2], str(me), [call(1, usage.RATE_LIMITED)], state="ended")
    synthetic.write_run(made, made.runs[3], "infra_error", synthetic.BEGAN, synthetic.Words())
    elsewhere = Process("another-host", 1, "x")
    old = [{**call(1, "answered"), "time": time.time() - 7200}]
    running(made, made.runs[4], str(elsewhere), old)
    attempt = made.runs[4].folder(made.results).attempt(1) / "attempt.json"
    record = json.loads(attempt.read_text())
    attempt.write_text(json.dumps({**record, "started": time.time() - 8000}))
    told = "\n".join(progress.Reader(made).status().problems)
    assert f"{made.runs[0].key}: attempt 1: rate_limited x 2" in told
    assert f"{made.runs[1].key}: attempt 1 was killed" in told
    assert "1 runs will be retried after rate_limited." in told
    assert "1 runs ended as infra_error (rate_limited x 1)" in told
    assert f"{made.runs[4].key}: attempt 1: no model call for 120 min." in told


def test_words_of_a_provider_do_not_move_the_cursor(made: Plan) -> None:
    made.results.state.mkdir(parents=True)
    made.results.halt.write_text(json.dumps({"message": "quota\x1b[2J [red]used[/red] up"}))
    told = text_of(made)
    assert "\x1b" not in told
    assert "[red]used[/red] up" in told


def test_who_is_at_work(made: Plan) -> None:
    made.results.state.mkdir(parents=True)
    me = processes.this_process()
    holder = {"process": str(me), "pid": me.pid, "host": me.host, "since": "2026-01-01 10:00:00"}
    made.results.lock.write_text(json.dumps(holder))
    assert f"session: process {me.pid} on {me.host}" in text_of(made)
    holder["process"] = str(Process(me.host, me.pid, "another boot:1"))
    made.results.lock.write_text(json.dumps(holder))
    assert "no session is running" in text_of(made)


def test_a_second_look_reads_only_what_changed(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in made.runs:
        synthetic.write_run(made, run, "pass", synthetic.BEGAN, synthetic.Words(), steps=1)
    reader = progress.Reader(made)
    first = reader.status()
    read: list[Path] = []
    honest = progress.atomic_io.read_json
    monkeypatch.setattr(progress.atomic_io, "read_json", lambda p: (read.append(p), honest(p))[1])
    assert reader.status().experiments == first.experiments
    assert not [path for path in read if path.name in ("result.json", "eval.json")]


@pytest.mark.parametrize("width", [60, 80, 116, 200])
def test_no_line_is_wider_than_the_terminal(made: Plan, width: int) -> None:
    synthetic.write_run(made, made.runs[0], "fail", synthetic.BEGAN, synthetic.Words())
    assert max(map(len, text_of(made, width).splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80, 100])
def test_names_are_in_one_piece_on_a_narrow_terminal(width: int) -> None:
    name = "claude-sonnet-4.5-coop-nocomm-r2"
    table = Table(box=None, pad_edge=False)
    for heading in ("run name", "reason", "attempts", "cost so far"):
        table.add_column(heading)
    table.add_row(name, "api_unavailable", "12", "$0.1234")
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(formats.fit_table(table, width, ["attempts", "cost so far", "reason"]))
    lines = console.export_text().splitlines()
    assert any(name in line for line in lines)
    assert max(map(len, lines)) <= width
    if width < 80:
        return
    runs = made_runs.random(1).assign(run_name=name).head(3)
    summary = run_table.summary_table(runs)
    console = Console(width=width, record=True, file=io.StringIO())
    derived_tables.print_tables(Results(Path("results")), runs, summary, console)
    assert console.export_text().count(name) == len(summary) + len(runs)


def test_pending_evaluations_of_own_features_are_listed(made: Plan) -> None:
    """One coop run is evaluated alone, one waits for it, the others for their run."""
    coop = [run for run in made.runs if run.experiment.setting.mode == "coop"]
    for run in coop[:2]:
        synthetic.write_run(made, run, "pass", synthetic.BEGAN, synthetic.Words())
    coop[1].folder(made.results).own.unlink()
    assert progress.Reader(made).status().own_features == progress.OwnFeatures(1, 1, len(coop))
    line = f"1 of {len(coop)} coop runs have each patch evaluated alone, 1 pending"
    assert line in text_of(made)
    assert f"{len(coop) - 2} after their run" in text_of(made)


def test_a_later_reader_reads_only_what_changed(
    made: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in made.runs[:3]:
        synthetic.write_run(made, run, "pass", synthetic.BEGAN, synthetic.Words())
    first = progress.Reader.open(made)
    first.status()
    first.save()
    assert not made.results.state.exists()  # a session makes it, for its own user
    made.results.state.mkdir()
    before = first.status()
    first.save()

    read: list[Path] = []
    read_json = progress.atomic_io.read_json

    def count(path: Path) -> Any:
        if path.name in ("result.json", "eval.json"):
            read.append(path)
        return read_json(path)

    monkeypatch.setattr(progress.atomic_io, "read_json", count)
    later = progress.Reader.open(made)
    assert later.status().experiments == before.experiments
    waiting = [run.folder(made.results).result for run in made.runs[3:]]
    assert read == waiting
    # A verdict that changed is read again, and saved.
    changed = made.runs[0].folder(made.results)
    synthetic.write_run(made, made.runs[0], "fail", synthetic.BEGAN, synthetic.Words())
    read.clear()
    now = later.status()
    assert changed.eval in read
    assert dict(now.experiments[0].outcomes) == {"pass": 2, "fail": 1}
    later.save()
    assert progress.Reader.open(made).status().experiments == now.experiments


def test_findings_are_saved_with_the_table_they_describe(
    made: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in made.runs:
        synthetic.write_run(made, run, "pass", synthetic.BEGAN, synthetic.Words())
    run_table.perform(made)
    made.results.state.mkdir(exist_ok=True)
    first = progress.Reader.open(made)
    found = first.status().findings
    assert found
    first.save()
    reads: list[Path] = []
    read_runs = run_table.read_runs
    monkeypatch.setattr(run_table, "read_runs", lambda path: reads.append(path) or read_runs(path))
    assert progress.Reader.open(made).status().findings == found
    assert not reads
    fewer = dataclasses.replace(made, pairs=made.pairs[:10])
    progress.Reader.open(fewer).status()
    assert len(reads) == 1
    run_table.perform(made)
    progress.Reader.open(made).status()
    assert len(reads) == 2


def test_a_damaged_or_foreign_document_is_ignored(made: Plan) -> None:
    before = progress.Reader(made).status()
    other = '{"schema": 1, "finished": {"%s": [[1, 2], {"colour": "red"}]}, "findings": null}'
    key = made.runs[0].key
    for text in ("{", '{"schema": 0, "finished": 3}', "[]", '{"schema": 1}', other % key):
        made.results.progress.parent.mkdir(parents=True, exist_ok=True)
        made.results.progress.write_text(text)
        assert progress.Reader.open(made).status().experiments == before.experiments
