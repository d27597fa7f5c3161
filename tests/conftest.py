"""Shared fixtures: a clone of the checkout, an experiment in it, a replay server for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from experiment_client import (
    SETTINGS,
    Experiment,
    clone_of,
    containers_of,
    docker_answers,
)
from filelock import FileLock
from process_groups import MARKER, kill_marked, new_mark, run_group
from replay_client import DATASET, Server
from replay_client import server as serving

from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Plan

# Otherwise litellm tries three times to fetch prices from the network when a test imports it.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

PlanMaker = Callable[..., Plan]

# Slow tests, which run first and on any worker, so that none runs alone at the end.
LONGEST = (
    "faults/test_faults",
    "/test_openhands",
    "/test_workflow",
    "/test_record.py",
    "test_runs_of_plain_cooperbench",
    "test_models_added_to_a_finished_model",
    "/test_settings",
    "/test_rolling",
    "test_both_sides_have_the_same_outcomes",
    "/test_images",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Group the quick tests by file; without an engine exit at once, because no test is skipped."""
    for item in items:
        if not item.get_closest_marker("slow") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
    yield
    grouped = [item for item in items if item.get_closest_marker("xdist_group")]
    if getattr(config.option, "loadgroup", False) and not all("@" in i.nodeid for i in grouped):
        pytest.exit("pytest-xdist groups no tests with this version of pytest", returncode=3)
    # After the deselection by `-m`, so that `not docker` works without an engine.
    if any(item.get_closest_marker("docker") for item in items) and not docker_answers():
        pytest.exit("no Docker engine answers: run `make engine` first", returncode=3)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[int, bool]:
    rank = next((n for n, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))
    return rank, item.get_closest_marker("slow") is None


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """End all processes that a test has started, even if the test has timed out."""
    if not any(request.node.get_closest_marker(name) for name in ("slow", "docker")):
        yield
        return
    mark = new_mark()
    # Not the test's `monkeypatch`, which is undone before `experiment` ends.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARKER, mark[MARKER])
        yield
    kill_marked(mark[MARKER])


@pytest.fixture(autouse=True)
def _signal_handlers_end_with_the_test() -> Iterator[None]:
    """Restore signal handlers that a test has set, because a fork would inherit them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _sessions_can_be_interrupted() -> None:
    """Heed Ctrl-C although a shell that starts pytest in the background has it ignored."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in handlers.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone of the checkout in its current state, with .venv and without results."""
    return clone_of(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this pytest run that all workers share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


@pytest.fixture(scope="session")
def demo_images(clone: Path, shared: Path) -> None:
    """Build the images of the demo's tasks, once for all workers."""
    results = shared / "images"
    command = [".venv/bin/snakemake", "images", "--configfile", "config/demo.yaml"]
    with FileLock(f"{results}.lock"):
        if not (results / "images" / "verified.json").exists():
            result = run_group([*command, "--config", f"results={results}"], 400, clone)
            assert result.returncode == 0, result.stdout


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Yield a replay server with the demo's recordings, with faults on request."""
    folder = tmp_path / "server"
    folder.mkdir()
    delay = "0.3" if request.node.get_closest_marker("slow_model") else "0"
    with serving(folder, "--delay", delay) as running:
        yield running


@pytest.fixture
def make_experiment(
    clone: Path, tmp_path: Path, server: Server
) -> Iterator[Callable[..., Experiment]]:
    """Yield a function that makes experiments on the demo, which are removed after the test."""
    experiments: list[Experiment] = []

    def make(**options: object) -> Experiment:
        experiment = Experiment.new(
            clone, tmp_path / f"experiment{len(experiments)}", server, **options
        )
        experiments.append(experiment)
        return experiment

    yield make
    for experiment in experiments:
        experiment.end()
        remaining = containers_of(experiment.results)
        if remaining:
            subprocess.run(["docker", "rm", "-f", *remaining], check=False, capture_output=True)
        assert not remaining, f"containers were left: {remaining}"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Return a copy of the demo's data set, which tests may change."""
    copy = tmp_path / "dataset"
    shutil.copytree(DATASET, copy)
    return copy


def document(root: Path, tasks: Sequence[tuple[str, int, list[list[int]]]]) -> str:
    """Write a subset file and return its path."""
    path = root / "subset.json"
    rows = [{"repo": repo, "task_id": task, "pairs": pairs} for repo, task, pairs in tasks]
    path.write_text(json.dumps({"tasks": rows}))
    return str(path)


@pytest.fixture
def make_plan(tmp_path: Path, dataset: Path) -> PlanMaker:
    """Return a function that makes a plan for the copy of the demo's data set."""

    def make(tasks: Sequence[tuple[str, int, list[list[int]]]] | None = None, **keys: Any) -> Plan:
        subset = document(tmp_path, tasks) if tasks else "demo"
        raw: dict[str, Any] = {
            "results": str(tmp_path / "results"),
            "dataset": {"dir": str(dataset), "subset": subset},
            "models": {"replay": {"model": "command-a-03-2025", "replay": "demo/recordings"}},
            "settings": {name: SETTINGS[name] for name in ("solo", "coop-comm")},
        }
        raw["dataset"].update(keys.pop("dataset", {}))
        return plan.make(config.parse({**raw, **keys}))

    return make
