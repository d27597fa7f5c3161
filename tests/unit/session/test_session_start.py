"""Output of a session: its plan, retried attempts, an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic

from cooperflow import atomic_io, layout
from cooperflow.experiment import config, plan
from cooperflow.session import model_check, session_start
from cooperflow.session.checks import Work


def test_the_plan_names_what_the_session_does(tmp_path: Path) -> None:
    made = synthetic.make_plan(tmp_path / "results", "flash")
    text = session_start.plan_text(made, Work(True, [], [], tables=False, pulls=3), 0)
    assert "images to verify: 3 of" in text
    assert "run name" not in text
    text = session_start.plan_text(made, Work(False, [], [], oracles=4, tables=False), 0)
    assert "oracle evaluations pending: 4" in text
    assert "run name" not in text


def test_a_session_that_adopts_does_not_ask_for_it(tmp_path: Path) -> None:
    made = synthetic.make_plan(tmp_path / "results", "flash")
    raw = made.config.model_dump(mode="json")
    raw["models"]["theirs"] = {"model": "m", "adopt": {"solo": str(tmp_path / "theirs")}}
    adopted = plan.make(config.parse(raw))
    words = "Not adopted yet: theirs-solo. Run `snakemake adopt`."
    assert words in session_start.plan_text(adopted, Work(False, [], []), 0)
    assert "dopt" not in session_start.plan_text(
        adopted, Work(False, [], [], tables=False, adopting=True), 0
    )


def test_runs_that_are_restored_are_not_in_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--delete-all-output` removes result.json and leaves the attempts."""
    price = {"known": True, "price": [2.5e-6, 1e-5]}
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: price)
    made = synthetic.make_plan(tmp_path / "results", "flash")
    runs = made.runs[:2]
    for run in runs:
        kept = run.folder(made.results).attempt(1) / layout.RESULT
        atomic_io.write_json(kept, {"workflow": {}})
    text = session_start.plan_text(made, Work(False, runs, runs), 0)
    assert "2 of these runs are restored from their attempts at no cost." in text
    assert "$" not in text
    # A retired attempt is not restored: the run is paid for again.
    for run in runs:
        kept = run.folder(made.results).attempt(1) / layout.RESULT
        kept.rename(kept.with_name(layout.RETIRED))
    assert "restored" not in session_start.plan_text(made, Work(False, runs, runs), 0)
