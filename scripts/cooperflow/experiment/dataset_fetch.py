"""Fetching the data set from the hub: exactly one revision, complete or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cooperflow import atomic_io, environment, layout, locks, processes
from cooperflow.errors import UserError, listed
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan
from cooperflow.upstream import releases

Answer = TypeVar("Answer")

SCHEMA = 1
CLAIM_SECONDS = 1.0
# Length at which the text of a download error is cut, characters.
LONGEST_ERROR = 400
# Time limit for the hub to name its newest revision, seconds.
NEWEST_SECONDS = 5.0
COMMIT = re.compile(r"[0-9a-f]{7,40}")


def settle(plan: Plan) -> dict[str, Any]:
    """Ensure that the data set exists, check it against the pairs, and describe it in dataset.json.

    Raises:
        UserError: it does not exist and cannot be fetched, it is of another revision than the
            config asks for, or it lacks something.
    """
    config = plan.config.dataset
    root, lock = Path(config.dir), dataset.read_lock(Path(config.lock))
    wanted = config.revision or (lock.revision if lock else None)
    source = "present"
    if not root.exists():
        with locks.claim(plan.results.claims, f"data set {root}", CLAIM_SECONDS):
            fetch(root, plan, wanted)
        source = "fetched"
    dataset.check(root, plan.pairs)
    revision = dataset.revision_of(root)
    _check_revision(root, revision, config.revision)
    if source == "fetched" and lock is None and revision is not None:
        dataset.write_lock(Path(config.lock), releases.DATASET, revision, root)
        print(f"data set: revision {revision} pinned in {config.lock}")
    elif source == "present" and revision is not None:
        _name_newer(revision)
    hashes = dataset.task_hashes(root, plan.pairs)
    differing = lock.differing(hashes) if lock else []
    if lock and differing:
        print(
            f"data set: {len(differing)} tasks differ from revision {lock.revision} of "
            f"{config.lock}:"
        )
        print("\n".join(f"  {task}: its contents have another hash" for task in differing))
    document = {
        "schema": SCHEMA,
        "dir": str(root),
        "source": source,
        "repository": releases.DATASET if revision else None,
        "revision": revision,
        "pinned": lock.revision if lock else revision,
        "differs": differing,
        "subset": config.subset,
        "pairs": len(plan.pairs),
        "hash": dataset.whole_hash(hashes),
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


def _check_revision(root: Path, revision: str | None, asked: str | None) -> None:
    """Raise if a folder is known to hold another revision than the config asks for."""
    if asked and revision and not revision.startswith(asked) and COMMIT.fullmatch(asked):
        raise UserError(
            f"dataset.revision: {root} holds revision {revision}, the config asks for {asked}."
            f" Remove the folder and run `make dataset`, name another dataset.dir, or set the key"
            f" to {revision}."
        )
    if asked and revision is None:
        print(
            f"data set: {root} was copied, so its revision is unknown; dataset.revision {asked}"
            " cannot be checked except by the hashes of the lock"
        )


def _name_newer(revision: str) -> None:
    """Name a newer revision of the hub, if there is one and the hub answers; it is not taken."""
    try:
        newest = _resolve(None, timeout=NEWEST_SECONDS)
    except Exception as error:  # offline is the usual case here
        print(f"data set: a newer revision was not looked for ({type(error).__name__})")
        return
    if newest != revision:
        print(
            f"data set: the hub has a newer revision, {newest}; {revision} stays in use. To take"
            " the newer one: set dataset.revision, and fetch into another dataset.dir"
        )


def _resolve(revision: str | None, timeout: float | None = None) -> str:
    """Return the commit that a revision of the hub stands for; None: the newest."""
    from huggingface_hub import HfApi

    api = HfApi(token=os.environ.get("HF_TOKEN"))
    found = api.dataset_info(releases.DATASET, revision=revision, timeout=timeout)
    if not found.sha:
        raise ValueError("the hub names no commit")
    return str(found.sha)


def fetch(root: Path, plan: Plan, wanted: str | None) -> None:
    """Download a revision into a folder beside ``root``, check it, and rename the folder.

    A download that was interrupted continues: the hub's client keeps what it has.

    Raises:
        UserError: the hub cannot be reached, has no such revision, or the download is incomplete.
    """
    place = root.parent / f".{root.name}.partial"
    revision, expected = _listing(root, wanted)
    newest = revision if wanted is None else _answer(root, None, lambda: _resolve(None))
    here = place / revision
    here.mkdir(parents=True, exist_ok=True)
    print(
        f"data set: revision {revision}: {len(expected)} files, "
        f"{sum(expected.values()) / 1e6:.1f} MB, into {root}"
    )
    if newest != revision:
        print(f"data set: the hub has a newer revision, {newest}; it is not taken")
    module = "cooperflow.experiment.dataset_fetch"
    command = [sys.executable, "-m", module, releases.DATASET, revision, str(here)]
    variables = {**environment.controlled_environment(os.environ), "HF_HUB_DISABLE_XET": "1"}
    variables["PYTHONPATH"] = str(layout.REPOSITORY / "scripts")
    log = place / "prepare.log"
    with log.open("ab") as stream:
        started = stream.tell()
        process = processes.spawn(command, env=variables, stdout=stream, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:
            processes.end(process)
    lacking = absent(here, expected)
    if code or lacking:
        reason = log.read_bytes()[started:].decode(errors="replace").strip()
        why = next((line for line in reversed(reason.splitlines()) if "error:" in line), "")
        raise UserError(
            f"data set: the download ended early: {len(expected) - len(lacking)} of "
            f"{len(expected)} files were fetched ({why.strip()[:LONGEST_ERROR] or f'see {log}'}). "
            "Start again: the download continues. The folder is used only when it is complete."
        )
    dataset.check(here, plan.pairs)
    dataset.mark_revision(here, releases.DATASET, revision)
    here.replace(root)
    shutil.rmtree(place, ignore_errors=True)
    atomic_io.sync_directory(root.parent)
    print(f"data set: complete, at {root}")


def _listing(root: Path, wanted: str | None) -> tuple[str, dict[str, int]]:
    """Return the commit of a revision, and its files with their sizes, from the hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def ask() -> tuple[str, dict[str, int]]:
        commit = _resolve(wanted)
        api = HfApi(token=os.environ.get("HF_TOKEN"))
        found = api.list_repo_tree(
            releases.DATASET, recursive=True, repo_type="dataset", revision=commit
        )
        sizes = {entry.path: int(entry.size) for entry in found if isinstance(entry, RepoFile)}
        return commit, sizes

    return _answer(root, wanted, ask)


def _answer(root: Path, wanted: str | None, ask: Callable[[], Answer]) -> Answer:
    """Return the hub's answer.

    Raises:
        UserError: it has no such revision, or does not serve.
    """
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    try:
        return ask()
    except RevisionNotFoundError as error:
        raise UserError(
            f"dataset.revision: the hub's {releases.DATASET} has no revision {wanted}. Write "
            "the id of a commit (40 hexadecimal digits), or null for the newest."
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
        "`cooperbench prepare` made elsewhere and name it as dataset.dir in the config."
    )


def absent(root: Path, expected: Mapping[str, int]) -> list[str]:
    """Return the files that are missing or differ from their published size."""
    return [
        name
        for name, size in expected.items()
        if not (root / name).is_file() or (root / name).stat().st_size != size
    ]


def main() -> int:
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
    sys.exit(main())
