"""File locks that the kernel releases when their process ends.

They use flock directly, because the package filelock truncates the locked file and can neither lock
a folder nor test a lock without taking it. The module imports only the standard library, since
every job imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cooperflow.errors import UserError


def lock(handle: int) -> None:
    """Lock an open file or folder; wait while another process holds the lock."""
    fcntl.flock(handle, fcntl.LOCK_EX)


def try_lock(handle: int, shared: bool = False) -> bool:
    """Try to lock an open file or folder; return False if another process holds the lock.

    Args:
        shared: only test the lock; concurrent tests do not block each other.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def hold(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    """Hold the lock of a file or folder and yield its handle; wait while another process has it."""
    handle = os.open(path, flags, 0o666)
    try:
        lock(handle)
        yield handle
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file."""
    try:
        with path.open("rb") as stream:
            return not try_lock(stream.fileno(), shared=True)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def claim(folder: Path, name: str, seconds: float) -> Iterator[None]:
    """Hold the claim on ``name``, which only one process on this file system can have.

    Waits up to ``seconds`` for another process that is about to end.

    Raises:
        UserError: another process still holds it.
        Interrupted: Snakemake or the job's client has ended.
    """
    from cooperflow import processes  # here, because its imports are slow

    folder.mkdir(parents=True, exist_ok=True)
    path = _claim_path(folder, name)
    limit = time.monotonic() + seconds
    while (handle := _lock_existing(path)) is None:
        if time.monotonic() > limit:
            holder = path.read_text().strip() if path.exists() else "?"
            raise UserError(
                f"{name}: locked by another process ({holder}). Wait until it has ended."
            )
        processes.raise_if_orphaned()
        time.sleep(0.2)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(processes.this_process()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def is_claimed(folder: Path, name: str) -> bool:
    """Return whether a process on this file system holds the claim on ``name``."""
    return is_locked(_claim_path(folder, name))


def _claim_path(folder: Path, name: str) -> Path:
    return folder / hashlib.sha256(name.encode()).hexdigest()[:24]


def _lock_existing(path: Path) -> int | None:
    """Lock a file that its holder removes on release; return its handle, None if it is locked."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    # The previous holder may have removed the file between open and lock.
    with contextlib.suppress(FileNotFoundError):
        if try_lock(handle) and os.fstat(handle).st_ino == os.stat(path).st_ino:
            return handle
    os.close(handle)
    return None
