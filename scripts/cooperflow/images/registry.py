"""Image registries: a client of the HTTP API (v2), pinned digests, and pulls through Docker.

The digests are pinned in images.lock.csv. tenacity is imported only for a pull.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import docker
import docker.auth
import docker.credentials.errors
import docker.errors
import requests
import requests.exceptions

from cooperflow import atomic_io, locks
from cooperflow.errors import UserError
from cooperflow.outcomes.provider_answer import parse_retry_after

if TYPE_CHECKING:
    from tenacity import RetryCallState

HUB = "docker.io"
HUB_API = "registry-1.docker.io"
LISTS = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
# Time limits for the connection to a registry and for its answer, seconds.
REQUEST_SECONDS = (10, 30)
# Pause after a rate limit without a Retry-After header, seconds.
DEFAULT_PAUSE = 300.0

PIN_COLUMNS = ("image", "digest", "size", "content")
# Locks of older versions lack the column `content`.
OLD_PIN_COLUMNS = PIN_COLUMNS[:3]
Moved = Literal["error", "pinned", "accept"]

# Interval of progress lines, seconds.
PROGRESS_SECONDS = 5.0
# Longest pause between two tries of a pull, seconds.
LONGEST_PAUSE = 300.0


class TransientError(Exception):
    """A temporary failure of the registry."""


class RateLimitError(TransientError):
    """The registry's rate limit is reached; ``seconds`` is the time to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the registry's rate limit is reached")
        self.seconds = seconds


class UnreachableError(Exception):
    """The registry cannot be reached; Docker may still reach it through its proxy or mirror."""


@dataclass(frozen=True)
class Reference:
    """An image in a registry."""

    host: str  # as Docker writes it
    path: str
    tag: str

    @property
    def name(self) -> str:
        """The name of the repository in a pull by Docker."""
        return self.path if self.host == HUB else f"{self.host}/{self.path}"

    @property
    def api(self) -> str:
        host = HUB_API if self.host == HUB else self.host
        scheme = "http" if _loopback(host) else "https"
        return f"{scheme}://{host}/v2/{self.path}"


@dataclass(frozen=True)
class Manifest:
    """Digest of an image, and its layers with packed sizes in bytes."""

    digest: str
    layers: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.layers)

    def as_dict(self) -> dict[str, Any]:
        return {"digest": self.digest, "layers": [list(layer) for layer in self.layers]}

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Manifest:
        return cls(document["digest"], tuple((str(d), int(s)) for d, s in document["layers"]))


def reference(image: str, registry: str | None) -> Reference:
    """Return the registry's reference for ``image`` (owner/name:tag)."""
    path, _, tag = image.rpartition(":")
    host, _, prefix = (registry or HUB).partition("/")
    return Reference(host, f"{prefix.strip('/')}/{path}".lstrip("/"), tag)


def _loopback(host: str) -> bool:
    """Return whether the registry is on this machine, where Docker uses plain HTTP."""
    name = host.rpartition(":")[0] or host
    return name == "localhost" or name.startswith("127.") or name == "[::1]"


