"""Modal as a backend: no Docker is needed here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from experiment_client import INVENTORY, Experiment, ledger_tokens

# The images are built once for all.
pytestmark = pytest.mark.xdist_group("modal")

Make = Callable[..., Experiment]
STANDIN = Path(__file__).parents[1] / "support" / "standin"
SOCKET = "unix:///var/run/docker.sock"


@pytest.fixture
def modal(
    make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_images: None
) -> Iterator[tuple[Make, Path]]:
    """Make experiments on the stand-in; Docker is not available to anything else."""
    calls = tmp_path / "calls.jsonl"
    calls.touch()
    monkeypatch.setenv("STANDIN_DOCKER_HOST", os.environ.get("DOCKER_HOST", SOCKET))
    monkeypatch.setenv("STANDIN_CALLS", str(calls))
    monkeypatch.setenv("STANDIN_KILL", str(tmp_path / "kill"))
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-test")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-test")
    monkeypatch.setenv("PYTHONPATH", str(STANDIN))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")

    def make(**options: Any) -> Experiment:
        keys = {"backend": "modal", "images": {"pull": True, "build": False, "free_gb": 1}}
        return make_experiment(**{**keys, "pairs": ((INVENTORY, 1, 1, 2),), **options})

    yield make, calls
    monkeypatch.undo()
    entries = [json.loads(line) for line in calls.read_text().splitlines()]
    remaining = [c["id"] for c in entries if c["call"] == "create" and _exists(c["id"])]
    if remaining:
        subprocess.run(["docker", "rm", "-f", *remaining], check=False, capture_output=True)
    assert not remaining, f"sandboxes were left: {remaining}"


def _exists(container: str) -> bool:
    return subprocess.run(["docker", "inspect", container], capture_output=True).returncode == 0


def count_created(calls: Path, app: str) -> int:
    lines = [json.loads(line) for line in calls.read_text().splitlines()]
    return sum(line["call"] == "create" and line["app"] == app for line in lines)


@pytest.mark.docker
@pytest.mark.slow
def test_a_run_on_modal_needs_no_docker_here(modal: tuple[Make, Path]) -> None:
    make, calls = modal
    experiment = make(settings=("solo", "coop-comm"))
    session = experiment.run()
    assert session.returncode == 0, session.stdout
    assert [row["outcome"] for row in experiment.rows()] == ["pass", "pass"]
    assert experiment.recorded_tokens() == ledger_tokens(experiment.server)
    assert not (experiment.results / "images").exists()
    assert count_created(calls, "cooperbench") == 3  # one alone, two together
    assert count_created(calls, "cooperbench-eval") > 0
    refused_images = experiment.run("images")
    assert "backend modal fetches the images itself" in refused_images.stdout


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.slow_model
def test_a_killed_session_then_a_sandbox_that_dies(modal: tuple[Make, Path]) -> None:
    """A session ends the sandboxes of a killed session; a sandbox's death is not the model's fail.

    Upstream replaces it by an empty sandbox and continues; the attempt ends all the same.
    """
    make, calls = modal
    experiment = make()
    process = experiment.start()
    experiment.wait_until(process, lambda: experiment.count_recorded_calls() > 1, 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    assert count_created(calls, "cooperbench") == 1

    paid = len(experiment.server.ledger())
    process = experiment.start()
    experiment.wait_until(process, lambda: len(experiment.server.ledger()) > paid + 1, 120)
    Path(os.environ["STANDIN_KILL"]).touch()
    assert process.wait(240) == 0, process.stdout
    assert [(row["outcome"], row["attempts"]) for row in experiment.rows()] == [("pass", "3")]
    assert "infra_error container_died; retrying" in process.stdout
    assert count_created(calls, "cooperbench") == 1 + 3
