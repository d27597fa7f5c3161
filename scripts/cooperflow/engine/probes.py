"""Cheap probes of what a run needs: the engine, the provider's host, free disk space."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from cooperflow.engine import containers
from cooperflow.errors import EngineError

# Interval of probes of a running attempt's engine, and the time limit of a probe, seconds.
EVERY = 2.0
PATIENCE = 5.0

# A file system with less than this is full: a record or a document may not fit, bytes.
FULL = 1_000_000


class EngineProbe:
    """Thread that probes the engine at intervals and measures how long it gave no answer."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._silent_since: float | None = None
        self._stalled = 0.0
        self.gone = False  # it refuses at once: neither it nor its containers run
        self._thread = threading.Thread(target=self._ask, daemon=True, name="engine probe")

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()

    @property
    def stalled(self) -> float:
        """Seconds for which the engine gave no answer, up to now."""
        since = self._silent_since
        return self._stalled + (time.monotonic() - since if since is not None else 0.0)

    def _ask(self) -> None:
        while not self._ended.wait(EVERY):
            asked = time.monotonic()
            well = containers.is_answering(PATIENCE)
            now = time.monotonic()
            if well and self._silent_since is not None:
                self._stalled += now - self._silent_since
                self._silent_since = None
            elif not well and self._silent_since is None:
                self._silent_since = asked
            self.gone = not well and now - asked < PATIENCE / 2


def engine_problem() -> str:
    """Return why the engine cannot start a run, empty if it can."""
    try:
        containers.engine(PATIENCE).close()
    except EngineError as error:
        return f"Docker does not answer ({str(error)[:120]})"
    return ""


def provider_problem(url: str | None) -> str:
    """Return why the provider's host cannot be reached, empty if it can (or is not known).

    The client library of the calls makes the request, so that a proxy is used for both or for
    neither. No model is called, so nothing is paid; any answer, or a time-out, counts as reached.
    """
    import httpx

    if not url:
        return ""
    try:
        # Nothing secret is sent, and certificates are not verified here.
        httpx.head(url, timeout=PATIENCE, verify=False)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        where = httpx.URL(url)
        port = where.port or (80 if where.scheme == "http" else 443)
        return f"{where.host}:{port} cannot be reached ({error or type(error).__name__})"
    except Exception:  # a broken answer is an answer; an unknown kind of proxy fails the call
        return ""
    return ""


def is_full(folder: Path) -> bool:
    """Return whether the file system of ``folder`` is full."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return True
    return status.f_bavail * status.f_frsize < FULL or status.f_favail == 0 < status.f_files
