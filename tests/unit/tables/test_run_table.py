"""runs.csv, read as it was written."""

from __future__ import annotations

from pathlib import Path

import made_runs
import pytest

from cooperflow.errors import UserError
from cooperflow.tables import comparison, run_table


def test_runs_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    runs = made_runs.random(1).assign(caveat="", model="null", features="1,2")
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
    made_runs.random(1).drop(columns="repeat").to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(UserError, match="repeat is missing"):
        run_table.read_runs(tmp_path / "runs.csv")
