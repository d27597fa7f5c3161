"""The data set: fetching a revision from the hub, completeness check, and content hashes.

A fetch takes exactly one revision, and is used only if it is complete.
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
# Files of each task: the script that runs its tests, which its image contains too.
TASK_FILES = ("runner.sh",)
# Version of the lock, the marker and dataset.json.
SCHEMA = 1
# File in the data set's folder with the revision that was fetched into it.
MARKER = ".revision.json"
# The revision that is fetched by default, and the hashes of the copy that was checked.
KNOWN = REPOSITORY / "config" / "dataset.known.json"
# Longest wait for another process that is fetching the data set, seconds.
CLAIM_SECONDS = 1.0
# Maximum length of the text of a download error, characters.
LONGEST_ERROR = 400
# Time limit for the hub to name its newest revision, seconds.
NEWEST_SECONDS = 5.0
COMMIT = re.compile(r"[0-9a-f]{7,40}")

Answer = TypeVar("Answer")


def task_folder(root: Path, repo: str, task_id: int) -> Path:
    """Return the folder in which upstream expects a task."""
    return root / repo / f"task{task_id}"


def _missing_files(root: Path, pairs: Iterable[Pair]) -> Iterator[str]:
    """Yield the files that the data set at ``root`` lacks for ``pairs``, as paths below it."""
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
    """Return the SHA-256 of the names and contents of all files of a task."""
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


def combined_hash(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 over the hashes of all tasks."""
    text = "".join(f"{task} {value}\n" for task, value in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Lock:
    """A fetched revision and the content hash of each of its tasks."""

    repository: str
    revision: str
    tasks: Mapping[str, str] = field(default_factory=dict)

    def find_differing_tasks(self, hashes: Mapping[str, str]) -> list[str]:
        """Return the tasks whose contents differ from the pinned revision."""
        return [task for task, value in hashes.items() if self.tasks.get(task, value) != value]


@dataclass(frozen=True)
class KnownRevision(Lock):
    """The revision that the workflow ships, and the content hashes of the copy it was tested with.

    The revision could not be fetched where the workflow was developed. The hashes are therefore
    those of the copy that ``checked`` names, and may differ from those of the revision.
    """

    checked: str = ""


@cache
def read_known() -> KnownRevision:
    """Return the facts of config/dataset.known.json."""
    document: Any = atomic_io.read_json(KNOWN)
    return KnownRevision(
        document["repository"], document["revision"], document["tasks"], document["checked"]
    )


@dataclass(frozen=True)
class RevisionRequest:
    """The revision to fetch, and the origin of this choice."""

    repository: str
    revision: str | None  # None: the newest
    source: str  # the file or config key that names it, for messages
    explicit: bool = False  # the config names it itself


def choose_revision(configured: str | None, lock: Lock | None, lock_path: str) -> RevisionRequest:
    """Return the revision to fetch.

    Args:
        configured: `dataset.revision`; PINNED and None leave the choice to the lock.
    """
    shipped = read_known()
    if configured is not None and configured != PINNED:
        # The lock of an earlier version may name another repository.
        is_locked = lock is not None and lock.revision.startswith(configured)
        repository = lock.repository if lock is not None and is_locked else shipped.repository
        return RevisionRequest(repository, configured, "dataset.revision", explicit=True)
    if lock is not None:
        return RevisionRequest(lock.repository, lock.revision, f"dataset.lock ({lock_path})")
    if configured is None:
        return RevisionRequest(shipped.repository, None, "dataset.revision")
    return RevisionRequest(shipped.repository, shipped.revision, f"config/{KNOWN.name}")


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


def read_origin(root: Path) -> tuple[str, str] | None:
    """Return the repository and revision fetched into a folder, None if the folder was copied."""
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
        UserError: it does not exist and cannot be fetched, its revision is not the configured one,
            or it is incomplete.
    """
    config = plan.config.dataset
    root, lock = Path(config.dir), read_lock(Path(config.lock))
    request = choose_revision(config.revision, lock, config.lock)
    source = "present"
    if not root.exists():
        with locks.claim(plan.results.claims, f"data set {root}", CLAIM_SECONDS):
            fetch(root, plan, request)
        source = "fetched"
    check(root, plan.pairs)
    origin = read_origin(root)
    revision = origin[1] if origin else None
    _check_revision(root, revision, request)
    if source == "fetched" and lock is None and origin is not None:
        write_lock(Path(config.lock), *origin, root)
        print(f"data set: revision {revision} pinned in {config.lock}")
    elif source == "present" and origin is not None:
        _name_newer(*origin)
    hashes = task_hashes(root, plan.pairs)
    known = read_known()
    differing = lock.find_differing_tasks(hashes) if lock else []
    differing_from_copy = known.find_differing_tasks(hashes)
    compared = [task for task in hashes if task in known.tasks]
    if lock:
        _list_differing(f"revision {lock.revision} of {config.lock}", differing, hashes)
    if compared and (lock is None or source == "fetched"):
        _list_differing(
            f"the copy that was checked ({known.checked})", differing_from_copy, compared
        )
    document = {
        "schema": SCHEMA,
        "dir": str(root),
        "source": source,
        "repository": origin[0] if origin else None,
        "revision": revision,
        "pinned": lock.revision if lock else revision,
        "differs": differing,
        "checked": {
            "copy": known.checked,
            "compared": len(compared),
            "differs": differing_from_copy,
        },
        "subset": config.subset,
        "pairs": len(plan.pairs),
        "hash": combined_hash(hashes),
        "tasks": hashes,
        "time": time.time(),
    }
    before = atomic_io.read_json(plan.results.dataset_json)
    if isinstance(before, dict):
        changed = [t for t, h in hashes.items() if before.get("tasks", {}).get(t, h) != h]
        if changed:
            print(f"data set: {listed(changed)}: contents have changed since the last check")
        if source == "present":
            document["source"] = before.get("source", source)
    atomic_io.write_json(plan.results.dataset_json, document)
    return document


def _list_differing(copy: str, differing: Sequence[str], compared: Collection[str]) -> None:
    """Print the tasks that differ from a known copy, one line each."""
    if not differing:
        print(f"data set: {len(compared)} tasks compared with {copy}: no difference")
        return
    print(f"data set: {len(differing)} of {len(compared)} tasks differ from {copy}:")
    print("\n".join(f"  {task}: its contents have another hash" for task in differing))


def _check_revision(root: Path, revision: str | None, request: RevisionRequest) -> None:
    """Compare the revision of a folder with the wanted one.

    Raises:
        UserError: the config names a commit, and the folder contains another one.
    """
    requested = request.revision
    if requested is None:
        return
    if revision is None:
        if request.explicit:
            print(
                f"data set: {root} was copied, so its revision is unknown; {request.source} "
                f"{requested}"
                " cannot be checked. The contents are compared instead"
            )
    elif COMMIT.fullmatch(requested) and not revision.startswith(requested):
        if request.explicit:
            raise UserError(
                f"dataset.revision: {root} contains revision {revision}, the config asks for "
                f"{requested}."
                f" Remove the folder and run `make dataset`, name another dataset.dir, or set the"
                f" key to {revision}."
            )
        print(
            f"data set: {root} contains revision {revision}, which stays in use; {request.source} "
            "has"
            f" {requested}. To use it, name another dataset.dir and run `make dataset`"
        )


def _name_newer(repository: str, revision: str) -> None:
    """Print the hub's newest revision if it is newer and the hub answers; nothing is fetched."""
    try:
        newest = _resolve(repository, None, timeout=NEWEST_SECONDS)
    except Exception as error:  # usually because the machine is offline
        print(f"data set: a newer revision was not looked for ({type(error).__name__})")
        return
    if newest != revision:
        print(
            f"data set: the hub has a newer revision, {newest}; {revision} stays in use. To use "
            "the newer one, set dataset.revision and fetch into another dataset.dir"
        )


def _resolve(repository: str, revision: str | None, timeout: float | None = None) -> str:
    """Return the commit of a revision on the hub; None stands for the newest."""
    from huggingface_hub import HfApi

    api = HfApi(token=os.environ.get("HF_TOKEN"))
    info = api.dataset_info(repository, revision=revision, timeout=timeout)
    if not info.sha:
        raise ValueError("the hub names no commit")
    return str(info.sha)


def fetch(root: Path, plan: Plan, request: RevisionRequest) -> None:
    """Download a revision into a folder beside ``root``, check it, and rename the folder.

    An interrupted download continues, because the hub's client keeps the fetched files.

    Raises:
        UserError: the hub cannot be reached, has no such revision, or the download is incomplete.
    """
    partial = root.parent / f".{root.name}.partial"
    revision, expected = _listing(root, request)
    newest = revision
    if request.revision is not None:
        newest = _answer(root, request, lambda: _resolve(request.repository, None))
    folder = partial / revision
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"data set: revision {revision} of {request.repository}: {len(expected)} files, "
        f"{sum(expected.values()) / 1e6:.1f} MB, into {root}"
    )
    if newest != revision:
        print(f"data set: the hub has a newer revision, {newest}, which is not used")
    module = "cooperflow.experiment.dataset"
    command = [sys.executable, "-m", module, request.repository, revision, str(folder)]
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
    missing = find_incomplete_files(folder, expected)
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
    mark_revision(folder, request.repository, revision)
    folder.replace(root)
    shutil.rmtree(partial, ignore_errors=True)
    atomic_io.sync_directory(root.parent)
    print(f"data set: complete, at {root}")


