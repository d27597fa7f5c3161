"""Out-of-memory kills of a real container."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cooperflow import atomic_io
from cooperflow.attempt import child_process
from cooperflow.engine import containers


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
    assert containers.count_events(
        atomic_io.read_lines(events), [], until=0
    ) == containers.ContainerCounts(0, 0, 1, 0)
