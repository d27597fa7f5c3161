"""Halt of a session: after a provider has refused a run, no more paid runs start."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from cooperflow import atomic_io, locks, processes
from cooperflow.layout import Results

# Time in which another run may declare the same halt, seconds.
CLAIM_SECONDS = 30
# Interval at which a session with jobs on other machines reads their note, seconds.
LOOK = 3.0

ADVICE = {
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


def declare(
    results: Results, run: str, reason: str, message: str, session: processes.Process | None = None
) -> bool:
    """Halt this session for paid runs, and ask Snakemake to start no more jobs.

    Snakemake lets running jobs end when it gets a SIGTERM. Returns whether this run is the first
    to declare it: the message is printed once.

    Args:
        session: the session process, if the caller is not a job of it.
    """
    owner = session or processes.session_process()
    with locks.claim(results.claims, "halt", CLAIM_SECONDS):
        if current(results, owner):
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


def watch(results: Results) -> None:
    """Look in the session process for a note of jobs or of `make drain`, and halt if there is one.

    Jobs on other machines cannot signal it. Their files arrive late, so a few more jobs may be
    submitted; they do nothing.
    """

    def look() -> None:
        while current(results) is None:
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True, name="halt").start()


def current(results: Results, session: processes.Process | None = None) -> str | None:
    """Return why this session (or ``session``) is halted, None if it is not."""
    note = atomic_io.read_json(results.halt)
    if isinstance(note, dict) and note.get("owner") == str(session or processes.session_process()):
        return str(note["message"])
    return None


def clear(results: Results) -> None:
    """Remove the halt of an earlier session."""
    Path(results.halt).unlink(missing_ok=True)
