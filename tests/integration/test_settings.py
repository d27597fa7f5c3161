"""Additional settings of upstream and other agents: config entries without code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from experiment_client import INVENTORY, REPOSITORY, Experiment

from cooperflow import atomic_io
from cooperflow.engine.containers import RESULTS_LABEL
from cooperflow.experiment.plan import Setting

Make = Callable[..., Experiment]
GIT_IMAGE = "cooperbench-git-server:local"
SETTINGS = yaml.safe_load((REPOSITORY / "config" / "demo-settings.yaml").read_text())["settings"]
# The three that every other test has.
COMMON = ("solo", "coop-comm", "coop-nocomm")
SURROUNDINGS = {
    "LC_ALL": "de_DE.ISO-8859-1",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "HOME": "/proc/none",
    "XDG_CONFIG_HOME": "/proc/none",
}


@pytest.mark.parametrize(
    ("flags", "messaging", "redis"),
    [
        ("--setting solo", False, False),
        ("--setting coop", True, True),
        ("--setting coop --no-messaging", False, False),
        ("--setting team --no-messaging", False, True),
    ],
)
def test_which_settings_need_redis(flags: str, messaging: bool, redis: bool) -> None:
    setting = Setting("x", tuple(flags.split()))
    assert (setting.messaging, setting.redis) == (messaging, redis)


@pytest.fixture
def git_server_image() -> None:
    there = subprocess.run(["docker", "image", "inspect", GIT_IMAGE], capture_output=True)
    if there.returncode:
        command = ["docker", "build", "-q", "-t", GIT_IMAGE, str(REPOSITORY / "demo/git-server")]
        subprocess.run(command, check=True, capture_output=True)


@pytest.mark.docker
@pytest.mark.slow
def test_additional_settings_of_the_demo_in_parallel(
    make_experiment: Make, git_server_image: None
) -> None:
    """Each passes; runs do not share upstream's git server."""
    experiment = make_experiment(pairs=[(INVENTORY, 1, 1, 2)])
    raw = yaml.safe_load(experiment.config.read_text())
    settings = {**dict.fromkeys(COMMON), **SETTINGS}
    experiment.config.write_text(yaml.safe_dump({**raw, "settings": settings}, sort_keys=False))
    session = experiment.run()
    assert session.returncode == 0, session.stdout
    rows = {r["setting"]: r for r in experiment.rows()}
    assert {name: r["outcome"] for name, r in rows.items()} == dict.fromkeys(SETTINGS, "pass")
    assert len(SETTINGS) >= 5
    assert {r["mode"] for name, r in rows.items() if name.startswith("team")} == {"team"}
    for path in (experiment.results / "runs/tested-team").rglob("attempts/1/upstream/tasks.json"):
        assert len(json.loads(path.read_text())) == 2
        break
    else:
        raise AssertionError("a team's list of tasks was not kept")
    for kind in ("network", "volume"):
        remaining = subprocess.run(
            ["docker", kind, "ls"], capture_output=True, text=True, check=True
        )
        assert "cooperbench-" not in remaining.stdout.replace("cooperbench-git-server", "")
        # A team's volume is named `cb-team-...`, with the label of its experiment.
        identity = (experiment.results / ".state" / "id").read_text().strip()
        command = ["docker", kind, "ls", "-q", "--filter", f"label={RESULTS_LABEL}={identity}"]
        remaining = subprocess.run(command, capture_output=True, text=True, check=True)
        assert remaining.stdout == ""


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["warm", "off"])
def test_an_agent_of_an_external_module(
    make_experiment: Make, launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    # A machine with another locale, and a home in which nothing can be written.
    for name, value in SURROUNDINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # Snakemake itself needs one
    agent = {"name": "tested_agent", "external": ["external_agent"]}
    experiment = make_experiment(agent=agent, launcher=launcher)
    session = experiment.run()
    assert session.returncode == 0, session.stdout
    assert [row["outcome"] for row in experiment.rows()] == ["pass"]
    (attempt,) = (experiment.results / "runs").rglob("attempts/1")
    assert b"tested_agent ran" in atomic_io.read_bytes(attempt / "cooperbench.log")
