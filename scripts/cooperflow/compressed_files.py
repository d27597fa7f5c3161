"""Compressed files of finished attempts and evaluations, and readers of both forms.

A file is replaced by `{name}.gz` if that saves disk space, the folder of an evaluation by
`{name}.tar.gz`. At every moment the content can be read completely in one of the two forms: the
compressed file is synced and renamed into place before the plain one is removed.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from cooperflow import atomic_io

SUFFIX = atomic_io.COMPRESSED
ARCHIVE = ".tar.gz"
# A file system stores whole blocks: a file of one block cannot become smaller.
BLOCK = 4096
_LEVEL = 6


def compress(path: Path) -> None:
    """Replace a file by its compressed form, unless it occupies one block only."""
    if path.stat().st_size <= BLOCK:
        return
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    compressed = stored(path)
    with path.open("rb") as source, _gzip_writer(compressed) as target:
        shutil.copyfileobj(source, target)
    os.utime(compressed, ns=times)
    path.unlink()


def compress_below(folder: Path, is_wanted: Callable[[str], bool]) -> None:
    """Compress the files below a folder that have a wanted name. Nothing may write to them."""
    for here, _, names in os.walk(folder):
        for name in filter(is_wanted, names):
            path = Path(here, name)
            if path.is_file() and not path.is_symlink():
                compress(path)


def pack(folder: Path) -> None:
    """Replace a folder by an archive of its files. Nothing may write to them."""
    with (
        _gzip_writer(folder.with_name(folder.name + ARCHIVE)) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.add(folder, folder.name)
    # A folder with its name is complete, also beside its archive.
    removed = folder.with_name(f".{folder.name}.tmp")
    folder.rename(removed)
    shutil.rmtree(removed)


@contextlib.contextmanager
def _gzip_writer(path: Path) -> Iterator[BinaryIO]:
    """Compress into a new file at ``path``; the same content gives the same bytes."""
    with (
        atomic_io.open_new(path) as stream,
        gzip.GzipFile("", "wb", _LEVEL, fileobj=stream, mtime=0) as zipped,
    ):
        yield cast(BinaryIO, zipped)


def stored(path: Path) -> Path:
    """Return the path of a file's compressed form."""
    return path.with_name(path.name + SUFFIX)


def plain_name(name: str) -> str:
    """Return the name of a file without the ending of its compressed form."""
    return name if name.endswith(ARCHIVE) else name.removesuffix(SUFFIX)


def read_json(path: Path) -> Any | None:
    """Return the document at ``path`` in either form, None if it is missing or incomplete."""
    try:
        return json.loads(atomic_io.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def read_documents(folder: Path, is_wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the documents in a folder that have a wanted name, by their plain names in order."""
    names = {plain_name(path.name) for path in folder.iterdir() if path.is_file()}
    return {name: read_json(folder / name) for name in sorted(filter(is_wanted, names))}


def contents(path: Path) -> Iterator[tuple[Path, bytes]]:
    """Return the plain paths and contents of a file: itself, or an archive's files.

    Nothing is returned for a compressed form beside its plain one, as a kill can leave them.
    """
    if path.name.removesuffix(ARCHIVE).isdigit() and path.name.endswith(ARCHIVE):
        if path.with_name(path.name.removesuffix(ARCHIVE)).is_dir():
            return
        with tarfile.open(path) as archive:
            for member in archive:
                if (content := archive.extractfile(member)) is not None:
                    yield path.parent / member.name, content.read()
    else:
        plain = path.with_name(plain_name(path.name))
        if plain == path or not plain.exists():
            yield plain, atomic_io.read_bytes(plain)
