"""The data set from a stand-in of the hub: interrupted, resumed, checked and filtered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import SHA, Hub
from serving import serve

from cooperflow import environment
from cooperflow.experiment import config, dataset
from cooperflow.layout import REPOSITORY

A, B = "demo_inventory_task", "demo_textkit_task"


@pytest.fixture
def hub(dataset: Path) -> Iterator[tuple[Hub, str]]:
    stand_in = Hub(dataset)
    with serve(stand_in.app()) as url:
        yield stand_in, url


def _fetch(
    tmp_path: Path, url: str, dataset_keys: dict[str, Any] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Call the rule's script as Snakemake does; the client's variable names the hub."""
    raw = {
        "results": str(tmp_path / "results"),
        "dataset": {
            "dir": str(tmp_path / "fetched"),
            "subset": str(tmp_path / "subset.json"),
            "lock": str(tmp_path / "lock.json"),
            "revision": None,  # the stand-in has not the pinned one
            **(dataset_keys or {}),
        },
        "models": {"m": {"model": "command-a-03-2025"}},
        "settings": {"solo": ["--setting", "solo"]},
    }
    pairs = [{"repo": "pallets_click_task", "task_id": 2068, "pairs": [[1, 2]]}]
    (tmp_path / "subset.json").write_text(json.dumps({"tasks": pairs}))
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "dataset_checked.py")],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            environment.CONFIG: config.parse(raw).model_dump_json(),
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **more,
        },
    )


@pytest.fixture
def published(dataset: Path) -> Path:
    """The copy of the demo's data set, one task under the name of a published one."""
    task = dataset / "pallets_click_task" / "task2068"
    task.parent.mkdir()
    shutil.copytree(dataset / B / "task2", task)
    return dataset


@pytest.mark.slow
def test_an_interrupted_fetch_is_resumed(
    tmp_path: Path, published: Path, hub: tuple[Hub, str]
) -> None:
    stand_in, url = hub
    stand_in.refuse_after = 9
    first = _fetch(tmp_path, url)
    assert first.returncode == 1, first.stdout
    assert "the download ended early" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    assert not (tmp_path / "fetched").exists()
    assert not (tmp_path / "results" / "dataset.json").exists()
    got = len(set(stand_in.served))
    assert got >= 9
    stand_in.served.clear()
    stand_in.refuse_after = None
    second = _fetch(tmp_path, url)
    assert second.returncode == 0, second.stdout + second.stderr
    files = [p for p in published.rglob("*") if p.is_file()]
    assert len(stand_in.served) == len(files) - got  # nothing is fetched twice
    for path in files:
        copy = tmp_path / "fetched" / path.relative_to(published)
        assert copy.read_bytes() == path.read_bytes()
    document = json.loads((tmp_path / "results" / "dataset.json").read_text())
    assert document["source"] == "fetched"
    assert set(document["tasks"]) == {"pallets_click_task/2068"}
    assert document["hash"] == dataset.combined_hash(document["tasks"])
    assert document["revision"] == document["pinned"] == SHA
    lock = json.loads((tmp_path / "lock.json").read_text())
    assert lock["revision"] == SHA
    assert lock["tasks"]["pallets_click_task/2068"] == document["tasks"]["pallets_click_task/2068"]
    assert len(lock["tasks"]) > len(document["tasks"])
    # A newer revision is named, and not taken.
    stand_in.newest = "f" * 40
    third = _fetch(tmp_path, url)
    assert third.returncode == 0, third.stdout + third.stderr
    assert f"the hub has a newer revision, {'f' * 40}; {SHA} stays in use" in third.stdout
    # The config asks for another revision than the folder holds.
    fourth = _fetch(tmp_path, url, {"revision": "e" * 40})
    assert fourth.returncode == 1
    assert f"contains revision {SHA}, the config asks for {'e' * 40}" in fourth.stdout
    # A copy by hand has no revision; what differs from the pinned contents is listed per task.
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "fetched" / ".revision.json").unlink()
    changed = tmp_path / "fetched" / "pallets_click_task" / "task2068" / "runner.sh"
    changed.write_text(changed.read_text() + "\n")
    fifth = _fetch(tmp_path, url)
    assert fifth.returncode == 0, fifth.stdout + fifth.stderr
    assert "pallets_click_task/2068: its contents have another hash" in fifth.stdout
    document = json.loads((tmp_path / "results" / "dataset.json").read_text())
    assert (document["revision"], document["pinned"]) == (None, SHA)
    assert document["differs"] == ["pallets_click_task/2068"]


@pytest.mark.slow
def test_the_pinned_revision_is_fetched_and_no_other(
    tmp_path: Path, published: Path, hub: tuple[Hub, str]
) -> None:
    stand_in, url = hub
    stand_in.newest = "f" * 40
    (tmp_path / "lock.json").write_text(
        json.dumps({"schema": 1, "repository": "x/y", "revision": SHA, "tasks": {}})
    )
    result = _fetch(tmp_path, url)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"the hub has a newer revision, {'f' * 40}, which is not used" in result.stdout
    assert set(stand_in.revisions) == {SHA}
    unknown = _fetch(tmp_path, url, {"dir": str(tmp_path / "other"), "revision": "nowhere"})
    assert unknown.returncode == 1
    assert "dataset.revision: the hub's CooperBench/cooperbench-dataset" in unknown.stdout
    assert "has no revision nowhere" in unknown.stdout
    assert "`dataset: {revision: main}`" in unknown.stdout
    assert "Traceback" not in unknown.stdout + unknown.stderr


def test_without_a_network_both_ways_are_named(tmp_path: Path) -> None:
    result = _fetch(tmp_path, "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "`make dataset` fetches it" in result.stdout
    assert "dataset.dir" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
