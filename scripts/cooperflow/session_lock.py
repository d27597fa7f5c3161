"""Lock of a results folder and a clone: a second session reports the running one and stops."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import time
import uuid
from pathlib import Path
from typing import IO

from cooperflow import atomic_io, locks
from cooperflow.errors import UserError
from cooperflow.layout import Results
from cooperflow.processes import on_a_node, session_process, this_process

_held: list[IO[str]] = []

# A job of an ended session may be asking for the lock: number of tries, and the pause.
TRIES, PAUSE = 10, 0.2


def hold(results: Results, clone: Path) -> None:
    """Hold the results folder and the clone until this process ends.

    Raises:
        UserError: another session holds a lock.
    """
    for path in (results.lock, clone / ".snakemake" / "cooperflow.lock"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{path.parent} cannot be written ({error.strerror}). Make it writable, or set "
                "`results` to a folder that is."
            ) from None
        if not _lock(stream):
            stream.seek(0)
            raise UserError(_who(stream.read(), path))
        _held.append(stream)
        with contextlib.suppress(OSError):  # a full disk: the lock itself is enough
            stream.truncate(0)
            json.dump(
                {
                    "process": str(this_process()),
                    "pid": os.getpid(),
                    "host": this_process().host,
                    "user": getpass.getuser(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                },
                stream,
            )
            stream.flush()


def _lock(stream: IO[str]) -> bool:
    for _ in range(TRIES):
        if locks.try_lock(stream.fileno()):
            return True
        time.sleep(PAUSE)
    return False


def holder(results: Results) -> str | None:
    """Return the process that holds the results folder, None without one.

    None also on another machine if the file system's locks do not reach beyond one machine.
    """
    try:
        with results.lock.open("r+", encoding="utf-8") as stream:
            if not locks.try_lock(stream.fileno(), shared=True):
                return str(json.load(stream)["process"])
    except (OSError, ValueError, KeyError):
        return None
    return None


def orphaned(results: Results) -> str:
    """Return why a job on a cluster's node must not start, empty if it may.

    A queue outlives its session, and the next session submits the same jobs again.
    """
    mine = str(session_process())
    for _ in range(TRIES):  # the file's content may lag behind the lock
        if not on_a_node() or holder(results) == mine:
            return ""
        time.sleep(PAUSE)
    return (
        f"the session that submitted this job has ended, or the lock {results.lock} is not "
        "visible here: the file system must carry flock between machines (Lustre: mount with "
        "-o flock; NFS: version 4)"
    )


def _who(text: str, path: Path) -> str:
    try:
        holder = json.loads(text)
        who = (
            f"process {holder['pid']} on {holder['host']}, started by {holder['user']} "
            f"at {holder['since']}"
        )
    except (ValueError, KeyError, TypeError):
        who = f"a process that holds {path}"
    where = path.parent.parent
    return (
        f"Another session is running in {where}: {who}.\n"
        "Wait for it, or end it (Ctrl-C there, or `kill` with that number), then start again."
    )


def identity(results: Results) -> str:
    """Return the id of a results folder, created at its first use; it moves with the folder."""
    try:
        return results.identity.read_text().strip()
    except FileNotFoundError:
        atomic_io.write_text(results.identity, uuid.uuid4().hex + "\n")
        return results.identity.read_text().strip()