class Client:
    """Client of one registry, with Docker's credentials if there are any."""

    def __init__(self, reference: Reference, architecture: str = "amd64") -> None:
        self._reference = reference
        self._architecture = architecture
        self._session = requests.Session()
        self._session.headers["Accept"] = ", ".join((*LISTS, *MANIFESTS))

    def digest(self) -> str:
        """Return the current digest of the tag. The request does not count towards a pull limit."""
        answer = self._request("HEAD", f"/manifests/{self._reference.tag}")
        digest = answer.headers.get("Docker-Content-Digest")
        if not digest:
            raise TransientError("the registry returned no digest")
        return str(digest)

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest of ``digest`` for this machine's architecture."""
        document = self._request("GET", f"/manifests/{digest}").json()
        if document.get("mediaType") in LISTS or "manifests" in document:
            for entry in document["manifests"]:
                platform = entry.get("platform") or {}
                if (platform.get("os"), platform.get("architecture")) == (
                    "linux",
                    self._architecture,
                ):
                    return Manifest(digest, self.manifest(entry["digest"]).layers)
            raise UserError(
                f"{self._reference.name}: has no image for linux/{self._architecture}, "
                "which Docker runs on."
            )
        parts = [*document["layers"], document["config"]]
        return Manifest(digest, tuple((p["digest"], int(p["size"])) for p in parts))

    def _request(self, method: str, path: str) -> requests.Response:
        reference = self._reference
        answer = self._send(method, reference.api + path)
        if answer.status_code == 401:
            self._log_in(answer.headers.get("WWW-Authenticate", ""))
            answer = self._send(method, reference.api + path)
        if answer.status_code == 429:
            raise RateLimitError(_pause(answer))
        if answer.status_code in (401, 403):
            raise UserError(
                f"{reference.name}: the registry refuses access ({answer.status_code}). "
                f"Log in with `docker login {'' if reference.host == HUB else reference.host}`"
                ", or check the name."
            )
        if answer.status_code == 404:
            raise UserError(
                f"{reference.name}:{reference.tag}: the registry {reference.host} has no "
                "such image. Check images.registry, or whether the mirror has it."
            )
        if answer.status_code >= 400:
            raise TransientError(f"the registry answered {answer.status_code}")
        return answer

    def _send(self, method: str, url: str) -> requests.Response:
        try:
            return self._session.request(method, url, timeout=REQUEST_SECONDS)
        except requests.exceptions.RequestException as error:
            raise UnreachableError(str(error)) from error

    def _log_in(self, challenge: str) -> None:
        """Get the token that the challenge demands, with Docker's credentials if there are any."""
        user = _credentials(self._reference.host)
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and user:
            self._session.auth = user
            return
        parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or "realm" not in parameters:
            return
        query = {
            "service": parameters.get("service", ""),
            "scope": parameters.get("scope", f"repository:{self._reference.path}:pull"),
        }
        try:
            answer = requests.get(
                parameters["realm"], params=query, auth=user, timeout=REQUEST_SECONDS
            )
        except requests.exceptions.RequestException as error:
            raise UnreachableError(str(error)) from error
        if answer.status_code == 429:
            raise RateLimitError(_pause(answer))
        if answer.ok:
            document = answer.json()
            token = document.get("token") or document.get("access_token")
            self._session.headers["Authorization"] = f"Bearer {token}"


def _credentials(host: str) -> tuple[str, str] | None:
    try:
        login = docker.auth.load_config().resolve_authconfig(host)
    except (
        docker.errors.DockerException,
        docker.credentials.errors.StoreError,
        OSError,
        json.JSONDecodeError,
    ):
        return None
    if not login or not login.get("username"):
        return None
    return str(login["username"]), str(login["password"])


def _pause(answer: requests.Response) -> float:
    """Return the seconds to wait after a refusal: its Retry-After, but at least 1."""
    seconds = parse_retry_after(answer.headers.get("Retry-After"))
    return DEFAULT_PAUSE if seconds is None else max(seconds, 1.0)


@dataclass(frozen=True)
class Pin:
    """An image and its pinned content."""

    image: str
    digest: str
    size: int  # packed bytes, 0 if unknown
    content: str = ""  # as containers.image_hash returns it, empty if unknown


def read_pins(path: Path) -> dict[str, Pin]:
    """Return the entries of the lock; none without the file.

    Raises:
        UserError: the file is not a lock.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) not in (PIN_COLUMNS, OLD_PIN_COLUMNS):
        raise UserError(f"{path}: the first line must be {','.join(PIN_COLUMNS)}.")
    try:
        entries = [
            Pin(r["image"], r["digest"], int(r["size"] or 0), r.get("content") or "") for r in rows
        ]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: {error}. Restore it, or remove it to pin images again."
        ) from error
    return {entry.image: entry for entry in entries}


def write_pin(path: Path, entry: Pin) -> None:
    """Add or replace an entry; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(path.parent / f".{path.name}.lock"):
        entries = {**read_pins(path), entry.image: entry}
        text = io.StringIO()
        writer = csv.DictWriter(text, PIN_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entries[name]) for name in sorted(entries))
        atomic_io.write_text(path, text.getvalue())


def choose_digest(
    image: str, pinned: str | None, tag: str | None, moved: Moved, path: Path
) -> str | None:
    """Return the digest to pull, None if neither the lock nor the registry has one.

    Args:
        pinned: the digest in the lock.
        tag: the tag's current digest in the registry.

    Raises:
        UserError: the tag has moved, and images.moved is "error".
    """
    if pinned is None or tag is None or pinned == tag:
        return pinned or tag
    if moved == "error":
        raise UserError(format_moved_image(image, pinned, tag, path))
    return pinned if moved == "pinned" else tag


