"""The two tables of runs: written one after the other, and read as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic
import synthetic_tables

from cooperflow import atomic_io
from cooperflow.errors import UserError
from cooperflow.experiment import fingerprint
from cooperflow.tables import comparison, run_table


def test_runs_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    runs = synthetic_tables.random(1).assign(caveat="", model="null", features="1,2")
    runs.loc[0, "outcome"] = "infra_error"
    runs["feature1_passed"] = runs["feature1_passed"].astype(object)
    runs.loc[0, "feature1_passed"] = None
    runs.to_csv(tmp_path / "runs.csv", index=False)
    back = run_table.read_runs(tmp_path / "runs.csv")
    assert back["caveat"].eq("").all()
    assert back["model"].eq("null").all()
    assert comparison.table(back).equals(comparison.table(runs))
    assert back["task_id"].tolist() == runs["task_id"].tolist()


def test_an_older_runs_csv_is_reported(tmp_path: Path) -> None:
    synthetic_tables.random(1).drop(columns="repeat").to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(UserError, match="lacks repeat"):
        run_table.read_runs(tmp_path / "runs.csv")


def test_tables_that_were_killed_between_the_two_are_of_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a session of the plan before would keep the other plan's runs.csv."""
    small, large = (synthetic.make_plan(tmp_path, "flash", first=count) for count in (1, 2))
    for plan in (large, small):
        synthetic.finish(plan)
    assert fingerprint.tables_match(small)
    write = atomic_io.write_text

    class Killed(BaseException):
        pass

    def kill(path: Path, text: str) -> None:
        if path == large.results.summary_csv:
            raise Killed
        write(path, text)

    monkeypatch.setattr(atomic_io, "write_text", kill)
    with pytest.raises(Killed):
        run_table.make(large)
    assert not fingerprint.tables_match(small)