def _listing(root: Path, request: RevisionRequest) -> tuple[str, dict[str, int]]:
    """Return the commit of a revision, and its files with their sizes, from the hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def list_files() -> tuple[str, dict[str, int]]:
        commit = _resolve(request.repository, request.revision)
        api = HfApi(token=os.environ.get("HF_TOKEN"))
        entries = api.list_repo_tree(
            request.repository, recursive=True, repo_type="dataset", revision=commit
        )
        sizes = {entry.path: int(entry.size) for entry in entries if isinstance(entry, RepoFile)}
        return commit, sizes

    return _answer(root, request, list_files)


def _answer(root: Path, request: RevisionRequest, query: Callable[[], Answer]) -> Answer:
    """Return the hub's answer.

    Raises:
        UserError: the hub has no such data set or revision, or does not answer.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return query()
    except RevisionNotFoundError as error:
        raise UserError(
            f"{request.source}: the hub's {request.repository} has no revision "
            f"{request.revision}.\n"
            "Either (1) write `dataset: {revision: main}` in the config for the newest revision, or"
            " the id of another commit (40 hexadecimal digits); or (2) copy a folder that"
            " was fetched elsewhere and name it as dataset.dir."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"data set: the hub has no data set {request.repository}, or does not show it without a"
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


def find_incomplete_files(root: Path, expected: Mapping[str, int]) -> list[str]:
    """Return the files that are missing or whose size differs from the published one."""
    return [
        name
        for name, size in expected.items()
        if not (root / name).is_file() or (root / name).stat().st_size != size
    ]


def download() -> int:
    """Download `REPOSITORY REVISION FOLDER` (arguments) in a process that can be killed safely."""
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
