"""Atomic writes of documents, and their readers: no reader gets a partial file."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cooperflow import locks
from cooperflow.errors import DamagedFileError

# Ending of the compressed form of a file, which compressed_files.py writes.
COMPRESSED = ".gz"


@contextlib.contextmanager
def open_new(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary name beside ``path``; at the end sync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary name beside ``path``, sync it, and rename it into place."""
    with open_new(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; lone surrogates from broken names are kept escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as indented JSON, atomically."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str, shared: bool = False) -> None:
    """Append one line in a single write and sync it, so that it survives a kill.

    Args:
        shared: other machines append too; over a network two may take the same place for the end.

    Raises:
        OSError: the line did not fit; no part of it remains.
    """
    data = (line + "\n").encode("utf-8", errors="backslashreplace")
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if shared:
            locks.lock(handle)
        size = os.fstat(handle).st_size
        count = os.write(handle, data)
        if count != len(data):
            os.ftruncate(handle, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, read from its compressed form if only that exists.

    Raises:
        DamagedFileError: the compressed form cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        try:
            data = path.with_name(path.name + COMPRESSED).read_bytes()
            return gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DamagedFileError(
                f"{path}{COMPRESSED} is damaged ({error}). Restore it from a copy of the results. "
                "Without one, remove it: its content is then missing in tables and pages."
            ) from error


def read_json(path: Path | str) -> Any | None:
    """Return the document at ``path``, None if it is missing, empty or incomplete."""
    try:
        with open(path, "rb") as stream:  # pathlib takes as long for it as the reading itself
            return json.loads(stream.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def read_lines(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """Return the JSON objects of a line file; a last line cut off by a kill is left out.

    Args:
        last: read only the complete lines within this many bytes at the end.
    """
    offset = 0
    try:
        if last is None:
            raw = read_bytes(path)
        else:
            with path.open("rb") as stream:
                offset = max(stream.seek(0, os.SEEK_END) - last, 0)
                stream.seek(offset)
                raw = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return []
    records = []
    for line in raw.splitlines()[1 if offset else 0 :]:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def is_complete(path: Path) -> bool:
    """Return whether the document is complete, which the end of the workflow's documents shows."""
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(-min(stream.tell(), len(_END)), os.SEEK_END)
        if stream.read() == _END:
            return True
    return read_json(path) is not None


# Only the end of the outermost object is alone on a line without indentation.
_END = b"\n}\n"


def remove_temporary_files(directory: Path) -> None:
    """Remove temporary files of killed writers from ``directory``, which must have no writer."""
    for path in directory.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` survive a crash of the machine."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
