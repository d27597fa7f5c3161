"""Processes: reliable identities, helpers that end with their parent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from cooperflow import processes
from cooperflow.engine import containers


def test_a_process_is_distinguished_from_a_later_one_with_its_pid() -> None:
    process = processes.this_process()
    assert process.is_alive()
    assert processes.Process.parse(str(process)) == process
    assert not processes.Process(process.host, process.pid, "another boot:1").is_alive()
    assert processes.Process("elsewhere", 1, "x").is_alive()
    child = subprocess.Popen(["sleep", "60"])
    mark = processes.Process(process.host, child.pid, processes._start_mark(child.pid) or "")
    assert mark.is_alive()
    child.kill()
    child.wait()
    assert not mark.is_alive()


def test_the_end_of_a_process_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "0.1"])
    processes.wait_for_end(child.pid, 3600)
    assert child.poll() == 0
    child = subprocess.Popen(["sleep", "60"])
    processes.wait_for_end(child.pid, 0.01)
    assert child.poll() is None

    def without(_: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", without)
    processes.wait_for_end(child.pid, 0.01)
    assert child.poll() is None
    child.kill()
    child.wait()


def test_a_helper_dies_with_its_parent() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from cooperflow import processes\n"
        "print(processes.spawn(['sleep', '60']).pid, flush=True); import time; time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    helper = int(parent.stdout.readline())
    assert Path(f"/proc/{helper}").exists()
    parent.kill()
    parent.communicate()
    for _ in range(50):
        if processes._start_mark(helper) is None:
            break
        time.sleep(0.1)
    assert processes._start_mark(helper) is None


@pytest.fixture
def signals() -> Iterator[None]:
    """Handle signals as a job does, and restore their handlers."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    processes.interrupt_on_signals()
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    processes.interrupt_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)  # the terminal is closed
    with pytest.raises(processes.Interrupted, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("signals")
def test_an_interrupt_is_not_taken_for_a_fault_of_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docker-py turns every Exception that is raised while it connects into an error of its own."""

    def interrupted(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(APIClient, "version", interrupted)
    with pytest.raises(processes.Interrupted, match="SIGTERM"):
        containers.engine()


@pytest.mark.usefixtures("signals")
def test_a_signal_waits_while_a_result_is_published() -> None:
    processes.defer_interrupts()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(processes.Interrupted):
        processes.allow_interrupts()
    processes.allow_interrupts()


def test_a_helper_that_ended_long_ago_does_not_end_a_process_with_its_number() -> None:
    ended = subprocess.Popen(["true"], start_new_session=True)
    ended.wait()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        ended.pid = other.pid
        processes.end(ended)
        assert other.poll() is None
        other.kill()
