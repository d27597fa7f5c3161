"""Shared files without paths of this machine, and recordings that replay from any folder."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from commands import record
from cooperflow import layout
from cooperflow.archive import provenance
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning


def _plan(tmp_path: Path) -> planning.Plan:
    return planning.make(
        config.load([Path("config/demo.yaml")]).model_copy(
            update={"results": str(tmp_path / "my results")}
        )
    )


def test_paths_are_replaced_by_portable_names(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    places = provenance.PortablePaths.of(plan)
    root, clone = plan.results.root, layout.REPOSITORY
    text = f'File "{clone}/scripts/run.py" {root}/runs/a {clone}-other {clone} /workspace/repo'
    clean = places.text(text)
    assert clean == f'File "./scripts/run.py" results/runs/a {clone}-other . /workspace/repo'
    log = json.dumps({"log": f"{root}/log"}).encode()
    assert json.loads(places.data(log)) == {"log": "results/log"}
    assert places.data(b"\xff\x00") == b"\xff\x00"


def test_common_folders_are_not_replaced() -> None:
    places = provenance.PortablePaths.named([("/", "results"), ("/workspace", "."), ("/tmp", "x")])
    assert places.text("/workspace/repo /tmp/x /") == "/workspace/repo /tmp/x /"


def test_provenance_names_no_path(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    text = json.dumps(provenance.collect(plan))
    assert str(tmp_path) not in text and str(layout.REPOSITORY) not in text


def test_a_moved_recording_is_replayed_from_its_new_folder(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    config_document = record.replay_config(plan, tmp_path / "recorded")
    assert str(tmp_path) not in yaml.safe_dump(config_document)
    new_folder = tmp_path / "elsewhere"
    (new_folder / "replay").mkdir(parents=True)
    names = [name for name, model in config_document["models"].items() if model]
    for name in names:
        (new_folder / config_document["models"][name]["replay"].rpartition("/")[2]).mkdir(
            exist_ok=True
        )
    rows = [f"{p.repo},{p.task_id},{p.features[0]},{p.features[1]}" for p in plan.pairs]
    (new_folder / "pairs.csv").write_text(
        "\n".join(["repo,task_id,feature_a,feature_b", *rows]) + "\n"
    )
    (new_folder / "replay.yaml").write_text(yaml.safe_dump(config_document, sort_keys=False))
    reloaded = planning.make(config.load([new_folder / "replay.yaml"]))
    assert reloaded.pairs == plan.pairs
    for name in names:
        model = reloaded.config.models[name]
        assert model is not None and model.replay is not None
        assert Path(model.replay).is_dir() and Path(model.replay).parent == new_folder.resolve()
