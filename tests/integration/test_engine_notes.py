"""Facts of real containers that an attempt notes: out-of-memory kills, and refused commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from cooperflow import atomic_io
from cooperflow.attempt import child_process, container_monitor
from cooperflow.instrumentation import upstream_patches


@pytest.mark.docker
def test_a_real_kill_is_counted(tmp_path: Path) -> None:
    command = ["docker", "run", "-d", "--rm", "--label=cooperflow.test", "--network=none"]
    # Enough memory that the runtime itself can start in it on a busy machine.
    command += ["--memory=128m", "--memory-swap=128m", "cooperflow/demo-base:bookworm"]
    started = subprocess.run([*command, "sleep", "60"], capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    events = tmp_path / "events.jsonl"
    environment = {**os.environ, "COOPERFLOW_EVENTS": str(events)}
    try:
        eat = ["docker", "exec", container, "python3", "-c", "x = bytearray(1 << 29)"]
        assert subprocess.run(eat, check=False, capture_output=True).returncode == 137
        subprocess.run(
            [str(child_process.SHIM), "note-kills", container], env=environment, check=True
        )
        subprocess.run([str(child_process.SHIM), "probe", container], env=environment, check=True)
    finally:
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)
    assert container_monitor.count_events(
        atomic_io.read_lines(events), []
    ) == container_monitor.ContainerCounts(0, 0, 1, 0)


@pytest.mark.docker
def test_an_agent_that_removes_its_folder_is_not_the_engines_fault(tmp_path: Path) -> None:
    """Docker starts a command in the container's folder, and reports if that is missing."""
    run = ["docker", "run", "-d", "--rm", "-w", "/workspace/repo", "cooperflow/demo-base:bookworm"]
    started = subprocess.run([*run, "sleep", "60"], capture_output=True, text=True, check=True)
    container = started.stdout.strip()
    events = tmp_path / "events.jsonl"
    try:
        remove = ["docker", "exec", container, "rm", "-rf", "/workspace"]
        subprocess.run(remove, check=True, capture_output=True)
        probe = [str(child_process.SHIM), "probe", container]
        subprocess.run(probe, env={**os.environ, "COOPERFLOW_EVENTS": str(events)}, check=True)
        environment = SimpleNamespace(config=SimpleNamespace(), container_id=container)
        assert upstream_patches._refusal(environment) == ""
    finally:
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)
    assert not events.exists()
