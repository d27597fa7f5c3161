"""The private folder for sockets and scratch files: who may enter, and what the dead left in it.

Stdlib only: the jobs' client uses it too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path


def folder() -> Path:
    """Return a folder that only this user can enter, short enough for a socket's path.

    Raises:
        PermissionError: something of that name is there and is not this user's own.
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"cooperflow-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{base} is not this user's own")
    return base


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a private folder that is gone afterwards.

    It is locked as long as this process lives; what a killed one left can so be told.
    """
    path = Path(tempfile.mkdtemp(prefix="run-", dir=folder()))
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep() -> int:
    """Remove the scratch folders and sockets of dead processes; return how many."""
    count = 0
    for path in list(folder().iterdir()):
        with contextlib.suppress(OSError):
            if path.name.startswith("run-") and path.is_dir():
                count += _if_unlocked(path, os.O_RDONLY, lambda p=path: shutil.rmtree(p))
            elif path.suffix == ".lock":
                # Whoever starts a launcher holds this lock until it listens.
                count += _if_unlocked(path, os.O_RDWR, lambda p=path: _unless_served(p))
    return count


def _if_unlocked(path: Path, flags: int, remove: object) -> int:
    handle = os.open(path, flags)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return int(bool(remove() is not False)) if callable(remove) else 0
    except BlockingIOError:
        return 0
    finally:
        os.close(handle)


def _unless_served(lock: Path) -> bool:
    """Remove a launcher's socket and lock unless it listens."""
    address = lock.with_suffix(".sock")
    with socket.socket(socket.AF_UNIX) as probe:
        with contextlib.suppress(OSError):
            probe.connect(str(address))
            return False
    address.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
    return True
