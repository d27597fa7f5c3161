"""Start of a session: its plan and estimate, retried attempts, an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic

from cooperflow import atomic_io, layout
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.session import model_check, session_start
from cooperflow.session.checks import Work


def test_the_plan_names_what_the_session_does(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    text = session_start.plan_text(plan, Work(True, [], [], tables=False, pulls=3), 0)
    assert "images to verify: 3 of" in text
    assert "run name" not in text
    text = session_start.plan_text(plan, Work(False, [], [], oracles=4, tables=False), 0)
    assert "oracle evaluations pending: 4" in text
    assert "run name" not in text


def test_an_adopting_session_does_not_ask_for_adoption(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    raw = plan.config.model_dump(mode="json")
    raw["models"]["theirs"] = {"model": "m", "adopt": {"solo": str(tmp_path / "theirs")}}
    adopting_plan = planning.make(config.parse(raw))
    words = "Not adopted yet: theirs-solo. Run `snakemake adopt`."
    assert words in session_start.plan_text(adopting_plan, Work(False, [], []), 0)
    assert "dopt" not in session_start.plan_text(
        adopting_plan, Work(False, [], [], tables=False, adopting=True), 0
    )


def test_runs_that_are_restored_are_not_in_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--delete-all-output` removes result.json and leaves the attempts."""
    price = {"known": True, "price": [2.5e-6, 1e-5]}
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: price)
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    runs = plan.runs[:2]
    for run in runs:
        result = run.folder(plan.results).attempt(1) / layout.RESULT
        atomic_io.write_json(result, {"workflow": {}})
    text = session_start.plan_text(plan, Work(False, runs, runs), 0)
    assert "2 of these runs are restored from their attempts at no cost." in text
    assert "$" not in text
    # A retired attempt is not restored: the run is paid for again.
    for run in runs:
        result = run.folder(plan.results).attempt(1) / layout.RESULT
        result.rename(result.with_name(layout.RETIRED))
    assert "restored" not in session_start.plan_text(plan, Work(False, runs, runs), 0)


@pytest.mark.parametrize(
    ("table", "count"),
    [
        ("run_name,infra_error\na-solo,2\na-coop,1\n", 3),
        ("run_name\na-solo\n", 0),
        ("run_name,infra_error\na-solo,x\n", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_the_infra_errors_of_the_last_table_are_counted(
    make_plan: Any, table: str | None, count: int
) -> None:
    plan = make_plan()
    if table is not None:
        plan.results.summary_csv.parent.mkdir(parents=True)
        plan.results.summary_csv.write_text(table)
    assert session_start.count_infra_errors(plan) == count
