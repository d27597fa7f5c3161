"""The private folder for sockets and scratch files, and the removal of stale ones.

Stdlib only: the jobs' client uses it too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cooperflow import locks

# A unix socket's address has at most 107 bytes; the longest one below this path takes 48.
LONGEST = 59

_PLAIN = re.compile(r"[\w./+@:,=-]+", re.ASCII)


def is_plain(path: str) -> bool:
    """True if ``path`` means the same in a shell, in a URL and in a config file."""
    return bool(_PLAIN.fullmatch(path))


def folder() -> Path:
    """Return a folder that only this user can enter, short enough for a socket's path.

    Raises:
        PermissionError: the path exists and does not belong to this user alone.
    """
    base_dir = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    # A cluster passes the variable of one machine to another, where the folder does not exist.
    if not (
        Path(base_dir).is_dir() and is_plain(base_dir) and len(os.fsencode(base_dir)) <= LONGEST
    ):
        base_dir = "/tmp"
    base = Path(base_dir) / f"cooperflow-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{base} does not belong to this user alone")
    return base


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a private folder, which is removed afterwards.

    It is locked while this process runs, so that a killed process's folder can be recognized.
    """
    path = Path(tempfile.mkdtemp(prefix="run-", dir=folder()))
    with locks.locked(path, os.O_RDONLY):
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def remove_stale_files() -> None:
    """Remove the scratch folders and sockets of dead processes."""
    for path in list(folder().iterdir()):
        with contextlib.suppress(OSError), _unlocked(path):
            if path.name.startswith("run-") and path.is_dir():
                shutil.rmtree(path)
            elif path.suffix == ".lock":
                # The job that starts a launcher holds this lock until the launcher listens.
                _remove_unless_served(path)


@contextlib.contextmanager
def _unlocked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder. BlockingIOError (an OSError) if a process holds it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if not locks.try_lock(handle):
            raise BlockingIOError(path)
        yield
    finally:
        os.close(handle)


def _remove_unless_served(lock: Path) -> None:
    """Remove a launcher's socket, log and lock unless it listens."""
    address = lock.with_suffix(".sock")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(address))
        return
    address.unlink(missing_ok=True)
    lock.with_suffix(".log").unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
