"""The data set: completeness, content hashes and revision, and its fetching from the hub.

Exactly one revision is fetched, complete or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from cooperflow import atomic_io, environment, layout, locks, processes
from cooperflow.errors import UserError, listed
from cooperflow.experiment.config_schema import PINNED
from cooperflow.experiment.plan import Plan
from cooperflow.layout import REPOSITORY, Pair
from cooperflow.upstream import releases

# Files of a feature that upstream reads for runs and evaluations, and the gold patch.
FEATURE_FILES = ("feature.md", "tests.patch", "feature.patch")
# Files of each task: the script that runs its tests, which its image holds too.
TASK_FILES = ("runner.sh",)
# Version of the lock, the marker and dataset.json.
SCHEMA = 1
# In the data set's folder: the revision that was fetched into it.
MARKER = ".revision.json"
# The revision that is fetched by default, and the hashes of the copy that was checked.
KNOWN = REPOSITORY / "config" / "dataset.known.json"
# Wait for another process that is fetching the data set, seconds.
CLAIM_SECONDS = 1.0
# Length at which the text of a download error is cut, characters.
LONGEST_ERROR = 400
# Time limit for the hub to name its newest revision, seconds.
NEWEST_SECONDS = 5.0
COMMIT = re.compile(r"[0-9a-f]{7,40}")

Answer = TypeVar("Answer")


def task_folder(root: Path, repo: str, task_id: int) -> Path:
    """Return the folder in which upstream expects a task."""
    return root / repo / f"task{task_id}"


def _missing_files(root: Path, pairs: Iterable[Pair]) -> Iterator[str]:
    """Return what the data set at ``root`` lacks for ``pairs``, each as a path in it."""
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
    missing_paths = list(dict.fromkeys(_missing_files(root, pairs)))
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
def read_known() -> Known:
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


def choose_revision(asked: str | None, lock: Lock | None, lock_path: str) -> Wanted:
    """Return the revision to fetch.

    Args:
        asked: `dataset.revision`; PINNED and None leave the choice to the lock.
    """
    shipped = read_known()
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
    return str(document.get("repository") or read_known().repository), str(document["revision"])


def mark_revision(root: Path, repository: str, revision: str) -> None:
    """Record the revision that was fetched into a folder."""
    document = {"schema": SCHEMA, "repository": repository, "revision": revision}
    atomic_io.write_json(root / MARKER, document)


def fetch_and_check(plan: Plan) -> dict[str, Any]:
    """Fetch the data set if it is missing, check it against the pairs, and return dataset.json.

    Raises:
        UserError: it does not exist and cannot be fetched, it is of another revision than the
            config asks for, or it lacks something.
    """
    config = plan.config.dataset
    root, lock = Path(config.dir), read_lock(Path(config.lock))
    wanted = choose_revision(config.revision, lock, config.lock)
    source = "present"
    if not root.exists():
        with locks.claim(plan.results.claims, f"data set {root}", CLAIM_SECONDS):
            fetch(root, plan, wanted)
        source = "fetched"
    check(root, plan.pairs)
    origin = origin_of(root)
    revision = origin[1] if origin else None
    _check_revision(root, revision, wanted)
    if source == "fetched" and lock is None and origin is not None:
        write_lock(Path(config.lock), *origin, root)
        print(f"data set: revision {revision} pinned in {config.lock}")
    elif source == "present" and origin is not None:
        _name_newer(*origin)
    hashes = task_hashes(root, plan.pairs)
    known = read_known()
    differing = lock.differing(hashes) if lock else []
    unchecked = known.differing(hashes)
    compared = [task for task in hashes if task in known.tasks]
    if lock:
        _list_differing(f"revision {lock.revision} of {config.lock}", differing, hashes)
    if compared and (lock is None or source == "fetched"):
        _list_differing(f"the copy that was checked ({known.checked})", unchecked, compared)
    document = {
        "schema": SCHEMA,
        "dir": str(root),
        "source": source,
        "repository": origin[0] if origin else None,
        "revision": revision,
        "pinned": lock.revision if lock else revision,
        "differs": differing,
        "checked": {"copy": known.checked, "compared": len(compared), "differs": unchecked},
        "subset": config.subset,
        "pairs": len(plan.pairs),
        "hash": whole_hash(hashes),
        "tasks": hashes,
        "time": time.time(),
    }
    before = atomic_io.read_json(plan.results.dataset_json)
    if isinstance(before, dict):
        changed = [t for t, h in hashes.items() if before.get("tasks", {}).get(t, h) != h]
        if changed:
            print(f"data set: {listed(changed)}: other contents than when last looked at")
        if source == "present":
            document["source"] = before.get("source", source)
    atomic_io.write_json(plan.results.dataset_json, document)
    return document


def _list_differing(copy: str, differing: Sequence[str], compared: Collection[str]) -> None:
    """Print which tasks differ from a known copy, a line each."""
    if not differing:
        print(f"data set: {len(compared)} tasks compared with {copy}: no difference")
        return
    print(f"data set: {len(differing)} of {len(compared)} tasks differ from {copy}:")
    print("\n".join(f"  {task}: its contents have another hash" for task in differing))


def _check_revision(root: Path, revision: str | None, wanted: Wanted) -> None:
    """Compare the revision of a folder with the wanted one.

    Raises:
        UserError: the config asks for a commit, and the folder holds another one.
    """
    asked = wanted.revision
    if asked is None:
        return
    if revision is None:
        if wanted.explicit:
            print(
                f"data set: {root} was copied, so its revision is unknown; {wanted.source} {asked}"
                " cannot be checked. The contents are compared instead"
            )
    elif COMMIT.fullmatch(asked) and not revision.startswith(asked):
        if wanted.explicit:
            raise UserError(
                f"dataset.revision: {root} holds revision {revision}, the config asks for {asked}."
                f" Remove the folder and run `make dataset`, name another dataset.dir, or set the"
                f" key to {revision}."
            )
        print(
            f"data set: {root} holds revision {revision}, which stays in use; {wanted.source} has"
            f" {asked}. To take that one, name another dataset.dir and run `make dataset`"
        )


def _name_newer(repository: str, revision: str) -> None:
    """Name a newer revision of the hub, if there is one and the hub answers; it is not taken."""
    try:
        newest = _resolve(repository, None, timeout=NEWEST_SECONDS)
    except Exception as error:  # offline is the usual case here
        print(f"data set: a newer revision was not looked for ({type(error).__name__})")
        return
    if newest != revision:
        print(
            f"data set: the hub has a newer revision, {newest}; {revision} stays in use. To take"
            " the newer one: set dataset.revision, and fetch into another dataset.dir"
        )


def _resolve(repository: str, revision: str | None, timeout: float | None = None) -> str:
    """Return the commit that a revision of the hub stands for; None: the newest."""
    from huggingface_hub import HfApi

    api = HfApi(token=os.environ.get("HF_TOKEN"))
    info = api.dataset_info(repository, revision=revision, timeout=timeout)
    if not info.sha:
        raise ValueError("the hub names no commit")
    return str(info.sha)


def fetch(root: Path, plan: Plan, wanted: Wanted) -> None:
    """Download a revision into a folder beside ``root``, check it, and rename the folder.

    A download that was interrupted continues: the hub's client keeps what it has.

    Raises:
        UserError: the hub cannot be reached, has no such revision, or the download is incomplete.
    """
    partial = root.parent / f".{root.name}.partial"
    revision, expected = _listing(root, wanted)
    newest = revision
    if wanted.revision is not None:
        newest = _answer(root, wanted, lambda: _resolve(wanted.repository, None))
    folder = partial / revision
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"data set: revision {revision} of {wanted.repository}: {len(expected)} files, "
        f"{sum(expected.values()) / 1e6:.1f} MB, into {root}"
    )
    if newest != revision:
        print(f"data set: the hub has a newer revision, {newest}; it is not taken")
    module = "cooperflow.experiment.dataset"
    command = [sys.executable, "-m", module, wanted.repository, revision, str(folder)]
    variables = {**environment.controlled_environment(os.environ), "HF_HUB_DISABLE_XET": "1"}
    variables["PYTHONPATH"] = str(layout.REPOSITORY / "scripts")
    log = partial / "prepare.log"
    with log.open("ab") as stream:
        offset = stream.tell()
        process = processes.spawn(command, env=variables, stdout=stream, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:
            processes.end(process)
    missing = absent(folder, expected)
    if code or missing:
        reason = log.read_bytes()[offset:].decode(errors="replace").strip()
        errors = [line.strip() for line in reason.splitlines() if "error:" in line]
        message = errors[-1][:LONGEST_ERROR] if errors else f"see {log}"
        raise UserError(
            f"data set: the download ended early: {len(expected) - len(missing)} of "
            f"{len(expected)} files were fetched ({message}). "
            "Start again: the download continues. The folder is used only when it is complete."
        )
    check(folder, plan.pairs)
    mark_revision(folder, wanted.repository, revision)
    folder.replace(root)
    shutil.rmtree(partial, ignore_errors=True)
    atomic_io.sync_directory(root.parent)
    print(f"data set: complete, at {root}")


def _listing(root: Path, wanted: Wanted) -> tuple[str, dict[str, int]]:
    """Return the commit of a revision, and its files with their sizes, from the hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def list_files() -> tuple[str, dict[str, int]]:
        commit = _resolve(wanted.repository, wanted.revision)
        api = HfApi(token=os.environ.get("HF_TOKEN"))
        entries = api.list_repo_tree(
            wanted.repository, recursive=True, repo_type="dataset", revision=commit
        )
        sizes = {entry.path: int(entry.size) for entry in entries if isinstance(entry, RepoFile)}
        return commit, sizes

    return _answer(root, wanted, list_files)


