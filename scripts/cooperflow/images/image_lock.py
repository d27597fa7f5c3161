"""Pinned contents of the images: config/images.lock.csv, written by the first pull."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cooperflow import atomic_io, locks
from cooperflow.errors import UserError

COLUMNS = ("image", "digest", "size", "content")
# Locks of older versions have no content.
OLD_COLUMNS = COLUMNS[:3]
Moved = Literal["error", "pinned", "accept"]


@dataclass(frozen=True)
class Entry:
    """An image and its pinned content."""

    image: str
    digest: str
    size: int  # packed bytes, 0 if unknown
    content: str = ""  # as image_identity.content returns it, empty if unknown


def read(path: Path) -> dict[str, Entry]:
    """Return the entries of the lock; none without the file.

    Raises:
        UserError: the file is not a lock.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) not in (COLUMNS, OLD_COLUMNS):
        raise UserError(f"{path}: the first line must be {','.join(COLUMNS)}.")
    try:
        entries = [
            Entry(r["image"], r["digest"], int(r["size"] or 0), r.get("content") or "")
            for r in rows
        ]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: {error}. Restore it, or remove it to pin images again."
        ) from error
    return {entry.image: entry for entry in entries}


def put_entry(path: Path, entry: Entry) -> None:
    """Add or replace an entry; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.locked(path.parent / f".{path.name}.lock"):
        entries = {**read(path), entry.image: entry}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entries[name]) for name in sorted(entries))
        atomic_io.write_text(path, text.getvalue())


def choose(image: str, pinned: str | None, tag: str | None, moved: Moved, path: Path) -> str | None:
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
