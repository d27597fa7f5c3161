"""What a command and everything that it starts costs: wall time, processor time, memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/cpuacct")


@dataclass(frozen=True)
class Cost:
    """Seconds, processor seconds (containers and the engine not counted), megabytes of the largest
    process, exit code."""

    wall: float
    cpu: float
    memory: float
    code: int


def measure(command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path) -> Cost:
    """Run a command in a control group of its own, so that detached processes count too."""
    group = CGROUP / f"cooperflow-bench-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()

    def enter() -> None:
        (group / "cgroup.procs").write_text("0")

    with log.open("ab") as stream:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdout=stream, stderr=stream, preexec_fn=enter
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begun
    cpu = int((group / "cpuacct.usage").read_text()) / 1e9
    for _ in range(100):
        if not (group / "cgroup.procs").read_text().strip():
            cpu = int((group / "cpuacct.usage").read_text()) / 1e9
            group.rmdir()
            break
        time.sleep(0.1)
    return Cost(wall, cpu, usage.ru_maxrss / 1000, process.returncode)