def _answer(root: Path, wanted: Wanted, request: Callable[[], Answer]) -> Answer:
    """Return the hub's answer.

    Raises:
        UserError: it has no such data set or revision, or does not serve.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return request()
    except RevisionNotFoundError as error:
        raise UserError(
            f"{wanted.source}: the hub's {wanted.repository} has no revision {wanted.revision}.\n"
            "Either (1) write `dataset: {revision: main}` in the config for the newest revision, or"
            " the id of another commit (40 hexadecimal digits); or (2) copy a folder that"
            " was fetched elsewhere and name it as dataset.dir."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"data set: the hub has no data set {wanted.repository}, or does not show it without a"
            f" token (HF_TOKEN). Copy a folder that was fetched elsewhere and name it as"
            f" dataset.dir; upstream's `cooperbench prepare` fetches {releases.DATASET}."
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(_offline(root, error)) from error
    except Exception as error:  # the client's network errors have no common base class
        if type(error).__module__.startswith(("httpx", "httpcore", "huggingface_hub")):
            raise UserError(_offline(root, error)) from error
        raise


def _offline(root: Path, error: BaseException) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST_ERROR]
    return (
        f"data set: none at {root}, and the hub does not serve it ({reason}).\n"
        "Either (1) with a network, `make dataset` fetches it (HTTPS_PROXY names a proxy, "
        "HF_ENDPOINT a mirror, HF_TOKEN a token); (2) without one, copy a folder that "
        "`cooperbench prepare` made elsewhere, or the folder dataset/ of a checkout of "
        "CooperBench's repository, and name it as dataset.dir in the config."
    )


def absent(root: Path, expected: Mapping[str, int]) -> list[str]:
    """Return the files that are missing or differ from their published size."""
    return [
        name
        for name, size in expected.items()
        if not (root / name).is_file() or (root / name).stat().st_size != size
    ]


def download() -> int:
    """Download `REPOSITORY REVISION FOLDER` in a process that can be ended at any time."""
    from huggingface_hub import snapshot_download

    repository, revision, folder = sys.argv[1:]
    try:
        snapshot_download(
            repo_id=repository,
            repo_type="dataset",
            revision=revision,
            local_dir=folder,
            token=os.environ.get("HF_TOKEN"),
        )
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(download())
