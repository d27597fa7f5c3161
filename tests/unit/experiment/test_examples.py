"""The example configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.layout import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "config" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_each_example_is_a_config(path: Path) -> None:
    plan = planning.make(config.load([path]))
    assert plan.runs
    for model in filter(None, plan.config.models.values()):
        assert model.api_key
        assert model.api_key in path.read_text() + "COHERE_API_KEY"
    assert f"--configfile config/examples/{path.name}" in path.read_text()
