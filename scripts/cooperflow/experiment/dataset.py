"""The data set on disk: completeness, content hashes and revision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cooperflow import atomic_io
from cooperflow.errors import UserError, listed
from cooperflow.layout import REPOSITORY, Pair

# Files of a feature that upstream reads for runs and evaluations, and the gold patch.
FEATURE_FILES = ("feature.md", "tests.patch", "feature.patch")

# Files of each task: the script that runs its tests, which its image holds too.
TASK_FILES = ("runner.sh",)


SCHEMA = 1
# In the data set's folder: the revision that was fetched into it.
MARKER = ".revision.json"
# The revision that is fetched by default, and the hashes of the copy that was checked.
KNOWN = REPOSITORY / "config" / "dataset.known.json"
# Value of `dataset.revision`: that of the lock, or else that of KNOWN.
PINNED = "pinned"


def task_folder(root: Path, repo: str, task_id: int) -> Path:
    """Return the folder in which upstream expects a task."""
    return root / repo / f"task{task_id}"


def missing(root: Path, pairs: Iterable[Pair]) -> list[str]:
    """Return what the data set at ``root`` lacks for ``pairs``, each as a path in it."""
    return list(dict.fromkeys(_missing(root, pairs)))


def _missing(root: Path, pairs: Iterable[Pair]) -> Iterator[str]:
    for pair in pairs:
        folder = task_folder(root, pair.repo, pair.task_id)
        for name in TASK_FILES:
            if not (folder / name).is_file():
                yield str((folder / name).relative_to(root))
        for feature in pair.features:
            for name in FEATURE_FILES:
                path = folder / f"feature{feature}" / name
                if not path.is_file():
                    yield str(path.relative_to(root))


def check(root: Path, pairs: Iterable[Pair]) -> None:
    """Raise UserError if the data set is missing or incomplete."""
    if not root.is_dir():
        raise UserError(
            f"dataset.dir: {root} has no data set. `make dataset` fetches it; "
            "or set dataset.dir to a folder that `cooperbench prepare` made elsewhere."
        )
    missing_paths = missing(root, pairs)
    if missing_paths:
        raise UserError(
            f"dataset.dir: {root} is incomplete: {len(missing_paths)} files are missing "
            f"({listed(missing_paths, 4)}). Fetch it again, or choose pairs that it has."
        )


def task_hash(root: Path, repo: str, task_id: int) -> str:
    """Return the SHA-256 of a task: of the names and contents of all of its files."""
    folder = task_folder(root, repo, task_id)
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def task_hashes(root: Path, pairs: Iterable[Pair]) -> dict[str, str]:
    """Return the hash of each task of ``pairs``, by `repo/task_id`."""
    tasks = dict.fromkeys((pair.repo, pair.task_id) for pair in pairs)
    return {f"{repo}/{task}": task_hash(root, repo, task) for repo, task in tasks}


def whole_hash(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 of all of the tasks' hashes."""
    text = "".join(f"{task} {value}\n" for task, value in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Lock:
    """A revision that was fetched once, and the content hash of each of its tasks."""

    repository: str
    revision: str
    tasks: Mapping[str, str] = field(default_factory=dict)

    def differing(self, hashes: Mapping[str, str]) -> list[str]:
        """Return the tasks whose contents differ from the pinned revision."""
        return [task for task, value in hashes.items() if self.tasks.get(task, value) != value]


@dataclass(frozen=True)
class Known(Lock):
    """The shipped revision, and the content hashes of the copy that the workflow ran with.

    The revision could not be fetched where the workflow was developed, so the hashes are of the
    copy that ``checked`` names, and may differ from those of the revision.
    """

    checked: str = ""


@cache
def known() -> Known:
    """Return the facts of config/dataset.known.json."""
    document: Any = atomic_io.read_json(KNOWN)
    return Known(
        document["repository"], document["revision"], document["tasks"], document["checked"]
    )


@dataclass(frozen=True)
class Wanted:
    """The revision to fetch, and which entry asks for it."""

    repository: str
    revision: str | None  # None: the newest
    source: str  # for messages
    explicit: bool = False  # the config names it


def wanted(asked: str | None, lock: Lock | None, lock_path: str) -> Wanted:
    """Return the revision to fetch.

    Args:
        asked: `dataset.revision`; PINNED and None leave the choice to the lock.
    """
    shipped = known()
    if asked is not None and asked != PINNED:
        # The lock of an earlier version may name another repository.
        is_locked = lock is not None and lock.revision.startswith(asked)
        repository = lock.repository if lock is not None and is_locked else shipped.repository
        return Wanted(repository, asked, "dataset.revision", explicit=True)
    if lock is not None:
        return Wanted(lock.repository, lock.revision, f"dataset.lock ({lock_path})")
    if asked is None:
        return Wanted(shipped.repository, None, "dataset.revision")
    return Wanted(shipped.repository, shipped.revision, f"config/{KNOWN.name}")


def read_lock(path: Path) -> Lock | None:
    """Return the lock, None without one.

    Raises:
        UserError: the file exists and is not a lock.
    """
    if not path.exists():
        return None
    document: Any = atomic_io.read_json(path)
    try:
        return Lock(str(document["repository"]), str(document["revision"]), dict(document["tasks"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"dataset.lock: {path} is not a lock of the data set. Restore it, or remove it:"
            " `make dataset` writes it again."
        ) from None


def write_lock(path: Path, repository: str, revision: str, root: Path) -> None:
    """Pin a revision with the content hashes of all tasks in ``root``."""
    tasks = {}
    for folder in sorted(root.glob("*_task/task*")):
        number = folder.name.removeprefix("task")
        if folder.is_dir() and number.isdigit():
            repo = folder.parent.name
            tasks[f"{repo}/{number}"] = task_hash(root, repo, int(number))
    document = {"schema": SCHEMA, "repository": repository, "revision": revision, "tasks": tasks}
    atomic_io.write_json(path, document)


def origin_of(root: Path) -> tuple[str, str] | None:
    """Return repository and revision that were fetched into a folder, None for a copied folder."""
    document: Any = atomic_io.read_json(root / MARKER)
    if not isinstance(document, dict) or not document.get("revision"):
        return None
    return str(document.get("repository") or known().repository), str(document["revision"])


def revision_of(root: Path) -> str | None:
    """Return the revision that was fetched into a folder, None for a copied folder."""
    origin = origin_of(root)
    return origin[1] if origin else None


def mark_revision(root: Path, repository: str, revision: str) -> None:
    """Record the revision that was fetched into a folder."""
    document = {"schema": SCHEMA, "repository": repository, "revision": revision}
    atomic_io.write_json(root / MARKER, document)
