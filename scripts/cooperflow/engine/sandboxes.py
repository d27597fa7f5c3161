"""Modal, as far as a run touches it: tags of its sandboxes, credentials, what is left to remove."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from cooperflow.engine.containers import EngineError, Labels

# Modal's tags are plain words: no colons, no slashes.
RESULTS = "cooperflow-results"
RUN = "cooperflow-run"
TOKEN = "cooperflow-token"
# The apps in which upstream starts sandboxes: of agents, and of gradings.
APPS = ("cooperbench", "cooperbench-eval")


def tags(labels: Labels) -> dict[str, str]:
    """Return the tags of all sandboxes of one attempt."""
    return {RESULTS: labels.results, RUN: run_tag(labels.run), TOKEN: labels.token}


def run_tag(run: str) -> str:
    """Return a run's key as a plain word."""
    return hashlib.sha256(run.encode()).hexdigest()[:24]


def lacking() -> str:
    """Return what Modal's client lacks to log in, empty if nothing. Asks nobody."""
    from modal.config import config

    if config.get("token_id") and config.get("token_secret"):
        return ""
    return (
        "Modal: there are no credentials. Run `.venv/bin/modal token new`, or set MODAL_TOKEN_ID "
        "and MODAL_TOKEN_SECRET."
    )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    import modal.exception

    try:
        yield
    except (modal.exception.Error, OSError) as error:
        raise EngineError(f"Modal: {error}") from error


def answers() -> None:
    """Look whether Modal lets us in.

    Raises:
        EngineError: it does not, or cannot be reached.
    """
    import modal

    with _told():
        modal.App.lookup(APPS[0], create_if_missing=True)


def remove(chosen: Mapping[str, str]) -> int:
    """End all sandboxes that carry these tags; return how many.

    Raises:
        EngineError: Modal cannot be asked.
    """
    import modal

    count = 0
    with _told():
        for name in APPS:
            try:
                app: Any = modal.App.lookup(name)
            except modal.exception.NotFoundError:
                continue
            for sandbox in modal.Sandbox.list(app_id=app.app_id, tags=dict(chosen)):
                sandbox.terminate()
                count += 1
    return count
