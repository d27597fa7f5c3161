"""Identity of images in different stores, and the pins that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docker.errors
import pytest

from cooperflow import atomic_io
from cooperflow.engine import containers
from cooperflow.errors import UserError
from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Plan
from cooperflow.images import registry, verification
from cooperflow.layout import REPOSITORY
from cooperflow.session import checks

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
