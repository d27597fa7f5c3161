"""The data set on disk: is it whole for the pairs asked for, and what is its content hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cooperflow.errors import UserError, listed
from cooperflow.layout import Pair

# What upstream reads of a feature when it runs and grades it, and the gold patch.
FEATURE_FILES = ("feature.md", "tests.patch", "feature.patch")

# What each task has: the script that runs its tests, which its image holds too.
TASK_FILES = ("runner.sh",)


def task_folder(root: Path, repo: str, task_id: int) -> Path:
    """Return where upstream looks for a task."""
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
    """Raise UserError when the data set is not there or lacks something."""
    if not root.is_dir():
        raise UserError(
            f"dataset.dir: there is no data set at {root}. `make dataset` fetches it; "
            "or set dataset.dir to a folder that `cooperbench prepare` made elsewhere."
        )
    lacking = missing(root, pairs)
    if lacking:
        raise UserError(
            f"dataset.dir: {root} is not whole: {len(lacking)} files are missing "
            f"({listed(lacking, 4)}). Fetch it anew, or choose pairs that it has."
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
