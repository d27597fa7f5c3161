"""Upstream's backends besides docker: impossible configs are refused; Modal needs no Docker.

Modal itself cannot be reached: a stand-in for its client (standin/modal) has containers for
sandboxes. Config, checks, cooperbench, its adapter, the seam, the clean-up and Redis are the real
ones.
"""

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

from cooperflow.engine import modal_sandboxes
from cooperflow.errors import UserError
from cooperflow.experiment import config

Make = Callable[..., Experiment]
STANDIN = Path(__file__).with_name("standin")
SOCKET = "unix:///var/run/docker.sock"
BASE: dict[str, Any] = {
    "models": {"m": {"model": "command-a-03-2025"}},
    "settings": {"solo": ["--setting", "solo"]},
    "backend": "modal",
}


def refused(**keys: Any) -> str:
    with pytest.raises(UserError) as error:
        config.parse({**BASE, **keys})
    return str(error.value)


def test_modal_is_a_backend() -> None:
    assert config.parse(BASE).docker is False


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"backend": "gcp"}, "backend: 'gcp' cannot work"),
        ({"containers": {"memory": "4g"}}, "containers: limits and networks are Docker's"),
        ({"images": {"registry": "mirror.example.org"}}, "images.registry: Modal fetches"),
        ({"images": {"rolling": True}}, "images.rolling: Modal fetches"),
        ({"limits": {"test_seconds": 60}}, "limits.test_seconds: on Modal an evaluation"),
        (
            {"agent": {"name": "codex"}, "settings": {"coop": ["--setting", "coop"]}},
            "settings.coop: its agents send messages from inside their sandboxes",
        ),
        ({"settings": {"team": ["--setting", "team"]}}, "settings.team: its agents send messages"),
        (
            {
                "settings": {"team": ["--setting", "team"]},
                "redis": {"url": "redis://127.0.0.1:6379"},
            },
            "settings.team: its agents send messages",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(keys: dict[str, Any], told: str) -> None:
    assert told in refused(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"settings": {"coop": ["--setting", "coop"]}},
        {"agent": {"name": "codex"}, "settings": {"c": ["--setting", "coop", "--no-messaging"]}},
        {
            "settings": {"team": ["--setting", "team"]},
            "redis": {"url": "rediss://:secret@redis.example.org:6380"},
        },
    ],
)
def test_what_can_work_is_not_refused(keys: dict[str, Any]) -> None:
    config.parse({**BASE, **keys})


def test_the_real_client_says_that_it_has_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    with pytest.raises(modal_sandboxes.EngineError, match="Token missing"):
        modal_sandboxes.check_access()


@pytest.fixture
def modal(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Make, Path]]:
    """Make experiments on the stand-in; Docker is not available to anything else."""
    build = experiment(results=str(tmp_path / "build"), pairs=((INVENTORY, 1, 1, 2),))
    assert build.run("images").returncode == 0
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
        return experiment(**{**keys, "pairs": ((INVENTORY, 1, 1, 2),), **options})

    yield make, calls
    monkeypatch.undo()
    made = [json.loads(line) for line in calls.read_text().splitlines()]
    left = [c["id"] for c in made if c["call"] == "create" and _is_there(c["id"])]
    if left:
        subprocess.run(["docker", "rm", "-f", *left], check=False, capture_output=True)
    assert not left, f"sandboxes were left: {left}"


def _is_there(container: str) -> bool:
    return subprocess.run(["docker", "inspect", container], capture_output=True).returncode == 0


def created(calls: Path, app: str) -> int:
    lines = [json.loads(line) for line in calls.read_text().splitlines()]
    return sum(line["call"] == "create" and line["app"] == app for line in lines)


@pytest.mark.docker
@pytest.mark.slow
def test_a_run_on_modal_needs_no_docker_here(modal: tuple[Make, Path]) -> None:
    make, calls = modal
    one = make(settings=("solo", "coop-comm"))
    done = one.run()
    assert done.returncode == 0, done.stdout
    assert [row["outcome"] for row in one.rows()] == ["pass", "pass"]
    assert one.books() == ledger_tokens(one.server)
    assert not (one.results / "images").exists()
    assert created(calls, "cooperbench") == 3  # one alone, two together
    assert created(calls, "cooperbench-eval") > 0
    refused_images = one.run("images")
    assert "backend modal fetches the images itself" in refused_images.stdout


@pytest.mark.docker
@pytest.mark.slow
def test_a_sandbox_that_dies_is_no_fail_of_the_model(modal: tuple[Make, Path]) -> None:
    """Upstream replaces it by an empty sandbox and continues; the attempt ends all the same."""
    make, calls = modal
    one = make()
    process = one.start()
    one.until(process, lambda: one.recorded() > 1, 120)
    Path(os.environ["STANDIN_KILL"]).touch()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert [(row["outcome"], row["attempts"]) for row in one.rows()] == [("pass", "2")]
    assert "infra_error container_died; retrying" in said
    assert created(calls, "cooperbench") == 3


@pytest.mark.docker
@pytest.mark.slow
def test_sandboxes_of_a_killed_start_are_ended_by_the_next(modal: tuple[Make, Path]) -> None:
    make, _ = modal
    one = make()
    process = one.start()
    one.until(process, lambda: one.recorded() > 1, 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = one.run()
    assert done.returncode == 0, done.stdout
    assert [row["outcome"] for row in one.rows()] == ["pass"]
