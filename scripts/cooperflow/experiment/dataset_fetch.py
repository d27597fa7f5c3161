"""Getting the data set the upstream way, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cooperflow import atomic, processes
from cooperflow.errors import UserError, listed
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan

SCHEMA = 1
CLAIM_SECONDS = 1.0
# Below this many bytes of a download log nobody reads on.
TOLD = 400


def settle(plan: Plan) -> dict[str, Any]:
    """See to the data set, check it against the pairs, and write what it is to dataset.json.

    Raises:
        UserError: it is not there and cannot be fetched, or it lacks something.
    """
    root = Path(plan.config.dataset.dir)
    source = "present"
    if not root.exists():
        with processes.claim(plan.results.claims, f"data set {root}", CLAIM_SECONDS):
            fetch(root, plan)
        source = "fetched"
    dataset.check(root, plan.pairs)
    hashes = dataset.task_hashes(root, plan.pairs)
    document = {
        "schema": SCHEMA,
        "dir": str(root),
        "source": source,
        "subset": plan.config.dataset.subset,
        "pairs": len(plan.pairs),
        "hash": dataset.whole_hash(hashes),
        "tasks": hashes,
        "time": time.time(),
    }
    before = atomic.read_json(plan.results.dataset_json)
    if isinstance(before, dict):
        changed = [t for t, h in hashes.items() if before.get("tasks", {}).get(t, h) != h]
        if changed:
            print(f"data set: {listed(changed)}: other contents than when last looked at")
        if source == "present":
            document["source"] = before.get("source", source)
    atomic.write_json(plan.results.dataset_json, document)
    return document


def fetch(root: Path, plan: Plan) -> None:
    """Have `cooperbench prepare` download into a folder beside ``root``, check, and rename.

    A download that was cut off is gone on with: the hub's client keeps what it has.

    Raises:
        UserError: the hub cannot be reached, or what came is not whole.
    """
    place = root.parent / f".{root.name}.partial"
    place.mkdir(parents=True, exist_ok=True)
    expected = _listing(root)
    print(f"data set: {len(expected)} files, {sum(expected.values()) / 1e6:.1f} MB, into {root}")
    command = [sys.executable, "-m", "cooperbench.cli", "prepare"]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_DISABLE_XET": "1"}
    log = place / "prepare.log"
    with log.open("ab") as stream:
        begun = stream.tell()
        process = processes.spawn(
            command, cwd=place, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait()
        finally:
            processes.end(process)
    here = place / "dataset"
    lacking = absent(here, expected)
    if code or lacking:
        said = log.read_bytes()[begun:].decode(errors="replace").strip()
        why = next((line for line in reversed(said.splitlines()) if "error:" in line), "")
        raise UserError(
            f"data set: the download ended early: {len(expected) - len(lacking)} of "
            f"{len(expected)} files are here ({why.strip()[:TOLD] or f'see {log}'}). "
            "Start again: it goes on with what is here. Nothing of it is used until it is whole."
        )
    dataset.check(here, plan.pairs)
    here.replace(root)
    atomic.sync_directory(root.parent)
    print(f"data set: whole, at {root}")


def _listing(root: Path) -> dict[str, int]:
    """Return the files of the published data set and their sizes, as the hub tells them."""
    from cooperbench.dataset import REPO_ID
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    token = os.environ.get("HF_TOKEN")
    try:
        found = HfApi(token=token).list_repo_tree(REPO_ID, recursive=True, repo_type="dataset")
        return {entry.path: int(entry.size) for entry in found if isinstance(entry, RepoFile)}
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(_offline(root, error)) from error
    except Exception as error:  # the client's network errors have no base class of their own
        if type(error).__module__.startswith(("httpx", "httpcore", "huggingface_hub")):
            raise UserError(_offline(root, error)) from error
        raise


def _offline(root: Path, error: BaseException) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:TOLD]
    return (
        f"data set: there is none at {root}, and the hub does not serve it ({said}).\n"
        "Two ways on: (1) with a network, `make dataset` fetches it (HTTPS_PROXY names a proxy, "
        "HF_ENDPOINT a mirror, HF_TOKEN a token); (2) without one, copy a folder that "
        "`cooperbench prepare` made elsewhere and name it as dataset.dir in the config."
    )


def absent(root: Path, expected: Mapping[str, int]) -> list[str]:
    """Return the files that are not there, or not of their published size."""
    return [
        name
        for name, size in expected.items()
        if not (root / name).is_file() or (root / name).stat().st_size != size
    ]
