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

# Modal's tags must not contain colons or slashes.
RESULTS = "cooperflow-results"
RUN = "cooperflow-run"
TOKEN = "cooperflow-token"
# The Modal apps in which upstream starts sandboxes for agents and for evaluations.
APPS = ("cooperbench", "cooperbench-eval")
# Time limit of one request to Modal, seconds.
ANSWER_SECONDS = 60


def tags(labels: Labels) -> dict[str, str]:
    """Return the tags of one attempt's sandboxes."""
    return {RESULTS: labels.results, RUN: run_tag(labels.run), TOKEN: labels.token}


def run_tag(run: str) -> str:
    """Return a run's key in the characters that a tag may have."""
    return hashlib.sha256(run.encode()).hexdigest()[:24]


def missing_credentials() -> str:
    """Return a message if Modal's client has no credentials, else empty. Makes no request."""
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
        EngineError: Modal refuses them or cannot be reached.
    """
    _call_modal()


def remove(tags: Mapping[str, str]) -> int:
    """End all sandboxes with these tags; return their number.

    Raises:
        EngineError: Modal cannot be reached.
    """
    return _call_modal(*(f"{key}={value}" for key, value in tags.items()))


def remove_stale(results: str, run: str | None = None) -> int:
    """End leftover sandboxes of a results folder or of one run; return their number.

    Raises:
        EngineError: Modal cannot be reached.
    """
    return remove({RESULTS: results, **({RUN: run_tag(run)} if run else {})})


def _call_modal(*tags: str) -> int:
    """Call Modal in a separate process, because its client's threads must not be forked."""
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
    """End the sandboxes with these tags; without tags, only check the credentials."""
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
