"""The data set on disk: missing files, other contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cooperflow.errors import UserError
from cooperflow.experiment import dataset_fetch

A, B = "demo_inventory_task", "demo_textkit_task"


def test_what_lacks_is_named(make_plan: Any, dataset: Path) -> None:
    plan = make_plan()
    assert dataset_fetch.settle(plan)["source"] == "present"
    (dataset / A / "task1" / "runner.sh").unlink()
    (dataset / A / "task1" / "feature2" / "tests.patch").unlink()
    with pytest.raises(UserError, match=r"2 files are missing .*task1/runner.sh"):
        dataset_fetch.settle(plan)


def test_other_contents_are_told(
    make_plan: Any, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan()
    before = dataset_fetch.settle(plan)
    patch = dataset / A / "task1" / "feature1" / "tests.patch"
    patch.write_text(patch.read_text() + "\n")
    after = dataset_fetch.settle(plan)
    assert after["hash"] != before["hash"]
    assert f"{A}/1: other contents" in capsys.readouterr().out
