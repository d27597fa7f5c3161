"""Records made before a container is removed: out-of-memory kills, refused commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from cooperflow import atomic_io
from cooperflow.attempt import child_process
from cooperflow.engine import containers
from cooperflow.errors import UserError
from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Plan
from cooperflow.images import registry, verification
from cooperflow.layout import REPOSITORY
from cooperflow.outcomes import judgement
from cooperflow.outcomes.judgement import AgentEnd, Evidence
from cooperflow.session import checks

CONTAINER = "c" * 64
BROKEN = 'OCI runtime exec failed: exec failed: unable to start: "cgroup" is read-only'


def _docker(folder: Path, words: str) -> None:
    """Put a docker command into ``folder`` that only fails to exec, if ``words`` is not empty."""
    program = folder / "docker"
    words = words or 'exec: "/proc/cooperflow-probe": no such file or directory'
    fails = f"printf '%s' '{words}'; exit 126"
    program.write_text(f'#!/bin/sh\n[ "$1" = exec ] || exit 0\n{fails}\n')
    program.chmod(0o755)


def _stop(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    events = folder / "events.jsonl"
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "COOPERFLOW_EVENTS": str(events),
        "COOPERFLOW_CGROUPS": str(folder / "cgroup"),
        "COOPERFLOW_STOP_NOTE": str(folder / "put-away"),
    }
    subprocess.run([str(child_process.SHIM), *arguments, CONTAINER], env=environment, check=True)
    return list(atomic_io.read_lines(events))


@pytest.mark.parametrize(
    ("group", "file"),
    [
        (f"system.slice/docker-{CONTAINER}.scope", "memory.events"),
        (f"machine.slice/libpod-{CONTAINER}.scope", "memory.events"),
        (f"memory/docker/{CONTAINER}", "memory.oom_control"),
    ],
)
def test_the_kernels_count_is_read_before_a_container_is_removed(
    group: str, file: str, tmp_path: Path
) -> None:
    _docker(tmp_path, "")
    folder = tmp_path / "cgroup" / group
    folder.mkdir(parents=True)
    (folder / file).write_text("oom 0\noom_kill 0\n")
    assert _stop(tmp_path, "stop") == []
    (folder / file).write_text("under_oom 0\noom_kill 2\n")
    events = _stop(tmp_path, "rm", "-f")
    assert containers.count_events(events, [], until=0).oom == 1


def test_an_engine_that_starts_no_command_is_recorded(tmp_path: Path) -> None:
    _docker(tmp_path, BROKEN)
    (event,) = _stop(tmp_path, "stop")
    assert containers.count_events([event], [], until=0).refused == 1
    assert "cgroup' is read-only" in event["words"]


def test_a_second_stop_of_a_container_does_nothing(tmp_path: Path) -> None:
    _docker(tmp_path, BROKEN)
    assert len(_stop(tmp_path, "stop")) == 1
    assert len(_stop(tmp_path, "stop")) == 1
    assert len(_stop(tmp_path, "rm", "-f")) == 2
    assert (tmp_path / "put-away").read_text().split() == [CONTAINER, CONTAINER]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "Error response from daemon: container 1 is not running",
        'OCI runtime exec failed: exec: "/proc/cooperflow-probe": no such file or directory',
    ],
)
def test_damage_by_an_agent_is_not_blamed_on_the_engine(words: str, tmp_path: Path) -> None:
    assert not containers.is_refusal(words)
    _docker(tmp_path, words)
    assert containers.count_events(_stop(tmp_path, "stop"), [], until=0).refused == 0


def test_an_engine_whose_exec_fails_is_unavailable() -> None:
    agents = (AgentEnd("solo", "Error", "exec failed"),)
    failed = Evidence(True, agents=agents, containers_started=1, exec_refused=1)
    assert judgement.judge_run(failed).reason == judgement.DOCKER_UNAVAILABLE
    assert judgement.judge_run(Evidence(False, exit_code=1, exec_refused=1)).reason == (
        judgement.DOCKER_UNAVAILABLE
    )
    other = Evidence(True, agents=agents, containers_started=1)
    assert judgement.judge_run(other).reason == judgement.AGENT_ERROR


def test_running_containers_have_not_ended() -> None:
    events = [{"status": "start", "id": i} for i in "abc"]
    events += [{"status": "die", "id": "a"}, {"Action": "destroy", "Actor": {"ID": "b"}}]
    assert containers.running(events) == ["c"]


def test_engine_events_of_containers() -> None:
    def event(status: str, name: str, seconds: float) -> dict[str, object]:
        return {"status": status, "id": name, "timeNano": int(seconds * 1e9)}

    events = [
        event("start", "aaa", 1),
        event("start", "bbb", 1),
        event("start", "ccc", 1),
        event("die", "aaa", 5),  # its agent removed it
        event("oom", "bbb", 6),
        event("die", "bbb", 6),
        event("die", "ccc", 20),  # after the end: our own clean-up
    ]
    assert containers.count_events(events, ["aaa"], until=10) == containers.ContainerCounts(3, 1, 1)
    assert containers.count_events(events, ["aaa", "bbb"], until=10).died == 0


# One image as Docker 20.10 and 26.1 (classic store) and 28.5 (containerd store) report it.
CLASSIC = {
    "Id": "sha256:33b4",
    "RepoDigests": [],
    "Os": "linux",
    "Architecture": "amd64",
    "RootFS": {"Type": "layers", "Layers": ["sha256:2202", "sha256:71e6"]},
    "Config": {
        "AttachStdin": False,
        "Cmd": ["/bin/bash"],
        "Entrypoint": None,
        "Env": ["LANG=C.UTF-8"],
        "Hostname": "",
        "Image": "sha256:6a27",
        "Labels": {"cooperflow.demo-base": "1"},
        "User": "",
        "WorkingDir": "/workspace/repo",
    },
}
CONTAINERD = {
    "Id": "sha256:703c",
    "RepoDigests": ["akhatua/cooperbench-demo-textkit@sha256:703c"],
    "Os": "linux",
    "Architecture": "amd64",
    "RootFS": {"Type": "layers", "Layers": ["sha256:2202", "sha256:71e6"]},
    "Config": {
        "Cmd": ["/bin/bash"],
        "Env": ["LANG=C.UTF-8"],
        "Labels": {"cooperflow.demo-base": "1"},
        "WorkingDir": "/workspace/repo",
    },
}
OTHER = {**CLASSIC, "Id": "sha256:0", "RootFS": {"Layers": ["sha256:2202", "sha256:ffff"]}}


def test_stores_agree_on_the_content() -> None:
    assert containers.image_hash(CLASSIC) == containers.image_hash(CONTAINERD)
    assert containers.image_hash(CLASSIC) != containers.image_hash(OTHER)
    changed = {**CLASSIC, "Config": {**CLASSIC["Config"], "Env": ["LANG=de_DE"]}}
    assert containers.image_hash(CLASSIC) != containers.image_hash(changed)


def test_old_sentinels_are_compared_by_id_and_digest() -> None:
    assert containers.is_same_image({"id": "sha256:33b4", "digest": None}, CLASSIC)
    assert containers.is_same_image({"id": "x", "digest": "name@sha256:703c"}, CONTAINERD)
    assert not containers.is_same_image({"id": "x", "digest": None}, CLASSIC)


def test_only_a_registry_gives_a_digest() -> None:
    assert containers.registry_digests(CONTAINERD) == []
    assert containers.registry_digests(CONTAINERD, pulled=True) == CONTAINERD["RepoDigests"]
    assert containers.registry_digests(CONTAINERD, pinned="sha256:703c")
    assert containers.registry_digests({**CLASSIC, "RepoDigests": ["a@sha256:9"]})


def test_old_and_new_locks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "images.lock.csv"
    path.write_text("image,digest,size\na,sha256:1,5\n")
    assert registry.read_pins(path)["a"] == registry.Pin("a", "sha256:1", 5)
    registry.write_pin(path, registry.Pin("b", "sha256:2", 6, "content:3"))
    assert registry.read_pins(path)["b"].content == "content:3"
    assert registry.read_pins(path)["a"].content == ""


class _Images:
    """The images of an engine that has one image."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attrs = attributes
        self.images = self

    def get(self, _: str) -> _Images:
        return self

    def close(self) -> None:
        pass


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(REPOSITORY)
    raw = {
        "results": str(tmp_path / "results"),
        "dataset": {"dir": "demo/dataset", "subset": "demo"},
        "models": {"replay": {"model": "command-a-03-2025", "replay": "demo/recordings"}},
        "settings": {"solo": ["--setting", "solo"]},
        "images": {"lock": str(tmp_path / "images.lock.csv")},
    }
    return plan.make(config.parse(raw))


