"""Atomic writing and reading of documents, and compression of the files of finished attempts.

A reader never sees a partial file. A large file is replaced by `{name}.gz`, the folder of an
evaluation by `{name}.tar.gz`. The content can be read completely at any time, because the
compressed file is synced and renamed into place before the plain file is removed.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from cooperflow import locks
from cooperflow.errors import DamagedFileError

# Suffixes of a compressed file and of a packed folder.
COMPRESSED = ".gz"
ARCHIVE = ".tar.gz"
# A file system stores whole blocks: a file of one block cannot become smaller.
BLOCK = 4096
_LEVEL = 6


@contextlib.contextmanager
def open_new(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; on exit, sync it and rename it to ``path``."""
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
    """Write ``data`` to ``path`` atomically."""
    with open_new(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; lone surrogates from broken names are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as indented JSON, atomically."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str, shared: bool = False) -> None:
    """Append one line in a single write and sync it, so that it survives a kill.

    Args:
        shared: processes on other machines append too. Over a network, two processes may otherwise
            write to the same position.

    Raises:
        OSError: the disk has no space for the line; no part of it remains.
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
            data = compressed_path(path).read_bytes()
            return gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DamagedFileError(
                f"{path}{COMPRESSED} is damaged ({error}). Restore it from a copy of the results. "
                "Without one, remove it: its content is then missing in tables and pages."
            ) from error


def read_json(path: Path | str) -> Any | None:
    """Return the JSON document at ``path``, None if it is missing, empty or incomplete."""
    try:
        with open(path, "rb") as stream:  # opening by pathlib takes as long as reading the file
            return json.loads(stream.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def read_object(path: Path | str) -> dict[str, Any]:
    """Return the JSON object at ``path``, an empty object if it cannot be read."""
    document = read_json(path)
    return document if isinstance(document, dict) else {}


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
    """Return whether a document of the workflow ends as a completely written document does."""
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
    """Make a rename in ``directory`` survive a crash of the machine.

    Some file systems cannot sync a folder (CIFS, 9p, some FUSE file systems); the rename has still
    been made.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def compress(path: Path) -> None:
    """Replace a file by its compressed form, unless the file fits into one block."""
    if path.stat().st_size <= BLOCK:
        return
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    compressed = compressed_path(path)
    with path.open("rb") as source, _gzip_writer(compressed) as target:
        shutil.copyfileobj(source, target)
    os.utime(compressed, ns=times)
    path.unlink()


def compress_below(folder: Path, is_wanted: Callable[[str], bool]) -> None:
    """Compress the files below a folder whose name is wanted. No process may write to them."""
    for parent, _, names in os.walk(folder):
        for name in filter(is_wanted, names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                compress(path)


def pack_folder(folder: Path) -> None:
    """Replace a folder by an archive of its files. No process may write to them."""
    with (
        _gzip_writer(folder.with_name(folder.name + ARCHIVE)) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.add(folder, folder.name)
    # A folder under its own name is complete, even if its archive exists too.
    removed = folder.with_name(f".{folder.name}.tmp")
    folder.rename(removed)
    shutil.rmtree(removed)


@contextlib.contextmanager
def _gzip_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a compressed file for writing, atomically; the same content gives the same bytes."""
    with (
        open_new(path) as stream,
        gzip.GzipFile("", "wb", _LEVEL, fileobj=stream, mtime=0) as zipped,
    ):
        yield cast(BinaryIO, zipped)


def compressed_path(path: Path) -> Path:
    """Return the path of a file's compressed form."""
    return path.with_name(path.name + COMPRESSED)


def plain_name(name: str) -> str:
    """Return the name of a file without the suffix of its compressed form."""
    return name if name.endswith(ARCHIVE) else name.removesuffix(COMPRESSED)


def read_documents(folder: Path, is_wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the documents in a folder whose name is wanted, sorted and keyed by name."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return {name: read_json(folder / name) for name in filter(is_wanted, names)}


def file_contents(path: Path) -> Iterator[tuple[Path, bytes]]:
    """Return the uncompressed paths and contents of a file, or of the files in an archive.

    A compressed file beside its plain form (left by a kill) yields nothing.
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
            yield plain, read_bytes(plain)
