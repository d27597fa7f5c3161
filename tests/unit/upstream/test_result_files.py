"""Files of a run: counts of tests, failures, a team's metrics and tasks in the tables and pages."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from runner_outputs import (
    CARGO,
    COLLECTION,
    GO,
    GO_BUILD,
    GO_VERBOSE,
    JEST,
    NOT_APPLIED,
    PYTEST,
    VITEST,
    XDIST,
)

from cooperflow import atomic_io
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.report import build
from cooperflow.tables import communication_tables, run_table
from cooperflow.upstream import result_files
from cooperflow.upstream.result_files import Count


@pytest.mark.parametrize(
    ("output", "count", "failing", "first"),
    [
        (
            PYTEST,
            Count(1, 2),
            ("tests/test_a.py::test_two[a b]", "tests/test_b.py::test_three"),
            9,
        ),
        (COLLECTION, Count(0, 1), ("tests/test_a.py",), 0),
        (XDIST, Count(1, 1), ("tests/test_a.py::test_two",), None),
        (JEST, Count(15, 1), ("form \u203a submits once",), 0),
        (VITEST, Count(8, 1), ("src/form.test.ts > form > submits once",), 1),
        (GO, Count(1, 0, "packages"), (), None),
        (GO_VERBOSE, Count(1, 2), ("TestB", "TestB/empty"), 5),
        (GO_BUILD, Count(1, 1, "packages"), ("github.com/go-chi/chi/v5 [build failed]",), 1),
        (CARGO, Count(2, 1), ("eval::two",), 5),
        (NOT_APPLIED, Count(), (), 1),
        ("bash: command not found", Count(), (), None),
    ],
)
def test_output(output: str, count: Count, failing: tuple[str, ...], first: int | None) -> None:
    assert result_files.count_tests(output) == count
    assert result_files.failing_tests(output) == failing
    line = output[: result_files.first_failure(output)].count("\n")
    assert line == (first or 0)


def test_colours_change_nothing() -> None:
    coloured = PYTEST.replace("1 failed", "\x1b[31m\x1b[1m1 failed\x1b[0m").replace(
        "FAILED tests", "\x1b[31mFAILED\x1b[0m tests"
    )
    assert result_files.count_tests(coloured) == Count(1, 2)
    assert result_files.failing_tests(coloured) == result_files.failing_tests(PYTEST)


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        (GO_BUILD, True),
        ("error: could not compile `typst` (lib) due to 2 previous errors", True),
        ("ERROR: Could not find a version that satisfies the requirement x", True),
        (GO_VERBOSE, False),
        (PYTEST, False),
        (CARGO, False),
    ],
)
def test_a_failed_build_is_not_a_failed_test(output: str, failed: bool) -> None:
    assert result_files.build_failed(output) is failed


TEAM = {
    "team_features": {"task_list": True, "scratchpad": True, "mcp": False},
    "metrics": {
        "tasks_total": 3,
        "tasks_done": 2,
        "unowned_at_end": 0,
        "time_to_first_claim_seconds": 4.5,
        "claims_per_agent": {"agent1": 1},
    },
}
LOG = [
    {"kind": "create", "task_id": "t1", "by": "lead", "title": "<b>Feature 1</b>", "ts": 100.0},
    {"kind": "update", "task_id": "t1", "by": "agent1", "status": "done", "ts": 160.0},
    {"kind": "claim", "task_id": "t1", "by": "agent1", "ts": 104.5},
]
TASKS = [
    {
        "id": "t1",
        "title": "<b>Feature 1</b>",
        "owner": "agent1",
        "status": "done",
        "metadata": {"feature_id": 1, "assigned_to": "agent1"},
    }
]


def test_columns_and_changes() -> None:
    assert result_files.team_columns(TEAM) == {
        "team_features": "task_list;scratchpad",
        "team_tasks": 3,
        "team_tasks_done": 2,
        "team_unowned": 0,
        "team_first_claim_s": 4.5,
    }
    changes = result_files.task_changes(LOG, TASKS)
    assert [(c.seconds, c.agent, c.kind) for c in changes] == [
        (0.0, "lead", "create"),
        (4.5, "agent1", "claim"),
        (60.0, "agent1", "update"),
    ]
    assert {c.task for c in changes} == {"<b>Feature 1</b>"}


def test_documents_of_another_form_are_empty() -> None:
    for document in ({}, {"metrics": [], "team_features": "x"}, {"metrics": {"tasks_total": "n"}}):
        assert set(result_files.team_columns(document).values()) <= {"", None}
    assert result_files.task_changes(None, None) == []
    assert result_files.task_changes([3, {"kind": "claim", "ts": "x"}], {}) == [
        result_files.TaskChange(None, "", "claim", "", "")
    ]


def test_tables_and_the_run_page(tmp_path: Path) -> None:
    own = synthetic.make_plan(tmp_path / "results", "flash")
    raw = own.config.model_dump(mode="json")
    raw["dataset"]["first"] = 1
    raw["settings"] = {
        "solo": ["--setting", "solo"],
        "team": ["--setting", "team", "--git"],
    }
    plan = planning.make(config.parse(raw))
    for run in plan.runs:
        synthetic.write_run(plan, run, "pass", synthetic.BEGAN, synthetic.Words())
        atomic_io.write_json(
            plan.results.experiment(run.experiment.run_name),
            {"resolved": {"cooperbench": "0.0.29"}},
        )
    folder = plan.runs[1].folder(plan.results)
    document = json.loads(folder.result.read_text())
    folder.result.write_text(json.dumps({**document, **TEAM}))
    (folder.path / result_files.TASK_LOG).write_text(json.dumps(LOG))
    (folder.path / result_files.TASKS).write_text(json.dumps(TASKS))
    run_table.make(plan)
    rows = run_table.read_runs(plan.results.runs_csv).to_dict("records")
    assert [row["framework"] for row in rows] == ["mini_swe_agent_v2 (cooperbench 0.0.29)"] * 2
    assert [bool(row["git"]) for row in rows] == [False, True]
    assert [row["team_features"] for row in rows] == ["", "task_list;scratchpad"]
    assert pd.isna(rows[0]["team_tasks"])
    assert (rows[1]["team_tasks"], rows[1]["team_first_claim_s"]) == (3, 4.5)
    tables = communication_tables.collect(plan, run_table.read_runs(plan.results.runs_csv))
    changes = tables.team_tasks
    assert list(changes["number"]) == [1, 2, 3]
    assert set(changes["run_name"]) == {plan.runs[1].experiment.run_name}
    assert changes[["time_s", "agent", "change", "task", "detail"]].values.tolist() == [
        [0.0, "lead", "create", "<b>Feature 1</b>", "assigned to agent1"],
        [4.5, "agent1", "claim", "<b>Feature 1</b>", ""],
        [60.0, "agent1", "update", "<b>Feature 1</b>", "done"],
    ]
    by_path = communication_tables.tables_by_path(tables, plan.results)
    assert by_path[plan.results.team_tasks_csv] is changes
    build.build(plan)
    pages = {path: path.read_text() for path in (plan.results.report / "runs").rglob("*.html")}
    team_pages = [text for text in pages.values() if "Shared task list" in text]
    assert len(team_pages) == 1
    assert "&lt;b&gt;Feature 1" in team_pages[0]
    assert "2 of 3 tasks done, 0 without an owner" in team_pages[0]  # a zero is shown as such


def test_a_table_of_an_older_version_is_read(tmp_path: Path) -> None:
    own = synthetic.make_plan(tmp_path / "results", "flash")
    synthetic.finish(own)
    path = own.results.runs_csv
    old = pd.read_csv(path, keep_default_na=False).drop(
        columns=["framework", "git", *result_files.TEAM_COLUMNS]
    )
    old.to_csv(path, index=False)
    runs = run_table.read_runs(path)
    assert set(runs["team_features"]) == {""}
    assert not runs["git"].any()


@pytest.mark.parametrize(
    ("status", "error", "read"),
    [
        ("Error", "Exit status: submitted (exit_cost)", "CostLimitExceeded"),
        ("Error", "Exit status: exit_cost", "CostLimitExceeded"),
        ("Error", "Exit status: submitted (exit_context)", "ContextWindowExceeded"),
        ("Error", "Exit status: exit_format", "Ended"),
        ("Error", "Exit status: submitted (exit_api)", "Error"),
        ("Error", "Exit status: exit_environment_error", "Error"),
        ("Error", "the model wrote: Exit status: exit_cost", "Error"),
        ("Submitted", "", "Submitted"),
        (None, "", "Error"),
    ],
)
def test_exit_statuses_of_swe_agent(status: str | None, error: str, read: str) -> None:
    """Its adapter reports a limit as an error; only a failure of the infrastructure is one."""
    document = {"agent": {"status": status, "error": error, "steps": 3}}
    (end,) = result_files.agent_ends(document)
    assert end.status == read
