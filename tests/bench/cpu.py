"""Cost of a command and all its processes: wall time, processor time, memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cost:
    """Seconds, processor seconds (containers and the engine not counted), megabytes of the largest
    process, exit code."""

    wall: float
    cpu: float
    memory: float
    code: int


class Group:
    """A separate control group, of the first or second version, in which time is counted."""

    def __init__(self, root: Path = CGROUP) -> None:
        first = root / "cpuacct"
        self.first = first.is_dir()
        name = f"cooperflow-bench-{os.getpid()}-{time.monotonic_ns()}"
        self.path = (first if self.first else root) / name
        self.path.mkdir()

    def enter(self) -> None:
        """Put the calling process, and all that it will start, in."""
        (self.path / "cgroup.procs").write_text("0")

    def seconds(self) -> float:
        """Return the processor time used by all that is or was in it."""
        if self.first:
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        lines = (self.path / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6

    def close(self) -> float:
        """Wait up to ten seconds for all to have ended; return their processor time, seconds."""
        for _ in range(100):
            if not (self.path / "cgroup.procs").read_text().strip():
                break
            time.sleep(0.1)
        used = self.seconds()
        for _ in range(50):  # the kernel needs a moment after the last process
            with contextlib.suppress(OSError):
                self.path.rmdir()
                break
            time.sleep(0.1)
        return used


def measure(command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path) -> Cost:
    """Run a command in a separate control group, so that detached processes count too."""
    group = Group()
    with log.open("ab") as stream:
        begun = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environment),
            stdout=stream,
            stderr=stream,
            preexec_fn=group.enter,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begun
    return Cost(wall, group.close(), usage.ru_maxrss / 1000, process.returncode)
