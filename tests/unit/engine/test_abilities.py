"""Abilities of an engine: enforced limits, the location of images, complete output."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from cooperflow.engine import abilities, containers, endpoint
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import config, plan
from cooperflow.experiment.config_schema import Containers
from cooperflow.experiment.plan import Plan
from cooperflow.images import verification
from cooperflow.layout import REPOSITORY
from cooperflow.session import checks

ROOTLESS = {"SecurityOptions": ["name=seccomp", "name=rootless"], "PidsLimit": True}
CONTAINERD = {
    "DockerRootDir": "/var/lib/docker",
    "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
}


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(REPOSITORY)
    raw = {
        "results": str(tmp_path / "results"),
        "dataset": {"dir": "demo/dataset", "subset": "demo"},
        "models": {"replay": {"model": "command-a-03-2025", "replay": "demo/recordings"}},
        "settings": {"solo": ["--setting", "solo"], "team": ["--setting", "team"]},
    }
    return plan.make(config.parse(raw))


def test_only_configured_limits_are_demanded() -> None:
    assert abilities.missing_limits(Containers(memory="16g", cpus=None), ROOTLESS) == ["memory"]
    assert abilities.missing_limits(Containers(memory=None, cpus=2), ROOTLESS) == ["cpus"]
    assert abilities.missing_limits(Containers(memory=None), ROOTLESS) == []


def test_a_rootless_engine_names_what_to_delegate(demo: Plan) -> None:
    client: Any = None
    line = checks.try_limits(demo, client, ROOTLESS)
    assert line.state == checks.BAD
    assert "Delegate=memory" in line.text
    assert "cpu" not in line.text
    assert "kernel parameters" in abilities.limits_text(["memory"], {})


def test_the_store_of_images_is_found_or_unknown() -> None:
    managed = {"Containerd": {"Address": "/var/run/docker/containerd/containerd.sock"}}
    system = {"Containerd": {"Address": "/run/containerd/containerd.sock"}}
    assert abilities.image_store({"DockerRootDir": "/a"}) == Path("/a")
    assert abilities.image_store(CONTAINERD | managed) == Path("/var/lib/docker")
    assert abilities.image_store(CONTAINERD | system) == Path("/var/lib/containerd")
    assert abilities.image_store(CONTAINERD) is None


class _Engine:
    """An engine with a given description, whose containers print a given output."""

    def __init__(self, info: dict[str, Any], outputs: tuple[bytes, ...] = ()) -> None:
        self._info = info
        self._outputs = list(outputs)
        self.containers = self
        self.api = self

    def info(self) -> dict[str, Any]:
        return self._info

    def run(self, *_: object, **__: object) -> bytes:
        return self._outputs.pop(0)

    def __getattr__(self, name: str) -> Any:
        """Nothing is left to be removed."""
        assert name in ("networks", "volumes"), name
        return lambda **_: {} if name == "volumes" else []


def test_the_room_of_another_machine_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    monkeypatch.setattr(endpoint, "CONTAINER_MARK", tmp_path / "none")
    here = {"Name": platform.node(), "KernelVersion": platform.release()}
    local: Any = _Engine({"DockerRootDir": str(tmp_path), **here})
    assert containers.storage(local)[1]
    forwarded: Any = _Engine({"DockerRootDir": str(tmp_path), **here, "Name": "elsewhere"})
    assert containers.storage(forwarded) == (tmp_path, None)
    assert not containers.is_local(forwarded)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert containers.storage(local) == (tmp_path, None)


def test_a_setting_that_calls_back_needs_a_local_engine(
    demo: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    remote: Any = _Engine({"Name": "elsewhere"})
    solo = [run for run in demo.runs if run.experiment.setting.name == "solo"]
    work = checks.Work(images=False, runs=solo, evaluations=[])
    assert not list(checks.check_callbacks(checks.Context(demo, work), remote))
    work = checks.Work(images=False, runs=demo.runs, evaluations=[])
    (problem,) = checks.check_callbacks(checks.Context(demo, work), remote)
    assert "replay-team" in problem.text


def test_lost_output_is_no_answer(demo: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "remove", lambda *_: 0)
    good = b"repo=ok 1\nrunner=ok \nbash=ok /bin/bash\n"
    lossy: Any = _Engine({}, (b"", b"repo=ok 1\n", good))
    assert verification._verify(demo, lossy, "image", "id")["repo"] == "1"
    silent: Any = _Engine({}, (b"",) * containers.OUTPUT_TRIES)
    with pytest.raises(EngineError, match="lost the output"):
        verification._verify(demo, silent, "image", "id")
    bad: Any = _Engine({}, (good.replace(b"runner=ok", b"runner=no"),))
    with pytest.raises(UserError, match="not usable for a run"):
        verification._verify(demo, bad, "image", "id")
