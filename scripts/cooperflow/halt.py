"""A provider that refuses one run refuses all: no further paid run of this start begins."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

from cooperflow import atomic, processes
from cooperflow.layout import Results

# How long another run may take to say the same, seconds.
CLAIM_SECONDS = 30
# How often a start whose jobs run elsewhere looks for their word, seconds.
LOOK = 3.0

ADVICE = {
    "auth": "The provider refused the key. Set the right one in the environment variable {key}.",
    "model_not_found": "The provider does not know the model. Put models.{model}.model right.",
    "quota": "The provider's quota is used up. Raise it, or wait until it is renewed.",
}


def declare(results: Results, run: str, reason: str, message: str) -> bool:
    """Note that this start is over for paid runs, and ask Snakemake to begin no further job.

    Snakemake lets running jobs end when it gets a SIGTERM. Returns whether this run is the first
    one to say so: the message is to be told once.
    """
    owner = processes.owner()
    with processes.claim(results.claims, "halt", CLAIM_SECONDS):
        if current(results):
            return False
        atomic.write_json(
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
    if owner is not None and owner.here and owner.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)
    return True


def heed(results: Results) -> None:
    """In the process of a start whose jobs cannot signal it: look for their note, and obey it.

    Files of other machines come late, so that a few jobs may still be sent; they do nothing.
    """

    def look() -> None:
        while current(results) is None:
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True, name="halt").start()


def current(results: Results) -> str | None:
    """Return why this start is halted, None when it is not."""
    note = atomic.read_json(results.halt)
    if isinstance(note, dict) and note.get("owner") == str(processes.owner()):
        return str(note["message"])
    return None


def lift(results: Results) -> None:
    """Forget the halt of an earlier start."""
    Path(results.halt).unlink(missing_ok=True)