def test_a_run_and_the_preflight_accept_the_same_image(
    demo: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image was verified in a classic store, and is in a containerd store here."""
    image = demo.images[0]
    sentinel = {"name": image, "id": CLASSIC["Id"], "content": containers.image_hash(CLASSIC)}
    atomic_io.write_json(demo.results.sentinel(image), sentinel)
    client: Any = _Images(CONTAINERD)
    monkeypatch.setattr(containers, "engine", lambda: client)
    assert verification.ensure_verified(demo, image) == CONTAINERD["Id"]
    assert not list(checks.check_verified_images(demo, client))
    client.attrs = OTHER
    assert list(checks.check_verified_images(demo, client))
    with pytest.raises(UserError, match="was verified"):
        verification.ensure_verified(demo, image)


def test_a_loaded_image_is_compared_with_its_pin_by_content(demo: Plan) -> None:
    pinned = registry.Pin("a", "sha256:1", 5, containers.image_hash(CLASSIC))
    loaded = {**CONTAINERD, "RepoDigests": ["a@sha256:703c", "a@sha256:9"]}
    verification._check_pin(demo, pinned, loaded, containers.registry_digests(loaded))
    with pytest.raises(UserError, match="the tag has moved"):
        verification._check_pin(demo, pinned, OTHER, ["a@sha256:9"])


def test_a_missing_image_has_no_content() -> None:
    class Missing:
        images: Any

        def get(self, _: str) -> None:
            raise docker.errors.ImageNotFound("no such image")

    client: Any = Missing()
    client.images = client
    assert containers.image_content(client, "a") is None
