"""Rolling mode: images that are still needed, and the removal of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import docker
import docker.errors

from cooperflow import atomic_io, locks
from cooperflow.engine import containers
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment.plan import Plan
from cooperflow.openhands import agent_server

PULLED, LOADED = "pulled", "loaded"
# Sources of images that this workflow fetched; images of other sources are not removed.
FETCHED = (PULLED, LOADED, agent_server.LAYERED)


def plan_use(plan: Plan, files_by_image: Mapping[str, Iterable[str]]) -> list[str]:
    """Record the files of this session that need an image; remove images that are not needed.

    Returns the removed images.
    """
    if not plan.config.images.rolling:
        plan.results.pending_images.unlink(missing_ok=True)
        return []
    atomic_io.write_json(
        plan.results.pending_images, {k: sorted(v) for k, v in files_by_image.items()}
    )
    return [image for image in plan.images if remove_unneeded(plan, image)]


def is_needed(plan: Plan, image: str) -> bool:
    """Return whether a file that needs the image does not exist yet."""
    record = atomic_io.read_json(plan.results.pending_images)
    files = (
        record.get(image, [])
        if isinstance(record, dict)
        else [str(plan.results.pending_images) + "?"]
    )
    return any(not Path(file).exists() for file in files)


def in_use(plan: Plan, excluded: str) -> bool:
    """Return whether another image that the workflow fetched is needed now and removed later."""
    others = (image for image in plan.images if image != excluded)
    return any(
        plan.results.fetch_record(image).exists() and is_needed(plan, image) for image in others
    )


def remove_unneeded(plan: Plan, image: str) -> bool:
    """Remove an image if the workflow fetched it and nothing needs it; return whether it did."""
    if not plan.config.images.rolling or is_needed(plan, image):
        return False
    try:
        with locks.claim(plan.results.claims, f"image {image}", 0.0):
            return _remove(plan, image)
    except (UserError, EngineError, docker.errors.DockerException):
        return False  # another job is removing it, or a later session will


def _remove(plan: Plan, image: str) -> bool:
    record = atomic_io.read_json(plan.results.fetch_record(image))
    if not isinstance(record, dict):
        return False
    client = containers.engine()
    try:
        local = client.images.get(image)
    except docker.errors.ImageNotFound:
        local = None
    if local is not None and local.id == record["id"]:
        # By its names, so that the image stays if it has another name.
        name = image.rpartition(":")[0].rpartition("/")[2]
        digests = [d for d in local.attrs.get("RepoDigests") or [] if f"/{name}@" in d]
        for reference in (*digests, image):
            try:
                client.images.remove(reference)
            except docker.errors.ImageNotFound:
                continue
    client.close()
    plan.results.sentinel(image).unlink(missing_ok=True)
    plan.results.gate.unlink(missing_ok=True)
    plan.results.fetch_record(image).unlink(missing_ok=True)
    print(f"{image}: removed after its last use (images.rolling)")
    return True
