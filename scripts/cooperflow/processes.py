"""Processes: identity, start and end, output streams, and the signals that interrupt a job."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import environment

_PR_SET_PDEATHSIG = 1
# Interval at which a fork checks that its client is alive, seconds.
_WATCH_SECONDS = 0.5
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Process:
    """Identity of a process, distinct from later processes with the same process id."""

    host: str
    pid: int
    started: str  # boot id and start time in clock ticks since boot

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started}"

    @classmethod
    def parse(cls, text: str) -> Process | None:
        host, _, rest = text.partition(":")
        pid, _, started = rest.partition(":")
        return cls(host, int(pid), started) if pid.isdigit() else None

    @property
    def is_local(self) -> bool:
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """True if the process still runs. A process on another host counts as running."""
        return not self.is_local or _start_mark(self.pid) == self.started


def this_process() -> Process:
    """Return the identity of the calling process."""
    return Process(socket.gethostname(), os.getpid(), _start_mark(os.getpid()) or "")


def session_process() -> Process | None:
    """Return the Snakemake process of this job's session, None if the job was started by hand."""
    return Process.parse(os.environ.get(environment.OWNER, ""))


def on_a_node() -> bool:
    """True if this job runs on a node of a cluster, where it may outlive its session."""
    return bool(os.environ.get(environment.NODE))


def local_session_process() -> Process | None:
    """Return the Snakemake process on this machine whose end also ends this job."""
    return Process.parse(os.environ.get(environment.NODE, "")) or session_process()


def _start_mark(pid: int) -> str | None:
    """Return the start time of process ``pid``, None when it has ended or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends for any reason."""
    parent = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the request
        os.kill(os.getpid(), signal.SIGKILL)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a helper in a separate process group that ends with this process."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
        **options,
    )


def end(process: subprocess.Popen[bytes], seconds: float = 2.0) -> None:
    """End a helper and its process group: SIGTERM, then SIGKILL after ``seconds``."""
    if process.poll() is not None and Path(f"/proc/{process.pid}").exists():
        return  # another process has its number, so its group has ended
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    kill_group(process.pid)
    process.wait()


def end_fork(process: int, seconds: float = 2.0) -> None:
    """End a fork that leads a process group: SIGTERM, then SIGKILL after ``seconds``."""
    limit = time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGTERM)
        while os.waitpid(process, os.WNOHANG)[0] == 0:
            if time.monotonic() > limit:
                kill_group(process)
            time.sleep(0.02)


def has_ended(process: int) -> bool:
    """Return whether a child has ended, without reaping it: it stays a zombie for `waitpid`."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process, flags) is not None


def wait_for_end(process: int, seconds: float) -> None:
    """Wait up to ``seconds`` until a process ends, without reaping it."""
    try:
        handle = os.pidfd_open(process)
    except OSError:  # a kernel before Linux 5.3, or no free descriptor
        time.sleep(seconds)
        return
    try:
        poll = select.poll()  # select() cannot take large descriptors
        poll.register(handle, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(handle)


def kill_group(group: int) -> None:
    """Kill every remaining process of a group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def open_streams() -> None:
    """Recreate sys.stdout and sys.stderr for the current file descriptors 1 and 2."""
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", closefd=False)


_client: list[socket.socket] = []


def watch_client(connection: socket.socket) -> None:
    """Register the connection to the job's client, whose end interrupts this process."""
    _client[:] = [connection]


def raise_if_orphaned() -> None:
    """Raise Interrupted when Snakemake or the job's client has ended."""
    snakemake = local_session_process()
    if snakemake is not None and not snakemake.is_alive():
        raise Interrupted("the workflow it belongs to has ended")
    for connection in _client:
        try:
            if connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b"":
                raise Interrupted("its job has ended")
        except BlockingIOError:
            pass
        except OSError as error:
            raise Interrupted("its job has ended") from error


def interrupt_when_orphaned() -> None:
    """Send this process SIGINT when Snakemake or the job's client has ended."""

    def watch() -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            try:
                raise_if_orphaned()
            except Interrupted:
                os.kill(os.getpid(), signal.SIGINT)
                return

    threading.Thread(target=watch, daemon=True).start()


class Interrupted(BaseException):
    """This process was asked to end (Ctrl-C, SIGTERM, SIGHUP), or its session or client ended.

    This is not an Exception, because libraries convert those to other errors (docker-py: an engine
    error).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupts:
    """Whether signals interrupt now, and the signals received while they do not."""

    def __init__(self) -> None:
        self.are_deferred = False
        self.received: list[int] = []

    def handle(self, number: int, frame: object) -> None:
        if self.are_deferred:
            self.received.append(number)
            return
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)


_interrupts = _Interrupts()


def interrupt_on_signals() -> None:
    """Raise Interrupted in the main thread, once, when a signal asks this process to end.

    A signal that was ignored when this process started stays ignored, as `nohup` requires.
    """
    _interrupts.are_deferred = False
    _interrupts.received.clear()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupts.handle)


def defer_interrupts() -> None:
    """Defer signals until `allow_interrupts`; a process that ends earlier ignores them."""
    _interrupts.are_deferred = True


def allow_interrupts() -> None:
    """Let signals interrupt again.

    Raises:
        Interrupted: one was received while interrupts were deferred.
    """
    _interrupts.are_deferred = False
    if _interrupts.received:
        number = _interrupts.received[0]
        _interrupts.received.clear()
        _interrupts.handle(number, None)
