"""Shared fixtures: a clone of the checkout, an experiment in it, a replay server for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from experiment_client import Experiment, clone_of, containers_of, docker_answers
from replay_client import Server
from replay_client import server as serving

# Else litellm asks for prices over the network, three times, wherever a test imports it.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

# Files that take minutes each, the longest first.
LONGEST = ("test_workflow", "test_faults", "test_openhands", "test_bench", "test_record")
LONGEST += ("test_adopt", "test_models", "test_rolling", "test_settings", "test_backends")


@pytest.hookimpl(trylast=True)  # after `-m` has deselected: without Docker, `not docker` works
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without an engine the tests that need one fail at once, and say why: none is skipped."""
    if any(item.get_closest_marker("docker") for item in items) and not docker_answers():
        pytest.exit("no Docker engine answers: run `make engine` first", returncode=3)
    # Run slow files first, the slowest before all: no worker has a slow file at the end.
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[int, bool]:
    name = item.path.stem
    longest = LONGEST.index(name) if name in LONGEST else len(LONGEST)
    return longest, item.get_closest_marker("slow") is None


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the checkout in its current state, with its environment, without its results."""
    return clone_of(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A replay server that plays the demo's recordings, with faults on request."""
    folder = tmp_path / "server"
    folder.mkdir()
    # Slow enough for a test to meet a run in its middle.
    with serving(folder, "--delay", "0.3") as running:
        yield running


@pytest.fixture
def experiment(clone: Path, tmp_path: Path, server: Server) -> Iterator[Callable[..., Experiment]]:
    """Make experiments on pairs of the demo; nothing of them is left at the end of the test."""
    made: list[Experiment] = []

    def make(**options: object) -> Experiment:
        one = Experiment.new(clone, tmp_path / f"experiment{len(made)}", server, **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.end()
        left = containers_of(one.results)
        if left:
            subprocess.run(["docker", "rm", "-f", *left], check=False, capture_output=True)
        assert not left, f"containers were left: {left}"
