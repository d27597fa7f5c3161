"""Modal sandboxes of runs: tags, credentials and removal."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError

# Modal's tags are plain words: no colons, no slashes.
RESULTS = "cooperflow-results"
RUN = "cooperflow-run"
TOKEN = "cooperflow-token"
# The apps in which upstream starts sandboxes: for agents, and for evaluations.
APPS = ("cooperbench", "cooperbench-eval")
# Time limit for one answer of Modal, seconds.
ANSWER_SECONDS = 60


def tags(labels: Labels) -> dict[str, str]:
    """Return the tags of all sandboxes of one attempt."""
    return {RESULTS: labels.results, RUN: run_tag(labels.run), TOKEN: labels.token}


def run_tag(run: str) -> str:
    """Return a run's key as a plain word."""
    return hashlib.sha256(run.encode()).hexdigest()[:24]


def missing_credentials() -> str:
    """Return what Modal's client lacks to log in, empty if nothing. Makes no request."""
    from modal.config import config

    if config.get("token_id") and config.get("token_secret"):
        return ""
    return (
        "Modal: no credentials. Run `.venv/bin/modal token new`, or set MODAL_TOKEN_ID "
        "and MODAL_TOKEN_SECRET."
    )


def check_access() -> None:
    """Check that Modal accepts the credentials.

    Raises:
        EngineError: it does not, or cannot be reached.
    """
    _call_modal()


def remove(tags: Mapping[str, str]) -> int:
    """End all sandboxes with these tags; return their number.

    Raises:
        EngineError: Modal cannot be asked.
    """
    return _call_modal(*(f"{key}={value}" for key, value in tags.items()))


def remove_stale(results: str, run: str | None = None) -> int:
    """End leftovers of a results folder, or of a run in it; return their number.

    Raises:
        EngineError: Modal cannot be asked.
    """
    return remove({RESULTS: results, **({RUN: run_tag(run)} if run else {})})


def _call_modal(*tags: str) -> int:
    """Call Modal in a separate process: its client keeps threads, which no fork may inherit."""
    try:
        process = subprocess.run(
            [sys.executable, "-m", __name__, *tags],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"Modal does not answer within {ANSWER_SECONDS} s") from error
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no word"]
        raise EngineError(f"Modal: {lines[-1][:300]}")
    return int(process.stdout)


def _main(tags: Mapping[str, str]) -> int:
    """End the sandboxes with these tags; without tags only check the credentials."""
    import modal

    if not tags:
        modal.App.lookup(APPS[0], create_if_missing=True)
    count = 0
    for name in APPS if tags else ():
        try:
            app: Any = modal.App.lookup(name)
        except modal.exception.NotFoundError:
            continue
        for sandbox in modal.Sandbox.list(app_id=app.app_id, tags=dict(tags)):
            sandbox.terminate()
            count += 1
    return count


if __name__ == "__main__":
    print(_main(dict(argument.split("=", 1) for argument in sys.argv[1:])))
