"""Keeping a provider's key out of what is kept of an attempt."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cooperflow import atomic

# A shorter one may be an ordinary word (a replay takes any key).
SHORTEST = 12
# Nothing that quotes a provider is longer than this, bytes; a patch may be.
LONGEST = 64 << 20


def hidden(text: str, key: str | None) -> str:
    """Return ``text`` without ``key``."""
    return text.replace(key, "[key]") if key and len(key) >= SHORTEST else text


def scrub(folder: Path, key: str | None) -> None:
    """Replace ``key`` in all files below ``folder``: a provider's error may have quoted it."""
    if not key or len(key) < SHORTEST:
        return
    secret = key.encode()
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= LONGEST:
                data = path.read_bytes()
                if secret in data:
                    atomic.write_bytes(path, data.replace(secret, b"[key]"))
