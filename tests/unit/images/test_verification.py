"""Images of tasks on an engine that fails meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import synthetic

from cooperflow import atomic_io
from cooperflow.engine import containers
from cooperflow.errors import EngineError
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.images import disk_space, verification


def _lose(*_: Any, **__: Any) -> None:
    raise requests.exceptions.ReadTimeout("Read timed out.")


@pytest.fixture
def lost_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers a ping, and then nothing."""
    images = SimpleNamespace(get=_lose, remove=_lose)
    client = SimpleNamespace(images=images, close=lambda: None)
    monkeypatch.setattr(containers, "engine", lambda *_: client)
    monkeypatch.setattr(containers, "image_id", lambda *_: "sha256:1")


@pytest.mark.usefixtures("lost_engine")
def test_an_engine_that_is_lost_during_a_verification_is_reported(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path, "flash", first=1)
    with pytest.raises(EngineError, match="Read timed out"):
        verification.fetch_and_verify(plan, plan.images[0])


@pytest.mark.usefixtures("lost_engine")
def test_an_image_that_takes_long_to_remove_fails_no_evaluation(tmp_path: Path) -> None:
    """Snakemake removes the documents of a job that fails, and starts it again."""
    shipped = synthetic.make_plan(tmp_path, "flash", first=1).config.model_dump()
    images = {**shipped["images"], "rolling": True}
    plan = planning.make(config.parse({**shipped, "images": images}))
    image = plan.images[0]
    atomic_io.write_json(plan.results.pending_images, {})
    atomic_io.write_json(plan.results.fetch_record(image), {"image": image, "id": "sha256:1"})
    assert not disk_space.remove_unneeded(plan, image)
