"""The identity of an image's content, which no image store changes. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Settings of an image that affect its containers and that every engine reports.
SETTINGS = (
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Labels",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
)


def content(attributes: Mapping[str, Any]) -> str:
    """Return a hash of an image's layers and settings.

    The same content has another id, and other digests, in a classic and in a containerd store.

    Args:
        attributes: the engine's description of the image (`docker image inspect`).
    """
    settings = attributes.get("Config") or {}
    document = {
        "os": attributes.get("Os"),
        "architecture": attributes.get("Architecture"),
        "layers": (attributes.get("RootFS") or {}).get("Layers") or [],
        # An engine reports an absent setting as null, as empty, or not at all.
        "settings": {name: settings[name] for name in SETTINGS if settings.get(name)},
    }
    text = json.dumps(document, sort_keys=True)
    return f"content:{hashlib.sha256(text.encode()).hexdigest()}"


def is_same(sentinel: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Return whether ``sentinel`` describes this image.

    Sentinels of older versions have no content: their id or digest must be the image's.
    """
    if sentinel.get("content"):
        return bool(sentinel["content"] == content(attributes))
    if sentinel.get("id") == attributes.get("Id"):
        return True
    digest = digest_of(str(sentinel.get("digest") or ""))
    return bool(digest) and digest in map(digest_of, attributes.get("RepoDigests") or [])


def registry_digests(
    attributes: Mapping[str, Any], pulled: bool = False, pinned: str | None = None
) -> list[str]:
    """Return the digests of an image that a registry gave it.

    A containerd store invents a digest for each image: its own id. Only a pull, or the lock,
    shows that a registry gave it.
    """
    return [
        reference
        for reference in attributes.get("RepoDigests") or []
        if pulled or digest_of(reference) == pinned or digest_of(reference) != attributes.get("Id")
    ]


def digest_of(reference: str) -> str:
    """Return the digest in ``name@digest``."""
    return reference.rpartition("@")[2]
