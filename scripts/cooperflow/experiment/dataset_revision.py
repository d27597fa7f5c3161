"""The revision of the data set: what a folder holds, what the lock pins, where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow import atomic_io
from cooperflow.errors import UserError
from cooperflow.experiment import dataset

SCHEMA = 1
# In the data set's folder: which revision was fetched into it.
MARKER = ".revision.json"


@dataclass(frozen=True)
class Lock:
    """A revision that was fetched once, and the content hash of each of its tasks."""

    repository: str
    revision: str
    tasks: Mapping[str, str] = field(default_factory=dict)

    def differing(self, hashes: Mapping[str, str]) -> list[str]:
        """Return the tasks whose contents are not those of the pinned revision."""
        return [task for task, value in hashes.items() if self.tasks.get(task, value) != value]


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
            tasks[f"{repo}/{number}"] = dataset.task_hash(root, repo, int(number))
    document = {"schema": SCHEMA, "repository": repository, "revision": revision, "tasks": tasks}
    atomic_io.write_json(path, document)


def of(root: Path) -> str | None:
    """Return the revision that was fetched into a folder, None for one that was copied."""
    document: Any = atomic_io.read_json(root / MARKER)
    revision = document.get("revision") if isinstance(document, dict) else None
    return str(revision) if revision else None


def mark(root: Path, repository: str, revision: str) -> None:
    """Note which revision was fetched into a folder."""
    document = {"schema": SCHEMA, "repository": repository, "revision": revision}
    atomic_io.write_json(root / MARKER, document)
