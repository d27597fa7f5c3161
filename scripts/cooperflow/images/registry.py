"""Registry of images: client of its HTTP API (v2), and its digests as pinned in images.lock.csv."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import docker.auth
import docker.credentials.errors
import requests

from cooperflow import atomic_io, locks
from cooperflow.errors import UserError
from cooperflow.outcomes.provider_answer import parse_retry_after

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
# Seconds to reach a registry, and to get an answer from it.
PATIENCE = (10, 30)
# Pause for a registry's limit without a Retry-After header, seconds.
DEFAULT_PAUSE = 300.0

PIN_COLUMNS = ("image", "digest", "size", "content")
# Locks of older versions have no content.
OLD_PIN_COLUMNS = PIN_COLUMNS[:3]
Moved = Literal["error", "pinned", "accept"]


class Transient(Exception):
    """The registry did not serve now; it may later."""


class RateLimited(Transient):
    """The registry's limit is reached; ``seconds`` is the time to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the registry's rate limit is reached")
        self.seconds = seconds


class OutOfReach(Exception):
    """The registry does not answer; Docker may still reach it by a configured proxy or mirror."""


@dataclass(frozen=True)
class Reference:
    """An image in a registry."""

    host: str  # as Docker writes it
    path: str
    tag: str

    @property
    def name(self) -> str:
        """The repository as Docker pulls it."""
        return self.path if self.host == HUB else f"{self.host}/{self.path}"

    @property
    def api(self) -> str:
        host = HUB_API if self.host == HUB else self.host
        scheme = "http" if _loopback(host) else "https"
        return f"{scheme}://{host}/v2/{self.path}"


@dataclass(frozen=True)
class Manifest:
    """Digest of an image, and its layers with their packed sizes in bytes."""

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
    """Client of one registry, logged in if Docker is."""

    def __init__(self, reference: Reference, architecture: str = "amd64") -> None:
        self._reference = reference
        self._architecture = architecture
        self._session = requests.Session()
        self._session.headers["Accept"] = ", ".join((*LISTS, *MANIFESTS))

    def digest(self) -> str:
        """Return the digest that the tag points to now. Does not count towards a pull limit."""
        answer = self._request("HEAD", f"/manifests/{self._reference.tag}")
        digest = answer.headers.get("Docker-Content-Digest")
        if not digest:
            raise Transient("the registry returned no digest")
        return str(digest)

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest for this machine's architecture behind ``digest``."""
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
            raise RateLimited(_pause(answer))
        if answer.status_code in (401, 403):
            raise UserError(
                f"{reference.name}: the registry refuses access ({answer.status_code}). "
                f"Log in with `docker login {'' if reference.host == HUB else reference.host}`"
                ", or check the name."
            )
        if answer.status_code == 404:
            raise UserError(
                f"{reference.name}:{reference.tag}: the registry {reference.host} has no "
                "such image. Check images.registry, or that the mirror holds it."
            )
        if answer.status_code >= 400:
            raise Transient(f"the registry answered {answer.status_code}")
        return answer

    def _send(self, method: str, url: str) -> requests.Response:
        try:
            return self._session.request(method, url, timeout=PATIENCE)
        except requests.exceptions.RequestException as error:
            raise OutOfReach(str(error)) from error

    def _log_in(self, challenge: str) -> None:
        """Get a token as the challenge asks, with Docker's credentials if there are any."""
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
            answer = requests.get(parameters["realm"], params=query, auth=user, timeout=PATIENCE)
        except requests.exceptions.RequestException as error:
            raise OutOfReach(str(error)) from error
        if answer.status_code == 429:
            raise RateLimited(_pause(answer))
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
    """Return the seconds to wait after a refusal: by its Retry-After, at least 1."""
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
    with locks.locked(path.parent / f".{path.name}.lock"):
        entries = {**read_pins(path), entry.image: entry}
        text = io.StringIO()
        writer = csv.DictWriter(text, PIN_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entries[name]) for name in sorted(entries))
        atomic_io.write_text(path, text.getvalue())


def choose_digest(
    image: str, pinned: str | None, tag: str | None, moved: Moved, path: Path
) -> str | None:
    """Return the digest to pull: None if neither the lock nor the registry has one.

    Args:
        pinned: the digest in the lock.
        tag: the digest that the tag points to now, according to the registry.

    Raises:
        UserError: the tag has moved, and images.moved is "error".
    """
    if pinned is None or tag is None or pinned == tag:
        return pinned or tag
    if moved == "error":
        raise UserError(moved_text(image, pinned, tag, path))
    return pinned if moved == "pinned" else tag


def moved_text(image: str, pinned: str, actual: str, path: Path) -> str:
    """Return the message for an image that differs from its pin."""
    return (
        f"{image}: the tag has moved: it is {actual} now, and {path} pins {pinned}. Results of the "
        "two may differ.\n"
        "Keep the pinned one with --config 'images={moved: pinned}' (as long as the registry has "
        "it), or take the new one with --config 'images={moved: accept}', which pins it."
    )
