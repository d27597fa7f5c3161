"""Fixtures of the tests with real services: copies of the demo data set, small plans."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cooperflow import layout
from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Plan

DEMO = layout.REPOSITORY / "demo" / "dataset"
SETTINGS = {"solo": ["--setting", "solo"], "coop-comm": ["--setting", "coop"]}

PlanMaker = Callable[..., Plan]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A copy of the demo's data set, to be broken at will."""
    copy = tmp_path / "dataset"
    shutil.copytree(DEMO, copy)
    return copy


def document(root: Path, tasks: Sequence[tuple[str, int, list[list[int]]]]) -> str:
    """Write a subset file and return its path."""
    path = root / "subset.json"
    rows = [{"repo": repo, "task_id": task, "pairs": pairs} for repo, task, pairs in tasks]
    path.write_text(json.dumps({"tasks": rows}))
    return str(path)


@pytest.fixture
def make_plan(tmp_path: Path, dataset: Path) -> PlanMaker:
    """Make a plan over the copy of the demo's data set."""

    def make(tasks: Sequence[tuple[str, int, list[list[int]]]] | None = None, **keys: Any) -> Plan:
        subset = document(tmp_path, tasks) if tasks else "demo"
        raw: dict[str, Any] = {
            "results": str(tmp_path / "results"),
            "dataset": {"dir": str(dataset), "subset": subset},
            "models": {"replay": {"model": "command-a-03-2025", "replay": "demo/recordings"}},
            "settings": SETTINGS,
        }
        raw["dataset"].update(keys.pop("dataset", {}))
        return plan.make(config.parse({**raw, **keys}))

    return make
