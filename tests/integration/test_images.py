"""Images from a real registry into a real engine: interruption, limits, moved tag, full disk."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import image_servers
import pytest
from serving import serve

from cooperflow import environment, layout
from cooperflow.engine import containers, endpoint
from cooperflow.errors import UserError
from cooperflow.experiment.plan import Plan
from cooperflow.images import disk_space, verification
from cooperflow.layout import REPOSITORY

A, B = "demo_inventory_task", "demo_textkit_task"
NAME = "akhatua/cooperbench-demo-inventory"
OTHER = "akhatua/cooperbench-demo-textkit"
MISSING = image_servers.find_missing_tools()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("images"),  # one registry and one engine for all
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


class Bench:
    """A registry, a proxy before it, and a separate engine with its client."""

    def __init__(self, host: str, client: docker.DockerClient) -> None:
        self.registry = host
        self.client = client

    def publish(self, name: str, tag: str, content: bytes) -> None:
        """Make an image, push it, and leave nothing of it in the engine."""
        self.client.api.import_image_from_data(
            image_servers.task_image(content), repository=f"{self.registry}/{name}", tag=tag
        )
        pushed = self.client.api.push(f"{self.registry}/{name}", tag=tag, stream=True, decode=True)
        assert not [event for event in pushed if event.get("error")]
        self.clear()

    def clear(self) -> None:
        for image in self.client.images.list():
            self.client.images.remove(image.id, force=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("img")
    with (
        image_servers.registry(folder / "registry") as registry_host,
        image_servers.engine(folder / "engine") as engine_host,
    ):
        client = docker.DockerClient(engine_host, timeout=60)
        yield Bench(registry_host, client)
        client.close()


@pytest.fixture
def proxy(bench: Bench) -> Iterator[image_servers.Proxy]:
    bench.clear()
    bench.publish(NAME, "task1", os.urandom(6_000_000))
    stand_between = image_servers.Proxy(bench.registry)
    with serve(stand_between.app()) as url:
        stand_between.address = url
        yield stand_between
    bench.clear()


@pytest.fixture
def plan_for(
    make_plan: Any, proxy: image_servers.Proxy, bench: Bench, tmp_path: Path, monkeypatch: Any
) -> Any:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{_socket(bench.client)}")

    def make(tasks: Any = None, **keys: Any) -> Plan:
        images = {
            "registry": proxy.address.removeprefix("http://"),
            "lock": str(tmp_path / "images.lock.csv"),
            "pause_seconds": 0.1,
            "free_gb": 0,
            "unpacked": 1,
            **keys,
        }
        return make_plan(tasks or [(A, 1, [[1, 2]])], images=images)

    return make


def _socket(client: docker.DockerClient) -> str:
    return str(client.api.get_adapter("http+docker://").socket_path)


def _read_lock(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "images.lock.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_first_pull_pins_and_the_next_goes_by_digest(
    plan_for: Any, bench: Bench, tmp_path: Path, capsys: Any
) -> None:
    plan = plan_for()
    sentinel = verification.write_sentinel(plan, plan.images[0])
    assert sentinel["source"] == "pulled"
    assert set(sentinel["checked"]) == {"repo", "runner", "bash"}
    (row,) = _read_lock(tmp_path)
    assert row["image"] == f"{NAME}:task1"
    assert row["digest"] in sentinel["digest"]
    assert int(row["size"]) > 6_000_000
    assert "image 1 of 1" in capsys.readouterr().out
    bench.clear()
    again = verification.write_sentinel(plan, plan.images[0])
    assert again["id"] == sentinel["id"]


def test_an_interrupted_pull_is_retried(
    plan_for: Any, proxy: image_servers.Proxy, capsys: Any
) -> None:
    proxy.cuts = 2
    plan = plan_for()
    assert verification.write_sentinel(plan, plan.images[0])["source"] == "pulled"
    assert proxy.cuts == 0
    output = capsys.readouterr().out
    # A containerd store resumes cut downloads by itself.
    assert "try 2 of 5 at" in output or _has_containerd_store()


def _has_containerd_store() -> bool:
    client = containers.engine()
    try:
        kind = dict(client.info().get("DriverStatus") or []).get("driver-type", "")
    finally:
        client.close()
    return bool(kind == endpoint.CONTAINERD_STORE)


def test_a_pull_that_never_works_ends_with_a_clear_message(
    plan_for: Any, proxy: image_servers.Proxy
) -> None:
    proxy.cuts = 99
    plan = plan_for(tries=2)
    with pytest.raises(UserError, match="could not be pulled in 2 tries"):
        verification.write_sentinel(plan, plan.images[0])
    assert not plan.results.sentinel(plan.images[0]).exists()


def test_a_killed_pull_is_resumed(plan_for: Any, proxy: image_servers.Proxy) -> None:
    proxy.seconds_per_megabyte = 1.0
    plan = plan_for()
    command = [sys.executable, str(REPOSITORY / "scripts" / "image.py"), "--image"]
    command.append(layout.image_key(plan.images[0]))
    variables = {**os.environ, environment.CONFIG: plan.config.model_dump_json()}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 30
    while proxy.blobs < 1 and time.monotonic() < limit:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not plan.results.sentinel(plan.images[0]).exists()
    proxy.seconds_per_megabyte = 0.0
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pulled and verified" in result.stdout


def test_a_rate_limit_is_waited_for_and_reported(
    plan_for: Any, proxy: image_servers.Proxy, capsys: Any
) -> None:
    proxy.limits, proxy.retry_after = 3, "1"
    plan = plan_for(tries=2)  # waiting does not count as a try
    begun = time.monotonic()
    verification.write_sentinel(plan, plan.images[0])
    assert time.monotonic() - begun > 3
    assert "rate limit is reached; waiting 2 s, until" in capsys.readouterr().out


def test_a_registry_that_requires_a_token_gets_one(
    plan_for: Any, proxy: image_servers.Proxy
) -> None:
    proxy.token = "secret"
    plan = plan_for()
    assert verification.write_sentinel(plan, plan.images[0])["source"] == "pulled"


def test_a_moved_tag_is_refused_until_the_config_decides(
    plan_for: Any, bench: Bench, tmp_path: Path
) -> None:
    plan = plan_for()
    first = verification.write_sentinel(plan, plan.images[0])
    (pinned,) = _read_lock(tmp_path)
    bench.publish(NAME, "task1", b"another content")
    with pytest.raises(UserError, match="the tag has moved") as raised:
        verification.write_sentinel(plan, plan.images[0])
    assert "moved: accept" in str(raised.value)
    assert _read_lock(tmp_path) == [pinned]
    unmoved = verification.write_sentinel(plan_for(moved="pinned"), plan.images[0])
    assert unmoved["id"] == first["id"]
    bench.clear()
    accepted = verification.write_sentinel(plan_for(moved="accept"), plan.images[0])
    assert accepted["id"] != first["id"]
    (now,) = _read_lock(tmp_path)
    assert now["digest"] != pinned["digest"]
    assert verification.write_sentinel(plan, plan.images[0])["id"] == accepted["id"]


def test_a_missing_image_is_not_requested_again(
    plan_for: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_for([(B, 2, [[1, 2]])])
    with pytest.raises(UserError, match="has no such image"):
        verification.write_sentinel(plan, plan.images[0])
    assert "try 2 of" not in capfd.readouterr().out


def test_too_little_disk_space_is_reported_before_the_first_byte(
    plan_for: Any, bench: Bench, proxy: image_servers.Proxy
) -> None:
    plan = plan_for(unpacked=200)
    with pytest.raises(UserError, match=r"1 image, 0.0 GB to fetch.*GB are missing") as raised:
        disk_space.check_space(plan, bench.client, list(plan.images))
    assert "data-root" in str(raised.value)
    assert "images.rolling: true" in str(raised.value)
    with pytest.raises(UserError, match=r"needs about 1.\d+ GB"):
        verification.write_sentinel(plan, plan.images[0])
    assert proxy.blobs == 0


def test_a_disk_that_fills_while_unpacking_is_reported(plan_for: Any, bench: Bench) -> None:
    # Zeros: small in the registry, larger than what is left of the engine's disk.
    bench.publish(NAME, "task1", bytes(170_000_000))
    filling = Path(bench.client.info()["DockerRootDir"]) / "filling"
    with filling.open("wb") as stream:
        stream.write(bytes(free_bytes(filling.parent) - 60_000_000))
    try:
        plan = plan_for()
        with pytest.raises(UserError, match="Docker's disk is full"):
            verification.write_sentinel(plan, plan.images[0])
    finally:
        filling.unlink()
    assert verification.write_sentinel(plan, plan.images[0])["source"] == "pulled"


def free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def test_tars_are_written_and_loaded(plan_for: Any, bench: Bench, tmp_path: Path) -> None:
    plan = plan_for(archive=str(tmp_path / "tars"))
    first = verification.write_sentinel(plan, plan.images[0])
    assert verification.save(plan, plan.images[0]) > 6_000_000
    assert [p.name for p in (tmp_path / "tars").iterdir()] == [
        "cooperbench-demo-inventory_task1.tar"
    ]
    bench.clear()
    offline = plan_for(archive=str(tmp_path / "tars"), pull=False)
    loaded = verification.write_sentinel(offline, offline.images[0])
    assert (loaded["source"], loaded["id"]) == ("loaded", first["id"])


def test_rolling_removes_its_images_after_their_last_use(
    plan_for: Any, bench: Bench, tmp_path: Path
) -> None:
    bench.publish(OTHER, "task2", b"textkit")
    both = [(A, 1, [[1, 2]]), (B, 2, [[1, 2]])]
    plan = plan_for(both, rolling=True)
    # An image that was present before the workflow is not removed.
    bench.client.api.import_image_from_data(
        image_servers.task_image(b"theirs"), repository=OTHER, tag="task2"
    )
    last = tmp_path / "eval.json"
    uses = {image: [str(last)] for image in plan.images}
    assert disk_space.plan_use(plan, uses) == []
    for image in plan.images:
        verification.write_sentinel(plan, image)
    assert not disk_space.remove_unneeded(plan, plan.images[0])
    last.write_text("{}")
    assert disk_space.remove_unneeded(plan, plan.images[0])
    assert not disk_space.remove_unneeded(plan, plan.images[1])
    assert containers.image_id(bench.client, plan.images[0]) is None
    assert containers.image_id(bench.client, plan.images[1]) is not None
    assert not plan.results.sentinel(plan.images[0]).exists()
