"""The live status: counts, cost and problems from files that a test has written."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic
import synthetic_tables
from rich.console import Console
from rich.table import Table

from commands import status
from commands.table import print_tables
from cooperflow import formats, processes
from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import Results
from cooperflow.outcomes import usage
from cooperflow.processes import Process
from cooperflow.session import progress
from cooperflow.tables import run_table


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return synthetic.make_plan(tmp_path / "results", "flash")


def write_attempt(
    plan: Plan, run: Run, process: str, calls: list[dict[str, Any]], state: str = "running"
) -> None:
    folder = run.folder(plan.results).attempt(1)
    folder.mkdir(parents=True)
    record = {"number": 1, "state": state, "started": time.time() - 60, "process": process}
    if state == "ended":
        record |= {"outcome": "infra_error", "reason": "rate_limited"}
    (folder / "attempt.json").write_text(json.dumps(record))
    (folder / "calls.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))


def call(number: int, kind: str, cost: float = 0.02) -> dict[str, Any]:
    now = time.time() - 50 + number
    return {"event": "end", "id": str(number), "thread": "1", "time": now, "started": now - 1,
            "kind": kind, "cost": cost}  # fmt: skip


def text_of(plan: Plan, width: int = 130) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(status.render(progress.Reader(plan).status(), width))
    return console.export_text()


def test_status_before_the_first_run(plan: Plan) -> None:
    now = progress.Reader(plan).status()
    assert [experiment.states[progress.WAITING] for experiment in now.experiments] == [50, 50, 50]
    assert now.problems == []
    assert now.seconds_left is None
    assert "no session is running" in text_of(plan)


def test_counts_cost_and_expected_cost(plan: Plan) -> None:
    solo = plan.runs[:50]
    for run, kind in zip(solo[:10], ["pass"] * 6 + ["fail"] * 3 + ["infra_error"], strict=True):
        synthetic.write_run(plan, run, kind, synthetic.BEGAN, synthetic.Words())
    solo[9].folder(plan.results).eval.unlink()
    process = str(processes.this_process())
    write_attempt(plan, solo[10], process, [call(1, "answered"), call(2, "answered")])
    now = progress.Reader(plan).status()
    experiment = now.experiments[0]
    assert (experiment.states[progress.DONE], experiment.states[progress.TO_EVALUATE]) == (9, 1)
    assert (experiment.states[progress.RUNNING], experiment.states[progress.WAITING]) == (1, 39)
    assert dict(experiment.outcomes) == {"pass": 6, "fail": 3}
    assert experiment.pass_rate == pytest.approx(6 / 9, abs=1e-6)
    assert experiment.cost == pytest.approx(10 * 0.03 + 0.04)
    assert experiment.expected_cost == pytest.approx(10 * 0.03 + 40 * 0.03)
    # The others have no finished run yet: the first experiment serves as their sample.
    assert now.experiments[1].expected_cost == pytest.approx(50 * 0.03)
    assert now.seconds_left == pytest.approx((40 + 50 + 50) * 95)
    assert [a.steps for a in now.active] == [2]
    assert "6" in text_of(plan)


def test_problems_are_reported(plan: Plan) -> None:
    process = processes.this_process()
    killed = Process(process.host, process.pid, "another boot:1")
    limited = [call(1, "answered"), call(2, usage.RATE_LIMITED), call(3, usage.RATE_LIMITED)]
    write_attempt(plan, plan.runs[0], str(process), limited)
    write_attempt(plan, plan.runs[1], str(killed), [call(1, "answered")])
    write_attempt(plan, plan.runs[2], str(process), [call(1, usage.RATE_LIMITED)], state="ended")
    synthetic.write_run(plan, plan.runs[3], "infra_error", synthetic.BEGAN, synthetic.Words())
    elsewhere = Process("another-host", 1, "x")
    old = [{**call(1, "answered"), "time": time.time() - 7200}]
    write_attempt(plan, plan.runs[4], str(elsewhere), old)
    attempt = plan.runs[4].folder(plan.results).attempt(1) / "attempt.json"
    record = json.loads(attempt.read_text())
    attempt.write_text(json.dumps({**record, "started": time.time() - 8000}))
    problems = "\n".join(progress.Reader(plan).status().problems)
    assert f"{plan.runs[0].key}: attempt 1: rate_limited x 2" in problems
    assert f"{plan.runs[1].key}: attempt 1 was killed" in problems
    assert "1 runs will be retried after rate_limited." in problems
    assert "1 runs ended as infra_error (rate_limited x 1)" in problems
    assert f"{plan.runs[4].key}: attempt 1: no model call for 120 min." in problems


def test_text_of_a_provider_does_not_move_the_cursor(plan: Plan) -> None:
    plan.results.state.mkdir(parents=True)
    plan.results.halt.write_text(json.dumps({"message": "quota\x1b[2J [red]used[/red] up"}))
    text = text_of(plan)
    assert "\x1b" not in text
    assert "[red]used[/red] up" in text


def test_the_session_process_is_named(plan: Plan) -> None:
    plan.results.state.mkdir(parents=True)
    process = processes.this_process()
    holder = {
        "process": str(process),
        "pid": process.pid,
        "host": process.host,
        "since": "2026-01-01 10:00:00",
    }
    plan.results.lock.write_text(json.dumps(holder))
    assert f"session: process {process.pid} on {process.host}" in text_of(plan)
    holder["process"] = str(Process(process.host, process.pid, "another boot:1"))
    plan.results.lock.write_text(json.dumps(holder))
    assert "no session is running" in text_of(plan)


def test_a_second_reading_reads_only_changed_files(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in plan.runs:
        synthetic.write_run(plan, run, "pass", synthetic.BEGAN, synthetic.Words(), steps=1)
    reader = progress.Reader(plan)
    first = reader.status()
    paths: list[Path] = []
    read_json = progress.atomic_io.read_json
    monkeypatch.setattr(
        progress.atomic_io, "read_json", lambda p: (paths.append(p), read_json(p))[1]
    )
    assert reader.status().experiments == first.experiments
    assert not [path for path in paths if path.name in ("result.json", "eval.json")]


@pytest.mark.parametrize("width", [60, 80, 116, 200])
def test_no_line_is_wider_than_the_terminal(plan: Plan, width: int) -> None:
    synthetic.write_run(plan, plan.runs[0], "fail", synthetic.BEGAN, synthetic.Words())
    assert max(map(len, text_of(plan, width).splitlines())) <= width


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
    runs = synthetic_tables.random(1).assign(run_name=name).head(3)
    summary = run_table.summary_table(runs)
    console = Console(width=width, record=True, file=io.StringIO())
    print_tables(Results(Path("results")), runs, summary, console)
    assert console.export_text().count(name) == len(summary) + len(runs)


def test_pending_evaluations_of_own_features_are_listed(plan: Plan) -> None:
    """One coop run is evaluated alone, one waits for it, the others for their run."""
    coop = [run for run in plan.runs if run.experiment.setting.mode == "coop"]
    for run in coop[:2]:
        synthetic.write_run(plan, run, "pass", synthetic.BEGAN, synthetic.Words())
    coop[1].folder(plan.results).own.unlink()
    assert progress.Reader(plan).status().own_features == progress.OwnFeatures(1, 1, len(coop))
    line = f"1 of {len(coop)} coop runs have each patch evaluated alone, 1 pending"
    assert line in text_of(plan)
    assert f"{len(coop) - 2} after their run" in text_of(plan)


def test_a_later_reader_reads_only_changed_files(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in plan.runs[:3]:
        synthetic.write_run(plan, run, "pass", synthetic.BEGAN, synthetic.Words())
    first = progress.Reader.open(plan)
    first.status()
    first.save()
    assert not plan.results.state.exists()  # a session makes it, for its own user
    plan.results.state.mkdir()
    before = first.status()
    first.save()

    paths: list[Path] = []
    read_json = progress.atomic_io.read_json

    def count(path: Path) -> Any:
        if path.name in ("result.json", "eval.json"):
            paths.append(path)
        return read_json(path)

    monkeypatch.setattr(progress.atomic_io, "read_json", count)
    later = progress.Reader.open(plan)
    assert later.status().experiments == before.experiments
    waiting = [run.folder(plan.results).result for run in plan.runs[3:]]
    assert paths == waiting
    # A verdict that changed is read again, and saved.
    changed = plan.runs[0].folder(plan.results)
    synthetic.write_run(plan, plan.runs[0], "fail", synthetic.BEGAN, synthetic.Words())
    paths.clear()
    now = later.status()
    assert changed.eval in paths
    assert dict(now.experiments[0].outcomes) == {"pass": 2, "fail": 1}
    later.save()
    assert progress.Reader.open(plan).status().experiments == now.experiments


def test_findings_are_saved_with_the_table_they_describe(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in plan.runs:
        synthetic.write_run(plan, run, "pass", synthetic.BEGAN, synthetic.Words())
    run_table.perform(plan)
    plan.results.state.mkdir(exist_ok=True)
    first = progress.Reader.open(plan)
    sentences = first.status().findings
    assert sentences
    first.save()
    reads: list[Path] = []
    read_runs = run_table.read_runs
    monkeypatch.setattr(run_table, "read_runs", lambda path: reads.append(path) or read_runs(path))
    assert progress.Reader.open(plan).status().findings == sentences
    assert not reads
    smaller_plan = dataclasses.replace(plan, pairs=plan.pairs[:10])
    progress.Reader.open(smaller_plan).status()
    assert len(reads) == 1
    run_table.perform(plan)
    progress.Reader.open(plan).status()
    assert len(reads) == 2


def test_a_damaged_or_foreign_document_is_ignored(plan: Plan) -> None:
    before = progress.Reader(plan).status()
    other = '{"schema": 1, "finished": {"%s": [[1, 2], {"colour": "red"}]}, "findings": null}'
    key = plan.runs[0].key
    for text in ("{", '{"schema": 0, "finished": 3}', "[]", '{"schema": 1}', other % key):
        plan.results.progress.parent.mkdir(parents=True, exist_ok=True)
        plan.results.progress.write_text(text)
        assert progress.Reader.open(plan).status().experiments == before.experiments
