"""Pulling one image through Docker: progress, pauses, and the meaning of errors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import docker
import docker.errors
import requests.exceptions
import tenacity

from cooperflow.errors import UserError
from cooperflow.images.registry import DEFAULT_PAUSE, RateLimited, Transient

# Interval of progress lines, seconds.
TICK = 5.0
LONGEST_PAUSE = 300.0


@dataclass
class Progress:
    """Bytes of an image's layers as Docker reports them, layer by layer."""

    image: str
    position: str  # image i of n
    packed: int | None = None  # packed bytes of all layers, if the manifest is known
    started: float = field(default_factory=time.monotonic)
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    present: int = 0
    done: int = 0

    def update(self, event: Mapping[str, Any]) -> None:
        layer, status = str(event.get("id") or ""), str(event.get("status") or "")
        detail = event.get("progressDetail") or {}
        if status == "Downloading":
            total = int(detail.get("total") or 0)
            self.layers[layer] = (int(detail.get("current") or 0), total)
        elif status in ("Download complete", "Verifying Checksum") and layer in self.layers:
            total = self.layers[layer][1]
            self.layers[layer] = (total, total)
        elif status == "Already exists":
            self.present += 1
        elif status == "Pull complete":
            self.done += 1

    @property
    def received(self) -> int:
        return sum(current for current, _ in self.layers.values())

    @property
    def total(self) -> int:
        reported = sum(total for _, total in self.layers.values())
        # Layers that are present are not fetched: the manifest's sum is then too large.
        return reported if self.packed is None or self.present else max(self.packed, reported)

    def line(self, now: float) -> str:
        """Return the state of the pull as a line."""
        seconds = max(now - self.started, 1e-3)
        rate, remaining = self.received / seconds, max(self.total - self.received, 0)
        text = f"{self.position}: {self.image}: {_mb(self.received)} of {_mb(self.total)} MB"
        if remaining and rate:
            return f"{text}, {rate / 1e6:.1f} MB/s, about {remaining / rate:.0f} s left"
        return f"{text}, unpacking ({self.done} layers done)" if self.layers else text


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f}"


def pull_once(
    client: docker.DockerClient,
    name: str,
    tag: str,
    progress: Progress,
    report: Callable[[str], None],
) -> None:
    """Pull ``name`` at ``tag`` (or a digest) and report the progress.

    Raises:
        Transient: the pull was interrupted, or the registry cannot serve now.
        UserError: the pull cannot succeed until the user acts.
    """
    try:
        stream = client.api.pull(name, tag=tag, stream=True, decode=True)
        follow(stream, progress, report)
    except docker.errors.APIError as error:
        raise interpret_error(name, str(error.explanation or error)) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise Transient(str(error)) from error


def follow(
    events: Iterable[Mapping[str, Any]],
    progress: Progress,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Read Docker's stream to its end; raise the exception of an error in it."""
    last_report = clock()
    for event in events:
        if event.get("error"):
            raise interpret_error(progress.image, str(event["error"]))
        progress.update(event)
        now = clock()
        if now - last_report >= TICK:
            last_report = now
            report(progress.line(now))


def interpret_error(name: str, text: str) -> Exception:
    """Return the exception for Docker's message about a pull."""
    lowered, short = text.lower(), " ".join(text.split())[:300]
    if "toomanyrequests" in lowered or "429" in lowered or "rate limit" in lowered:
        return RateLimited(DEFAULT_PAUSE)
    if "no space left on device" in lowered:
        return UserError(
            f"{name}: Docker's disk is full ({short}). `docker system df` shows its use; "
            "images.rolling: true in the config needs less."
        )
    if (
        "unauthorized" in lowered
        or "access denied" in lowered
        or "authentication required" in lowered
    ):
        return UserError(
            f"{name}: the registry refuses it, or has no such image ({short}). Log in with "
            "`docker login`, or check images.registry."
        )
    if "manifest unknown" in lowered or "not found" in lowered or "invalid reference" in lowered:
        return UserError(f"{name}: the registry has no such image ({short}).")
    if "no matching manifest" in lowered:
        return UserError(
            f"{name}: the registry lacks an image for this machine's architecture ({short})."
        )
    return Transient(short)


def retry_pull(
    work: Callable[[], None], name: str, tries: int, pause: float, report: Callable[[str], None]
) -> None:
    """Call ``work`` until it succeeds: again after a pause, at most ``tries`` times.

    A rate limit is waited for as long as the registry asks, and does not count as a try.

    Raises:
        UserError: every try failed, or waiting cannot help.
    """
    failed = 0

    def is_exhausted(state: tenacity.RetryCallState) -> bool:
        nonlocal failed
        error = state.outcome.exception() if state.outcome else None
        failed += not isinstance(error, RateLimited)
        return failed >= tries

    grow = tenacity.wait_exponential_jitter(initial=pause, max=LONGEST_PAUSE, jitter=pause)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return error.seconds + 0.5 if isinstance(error, RateLimited) else grow(state)

    def announce(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0.0
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
        if isinstance(error, RateLimited):
            report(
                f"{name}: the registry's rate limit is reached; waiting {seconds:.0f} s, until "
                f"{until} (`docker login` raises the limit at Docker Hub)"
            )
        else:
            report(f"{name}: {error}; try {failed + 1} of {tries} at {until}")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Transient),
        stop=is_exhausted,
        wait=wait,
        before_sleep=announce,
        reraise=True,
    )
    try:
        retrying(work)
    except Transient as error:
        raise UserError(
            f"{name}: could not be pulled in {tries} tries ({error}). Start again: the images "
            "on this machine stay."
        ) from error


def report_now(text: str) -> None:
    """Print without buffering: a pull takes long, and its output may go to a file."""
    print(text)
    sys.stdout.flush()