def format_moved_image(image: str, pinned: str, actual: str, path: Path) -> str:
    """Return the message for an image that differs from its pin."""
    return (
        f"{image}: the tag has moved: it is now {actual}, but {path} pins {pinned}. Results of the "
        "two may differ.\n"
        "Use the pinned one with --config 'images={moved: pinned}' (as long as the registry has "
        "it), or the new one with --config 'images={moved: accept}', which pins it."
    )


@dataclass
class PullProgress:
    """Progress of a pull, by the bytes that Docker reports for each layer."""

    image: str
    position: str  # image i of n
    packed: int | None = None  # packed bytes of all layers, None without a manifest
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
        reported_size = sum(total for _, total in self.layers.values())
        # Existing layers are not fetched, so the manifest's sum may be too large.
        return (
            reported_size
            if self.packed is None or self.present
            else max(self.packed, reported_size)
        )

    def line(self, now: float) -> str:
        """Return the progress as a line of text."""
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
    progress: PullProgress,
    report: Callable[[str], None],
) -> None:
    """Pull ``name`` at ``tag`` (or a digest) and report the progress.

    Raises:
        TransientError: the pull was interrupted, or the registry cannot serve now.
        UserError: the pull cannot succeed until the user acts.
    """
    try:
        stream = client.api.pull(name, tag=tag, stream=True, decode=True)
        follow_pull(stream, progress, report)
    except docker.errors.APIError as error:
        raise interpret_pull_error(name, str(error.explanation or error)) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise TransientError(str(error)) from error


def follow_pull(
    events: Iterable[Mapping[str, Any]],
    progress: PullProgress,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Read Docker's stream to its end; raise an exception for an error in it."""
    last_report = clock()
    for event in events:
        if event.get("error"):
            raise interpret_pull_error(progress.image, str(event["error"]))
        progress.update(event)
        now = clock()
        if now - last_report >= PROGRESS_SECONDS:
            last_report = now
            report(progress.line(now))


def interpret_pull_error(name: str, text: str) -> Exception:
    """Return the exception for an error message of Docker about a pull."""
    lower_text, short = text.lower(), " ".join(text.split())[:300]
    if "toomanyrequests" in lower_text or "429" in lower_text or "rate limit" in lower_text:
        return RateLimitError(DEFAULT_PAUSE)
    if "no space left on device" in lower_text:
        return UserError(
            f"{name}: Docker's disk is full ({short}). `docker system df` shows its use; "
            "images.rolling: true in the config needs less."
        )
    if (
        "unauthorized" in lower_text
        or "access denied" in lower_text
        or "authentication required" in lower_text
    ):
        return UserError(
            f"{name}: the registry refuses it, or has no such image ({short}). Log in with "
            "`docker login`, or check images.registry."
        )
    if (
        "manifest unknown" in lower_text
        or "not found" in lower_text
        or "invalid reference" in lower_text
    ):
        return UserError(f"{name}: the registry has no such image ({short}).")
    if "no matching manifest" in lower_text:
        return UserError(
            f"{name}: the registry lacks an image for this machine's architecture ({short})."
        )
    return TransientError(short)


def retry_pull(
    work: Callable[[], None], name: str, tries: int, pause: float, report: Callable[[str], None]
) -> None:
    """Call ``work`` until it succeeds, at most ``tries`` times with pauses.

    A rate limit does not count as a try; the wait is as long as the registry demands.

    Raises:
        UserError: every try failed, or further tries are useless.
    """
    import tenacity

    failed = 0

    def is_exhausted(state: RetryCallState) -> bool:
        nonlocal failed
        error = state.outcome.exception() if state.outcome else None
        failed += not isinstance(error, RateLimitError)
        return failed >= tries

    grow = tenacity.wait_exponential_jitter(initial=pause, max=LONGEST_PAUSE, jitter=pause)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return error.seconds + 0.5 if isinstance(error, RateLimitError) else grow(state)

    def announce(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0.0
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
        if isinstance(error, RateLimitError):
            report(
                f"{name}: the registry's rate limit is reached; waiting {seconds:.0f} s, until "
                f"{until} (`docker login` raises the limit at Docker Hub)"
            )
        else:
            report(f"{name}: {error}; try {failed + 1} of {tries} at {until}")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=is_exhausted,
        wait=wait,
        before_sleep=announce,
        reraise=True,
    )
    try:
        retrying(work)
    except TransientError as error:
        raise UserError(
            f"{name}: could not be pulled in {tries} tries ({error}). Start again: the images "
            "on this machine stay."
        ) from error


def report_now(text: str) -> None:
    """Print without buffering, because a pull takes long and its output may go to a file."""
    print(text)
    sys.stdout.flush()
