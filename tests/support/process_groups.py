"""Processes of tests, which are marked so that all of them end with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

# Every process inherits this variable, even if it leaves its group.
MARKER = "TEST_PROCESS_MARK"


def new_mark() -> dict[str, str]:
    """Return the variable that identifies the processes of one test."""
    return {MARKER: uuid.uuid4().hex}


def marked_processes(mark: str) -> list[tuple[int, str]]:
    """Return process id and command line of each running process with this mark."""
    processes = []
    variable = f"{MARKER}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if variable not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            if (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
                continue
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            processes.append((int(entry.name), line.decode(errors="replace")))
    return processes


def kill_marked(mark: str) -> None:
    """Kill every process with this mark."""
    while numbers := [number for number, _ in marked_processes(mark)]:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)


def start_group(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Popen[str]:
    """Start a command in a new process group, with all output in one pipe."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return Popen(command, cwd=cwd, env=env, text=True, start_new_session=True, **pipes)


def kill_group(process: Popen[Any]) -> None:
    """Kill a process and all processes of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_group(
    command: Sequence[str], seconds: float, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; a timeout or interruption of the test ends all of its processes."""
    env = new_mark() | dict(os.environ if env is None else env)
    process = start_group(command, cwd, env)
    try:
        output, _ = process.communicate(timeout=seconds)
    except BaseException:
        kill_group(process)
        kill_marked(env[MARKER])
        raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def wait_for(
    condition: Callable[[], Any], seconds: float = 60, name: str = "", every: float = 0.05
) -> Any:
    """Return the first true value of ``condition()``.

    Raises:
        TimeoutError: no value was true within ``seconds``.
    """
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise TimeoutError(f"{name or condition}: not within {seconds:.0f} s")
