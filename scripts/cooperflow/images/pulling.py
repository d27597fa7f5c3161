"""Pulling one image through Docker: progress, pauses, and what its errors mean."""

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
from cooperflow.images.registry import UNTOLD_PAUSE, RateLimited, Transient

# Between two lines of progress, seconds.
TICK = 5.0
LONGEST_PAUSE = 300.0


@dataclass
class Progress:
    """The bytes of an image's layers as Docker tells them, layer by layer."""

    image: str
    place: str  # image i of n
    whole: int | None = None  # packed bytes of all layers, where the manifest was told
    began: float = field(default_factory=time.monotonic)
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
    def got(self) -> int:
        return sum(current for current, _ in self.layers.values())

    @property
    def total(self) -> int:
        seen = sum(total for _, total in self.layers.values())
        # What is here already is never fetched: the manifest's sum is then too much.
        return seen if self.whole is None or self.present else max(self.whole, seen)

    def line(self, now: float) -> str:
        """Return where the pull is, in a line."""
        seconds = max(now - self.began, 1e-3)
        rate, left = self.got / seconds, max(self.total - self.got, 0)
        text = f"{self.place}: {self.image}: {_mb(self.got)} of {_mb(self.total)} MB"
        if left and rate:
            return f"{text}, {rate / 1e6:.1f} MB/s, about {left / rate:.0f} s left"
        return f"{text}, unpacking ({self.done} layers done)" if self.layers else text


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f}"


def once(
    client: docker.DockerClient,
    name: str,
    tag: str,
    progress: Progress,
    tell: Callable[[str], None],
) -> None:
    """Pull ``name`` at ``tag`` (or a digest), telling how it goes.

    Raises:
        Transient: it broke off, or the registry cannot serve now.
        UserError: it will not work until the user does something.
    """
    try:
        stream = client.api.pull(name, tag=tag, stream=True, decode=True)
        follow(stream, progress, tell)
    except docker.errors.APIError as error:
        raise meaning(name, str(error.explanation or error)) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise Transient(str(error)) from error


def follow(
    events: Iterable[Mapping[str, Any]],
    progress: Progress,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Read Docker's stream to its end; raise what an error in it means."""
    told = clock()
    for event in events:
        if event.get("error"):
            raise meaning(progress.image, str(event["error"]))
        progress.update(event)
        now = clock()
        if now - told >= TICK:
            told = now
            tell(progress.line(now))


def meaning(name: str, text: str) -> Exception:
    """Return the exception that Docker's words about a pull stand for."""
    said, short = text.lower(), " ".join(text.split())[:300]
    if "toomanyrequests" in said or "429" in said or "rate limit" in said:
        return RateLimited(UNTOLD_PAUSE)
    if "no space left on device" in said:
        return UserError(
            f"{name}: Docker's disk is full ({short}). `docker system df` shows what takes it; "
            "images.rolling: true in the config needs less."
        )
    if "unauthorized" in said or "access denied" in said or "authentication required" in said:
        return UserError(
            f"{name}: the registry refuses it, or has no such image ({short}). Log in with "
            "`docker login`, or check images.registry."
        )
    if "manifest unknown" in said or "not found" in said or "invalid reference" in said:
        return UserError(f"{name}: the registry has no such image ({short}).")
    if "no matching manifest" in said:
        return UserError(f"{name}: there is no image for this machine's kind ({short}).")
    return Transient(short)


def persist(
    work: Callable[[], None], name: str, tries: int, pause: float, tell: Callable[[str], None]
) -> None:
    """Do ``work`` until it is done: again after a pause, at most ``tries`` times.

    A rate limit is waited for as long as the registry says, and is no try.

    Raises:
        UserError: it failed to the last try, or cannot be cured by waiting.
    """
    failed = 0

    def over(state: tenacity.RetryCallState) -> bool:
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
            tell(
                f"{name}: the registry's rate limit is reached; waiting {seconds:.0f} s, until "
                f"{until} (`docker login` raises the limit at Docker Hub)"
            )
        else:
            tell(f"{name}: {error}; try {failed + 1} of {tries} at {until}")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Transient),
        stop=over,
        wait=wait,
        before_sleep=announce,
        reraise=True,
    )
    try:
        retrying(work)
    except Transient as error:
        raise UserError(
            f"{name}: could not be pulled in {tries} tries ({error}). Start again: images that "
            "are here stay."
        ) from error


def say(text: str) -> None:
    """Print at once: a pull takes long, and its output may go to a file."""
    print(text)
    sys.stdout.flush()
