"""Rolling mode, end to end: Snakemake, real engines and a registry."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import image_servers
import pytest
from experiment_client import INVENTORY, TEXTKIT, Experiment

pytestmark = [pytest.mark.docker, pytest.mark.slow]
needs_servers = pytest.mark.skipif(
    bool(image_servers.find_missing_tools()),
    reason=f"not here: {image_servers.find_missing_tools()}",
)

Make = Callable[..., Experiment]
IMAGES = ("akhatua/cooperbench-demo-inventory:task1", "akhatua/cooperbench-demo-textkit:task2")
PAIRS = ((INVENTORY, 1, 1, 2), (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2))


def _docker(host: str, *arguments: str) -> str:
    result = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_HOST": host} if host else None,
        check=True,
        capture_output=True,
        text=True,
    )
    return result.stdout


@needs_servers
def test_each_image_is_pulled_when_needed_and_removed_after_its_last_use(
    make_experiment: Make,
    demo_images: None,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("roll")  # short: sockets are below it
    with (
        image_servers.registry(folder / "registry") as registry,
        image_servers.engine(folder / "engine", 900_000_000) as host,
    ):
        for image in IMAGES:
            _docker("", "tag", image, f"{registry}/{image}")
            try:
                _docker("", "push", f"{registry}/{image}")
            finally:
                _docker("", "rmi", f"{registry}/{image}")
        monkeypatch.setenv("DOCKER_HOST", host)
        lock = str(folder / "images.lock.csv")
        keys = {"pull": True, "build": False, "rolling": True, "registry": registry, "lock": lock}
        rolling = make_experiment(pairs=PAIRS, images={**keys, "free_gb": 0, "unpacked": 2})
        session = rolling.run()
        assert session.returncode == 0, session.stdout[-3000:]
        assert [row["outcome"] for row in rolling.rows()] == ["pass"] * 3
        assert _docker(host, "images", "-q") == ""
        assert _docker(host, "ps", "-aq") == ""
        again = rolling.run()
        assert again.returncode == 0, again.stdout[-3000:]
        assert "Nothing to be done" in again.stdout
