"""Rolling mode: which image is still needed, and the removal of those that are not."""

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
# Images of these sources were brought here by this workflow; no others are removed.
OURS = (PULLED, LOADED, agent_server.LAYERED)


def plan_use(plan: Plan, wanted: Mapping[str, Iterable[str]]) -> list[str]:
    """Note which files of this start need which image; remove images that none needs any more.

    Returns the images removed.
    """
    if not plan.config.images.rolling:
        plan.results.pending_images.unlink(missing_ok=True)
        return []
    atomic_io.write_json(plan.results.pending_images, {k: sorted(v) for k, v in wanted.items()})
    return [image for image in plan.images if release(plan, image)]


def needed(plan: Plan, image: str) -> bool:
    """Return whether a file that needs the image is still to be made."""
    noted = atomic_io.read_json(plan.results.pending_images)
    files = (
        noted.get(image, [])
        if isinstance(noted, dict)
        else [str(plan.results.pending_images) + "?"]
    )
    return any(not Path(file).exists() for file in files)


def in_use(plan: Plan, besides: str) -> bool:
    """Return whether another image that we brought here is still needed, and so will go."""
    others = (image for image in plan.images if image != besides)
    return any(
        plan.results.fetch_record(image).exists() and needed(plan, image) for image in others
    )


def release(plan: Plan, image: str) -> bool:
    """Remove an image that we brought here and that nothing needs; return whether it is gone."""
    if not plan.config.images.rolling or needed(plan, image):
        return False
    try:
        with locks.claim(plan.results.claims, f"image {image}", 0.0):
            return _remove(plan, image)
    except (UserError, EngineError, docker.errors.DockerException):
        return False  # another job is at it, or a later start will be


def _remove(plan: Plan, image: str) -> bool:
    note = atomic_io.read_json(plan.results.fetch_record(image))
    if not isinstance(note, dict):
        return False
    client = containers.engine()
    try:
        found = client.images.get(image)
    except docker.errors.ImageNotFound:
        found = None
    if found is not None and found.id == note["id"]:
        # By its names, so that one that someone else gave it keeps it here.
        name = image.rpartition(":")[0].rpartition("/")[2]
        digests = [d for d in found.attrs.get("RepoDigests") or [] if f"/{name}@" in d]
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
