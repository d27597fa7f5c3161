"""What is passed on names no path of this machine, and a recording replays from anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from cooperflow import layout
from cooperflow.archive import provenance, recording
from cooperflow.experiment import config, plan


def _plan(tmp_path: Path) -> plan.Plan:
    return plan.make(
        config.load([Path("config/demo.yaml")]).model_copy(
            update={"results": str(tmp_path / "my results")}
        )
    )


def test_paths_are_replaced_by_what_they_stand_for(tmp_path: Path) -> None:
    made = _plan(tmp_path)
    places = provenance.PortablePaths.of(made)
    root, clone = made.results.root, layout.REPOSITORY
    text = f'File "{clone}/scripts/run.py" {root}/runs/a {clone}-other {clone} /workspace/repo'
    clean = places.text(text)
    assert clean == f'File "./scripts/run.py" results/runs/a {clone}-other . /workspace/repo'
    log = json.dumps({"log": f"{root}/log"}).encode()
    assert json.loads(places.data(log)) == {"log": "results/log"}
    assert places.data(b"\xff\x00") == b"\xff\x00"


def test_common_folders_are_no_machines() -> None:
    places = provenance.PortablePaths.named([("/", "results"), ("/workspace", "."), ("/tmp", "x")])
    assert places.text("/workspace/repo /tmp/x /") == "/workspace/repo /tmp/x /"


def test_provenance_names_no_path(tmp_path: Path) -> None:
    made = _plan(tmp_path)
    text = json.dumps(provenance.collect(made))
    assert str(tmp_path) not in text and str(layout.REPOSITORY) not in text


def test_a_recording_is_replayed_from_where_it_lies(tmp_path: Path) -> None:
    made = _plan(tmp_path)
    written = recording.replay_config(made, tmp_path / "recorded")
    assert str(tmp_path) not in yaml.safe_dump(written)
    moved = tmp_path / "elsewhere"
    (moved / "replay").mkdir(parents=True)
    names = [name for name, model in written["models"].items() if model]
    for name in names:
        (moved / written["models"][name]["replay"].rpartition("/")[2]).mkdir(exist_ok=True)
    rows = [f"{p.repo},{p.task_id},{p.features[0]},{p.features[1]}" for p in made.pairs]
    (moved / "pairs.csv").write_text("\n".join(["repo,task_id,feature_a,feature_b", *rows]) + "\n")
    (moved / "replay.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    again = plan.make(config.load([moved / "replay.yaml"]))
    assert again.pairs == made.pairs
    for name in names:
        model = again.config.models[name]
        assert model is not None and model.replay is not None
        assert Path(model.replay).is_dir() and Path(model.replay).parent == moved.resolve()
