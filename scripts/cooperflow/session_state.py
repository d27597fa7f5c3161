"""State shared by the jobs of a session: the lock of the results folder, halts, rate limits."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cooperflow import atomic_io, locks
from cooperflow.errors import UserError
from cooperflow.layout import Results
from cooperflow.processes import Process, on_a_node, session_process, this_process

_lock_files: list[IO[str]] = []

# A job of an ended session may be testing the lock: number of tries, and the pause between them.
TRIES, PAUSE = 10, 0.2

# Time within which other runs may declare the same halt, seconds.
HALT_CLAIM_SECONDS = 30
# Interval at which a session checks for a halt declared on another machine, seconds.
LOOK_SECONDS = 3.0

HALT_ADVICE = {
    "auth": "The provider refused the key. Set the right one in the environment variable {key}.",
    "model_not_found": "The provider does not know the model. Correct models.{model}.model.",
    "setup_error": "cooperbench cannot be imported here. Run `make setup`.",
    "quota": "The provider's quota is used up. Raise it, or wait until it is renewed.",
    "bad_request": "The config asks for more output tokens than the model can write. Lower"
    " agent.config.model.model_kwargs.max_tokens (or max_completion_tokens), or that of"
    " models.{model}.agent.",
}

# Not a failure: the user asked for it (`make drain`).
DRAIN = "drain"
DRAINING = (
    "drained: running runs finish, nothing more starts. Start again as usual to resume; "
    "evaluations that have not started run then."
)

# Longest queue, seconds: a longer queue was written before the clock was set back.
LONGEST_QUEUE = 3600.0


def hold_lock(results: Results, clone: Path) -> None:
    """Lock the results folder and the clone until this process ends.

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
        try:
            is_held = _lock(stream)
        except OSError as error:
            raise UserError(
                f"{path.parent} cannot be locked ({error.strerror}): its file system has no file "
                "locks. Mount it with them (NFS: version 4, or a lock daemon), or set `results` to "
                "a folder on another file system."
            ) from None
        if not is_held:
            stream.seek(0)
            raise UserError(_running_session(stream.read(), path))
        _lock_files.append(stream)
        with contextlib.suppress(OSError):  # a full disk: the lock itself is enough
            stream.truncate(0)
            json.dump(
                {
                    "process": str(this_process()),
                    "pid": os.getpid(),
                    "host": this_process().host,
                    "user": _user_name(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                },
                stream,
            )
            stream.flush()


def _user_name() -> str:
    """Return the name of this user, or the number of a user without a name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _lock(stream: IO[str]) -> bool:
    for _ in range(TRIES):
        if locks.try_lock(stream.fileno()):
            return True
        time.sleep(PAUSE)
    return False


def lock_holder(results: Results) -> str | None:
    """Return the session process that has locked the results folder, None without one.

    On another machine the result is also None if the file system does not share locks.
    """
    try:
        with results.lock.open("r+", encoding="utf-8") as stream:
            if not locks.try_lock(stream.fileno(), shared=True):
                return str(json.load(stream)["process"])
    except (OSError, ValueError, KeyError):
        return None
    return None


def orphan_reason(results: Results) -> str:
    """Return the reason why a job on a cluster's node must not start, empty if it may.

    Queued jobs outlive their session, and the next session submits the same jobs again.
    """
    session = str(session_process())
    for _ in range(TRIES):  # the file's content may become visible later than the lock
        if not on_a_node() or lock_holder(results) == session:
            return ""
        time.sleep(PAUSE)
    return (
        f"the session that submitted this job has ended, or the lock {results.lock} is not "
        "visible here: the file system must support flock across machines (Lustre: mount with "
        "-o flock; NFS: version 4)"
    )


def _running_session(text: str, path: Path) -> str:
    try:
        record = json.loads(text)
        holder = (
            f"process {record['pid']} on {record['host']}, started by {record['user']} "
            f"at {record['since']}"
        )
    except (ValueError, KeyError, TypeError):
        holder = f"a process that holds {path}"
    folder = path.parent.parent
    return (
        f"Another session is running in {folder}: {holder}.\n"
        "Wait for it, or end it (Ctrl-C there, or `kill` with that number), then start again."
    )


def results_identity(results: Results) -> str:
    """Return the id of a results folder, created at the first use; it moves with the folder."""
    try:
        return results.identity.read_text().strip()
    except FileNotFoundError:
        # Jobs on several machines may start at the same time; one of them creates it.
        with locks.claim(results.claims, "identity", HALT_CLAIM_SECONDS):
            if not results.identity.exists():
                atomic_io.write_text(results.identity, uuid.uuid4().hex + "\n")
        return results.identity.read_text().strip()


def declare_halt(
    results: Results, run: str, reason: str, message: str, session: Process | None = None
) -> bool:
    """Halt this session: paid runs stop, and Snakemake is asked to start no more jobs.

    On SIGTERM Snakemake lets running jobs finish. Returns whether this run is the first to declare
    the halt, so that the message is printed once.

    Args:
        session: the session process, if the caller is not one of its jobs.
    """
    owner = session or session_process()
    with locks.claim(results.claims, "halt", HALT_CLAIM_SECONDS):
        if halt_message(results, owner):
            return False
        atomic_io.write_json(
            results.halt,
            {
                "schema": 1,
                "owner": str(owner),
                "run": run,
                "reason": reason,
                "message": message,
                "time": time.time(),
            },
        )
    if owner is not None and owner.is_local and owner.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)
    return True


def watch_for_halt(results: Results) -> None:
    """Halt the session process when a job or `make drain` on any machine declares a halt.

    Jobs on other machines cannot send it a signal. Their files become visible late, so a few more
    jobs may be submitted; these do nothing.
    """

    def wait_for_note() -> None:
        while halt_message(results) is None:
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_note, daemon=True, name="halt").start()


def halt_message(results: Results, session: Process | None = None) -> str | None:
    """Return the reason why this session (or ``session``) is halted, None if it is not."""
    note = atomic_io.read_json(results.halt)
    if isinstance(note, dict) and note.get("owner") == str(session or session_process()):
        return str(note["message"])
    return None


def clear(results: Results) -> None:
    """Remove the state of earlier sessions: halt, log of attempts, notifications, rate limits."""
    results.halt.unlink(missing_ok=True)
    results.breaker.unlink(missing_ok=True)
    for folder in (results.notifications, results.rate_limits):
        shutil.rmtree(folder, ignore_errors=True)


def next_turn(due: float | None, now: float, interval: float) -> tuple[float, float]:
    """Return the time of the next call, and the earliest time of the call after it. Pure.

    Calls are spaced evenly, so that no minute has more than the limit.

    Args:
        due: earliest time of a call, None before the first call; seconds.
        now: current time; seconds.
        interval: between two calls; seconds.
    """
    turn = now if due is None or due > now + LONGEST_QUEUE else max(due, now)
    return turn, turn + interval


@dataclass(frozen=True)
class RateLimit:
    """The limit of one provider, kept in a file that all its runs share."""

    path: Path
    per_minute: float

    def reserve(self) -> float:
        """Reserve the time of the next call and return how long to wait for it, seconds.

        If the process is killed while it waits, the reservation is lost, which delays others by one
        interval.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locks.hold(self.path) as handle:
            now = time.time()
            turn, after = next_turn(_number(os.pread(handle, 64, 0)), now, 60.0 / self.per_minute)
            text = f"{after:.6f}\n".encode()
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))
            return turn - now


def _number(raw: bytes) -> float | None:
    try:
        return float(raw)
    except ValueError:
        return None
