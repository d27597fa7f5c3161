"""Disk space for images: required and free space, and removal of images after their last use."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from cooperflow import atomic_io, locks
from cooperflow.engine import containers
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment.plan import Plan
from cooperflow.images import registry
from cooperflow.images.registry import Manifest
from cooperflow.openhands import agent_server

# Interval of disk checks while a pull waits for space, seconds.
TICK = 3.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}

PULLED, LOADED = "pulled", "loaded"
# Sources of images that the workflow fetched itself; images of other sources are never removed.
FETCHED = (PULLED, LOADED, agent_server.LAYERED)


@dataclass(frozen=True)
class Need:
    """Number and size of images to fetch."""

    images: int
    packed: int  # bytes to download; a shared layer counts once
    unknown: int  # images of unknown size

    def unpacked_bytes(self, factor: float) -> int:
        """Return the bytes on disk of the unpacked images."""
        return int(self.packed * factor)


def architecture(client: docker.DockerClient) -> str:
    """Return the registry's name of Docker's architecture."""
    name = str(client.info().get("Architecture") or "x86_64")
    return _ARCHITECTURES.get(name, name)


def compute_need(
    missing: Iterable[str],
    manifests: Mapping[str, Manifest],
    sizes: Mapping[str, int],
    present: Iterable[str] = (),
) -> Need:
    """Return the need of the images ``missing``; a shared layer counts once.

    Args:
        manifests: the known manifests, by image.
        sizes: known packed sizes of images without a manifest, by image.
        present: images whose layers exist on this machine.
    """
    counted_layers = {
        digest for image in present if image in manifests for digest, _ in manifests[image].layers
    }
    packed = unknown = count = 0
    for image in missing:
        count += 1
        if image in manifests:
            for digest, size in manifests[image].layers:
                packed += size if digest not in counted_layers else 0
                counted_layers.add(digest)
        elif sizes.get(image):
            packed += sizes[image]
        else:
            unknown += 1
    return Need(count, packed, unknown)


def read_manifests(
    plan: Plan, client: docker.DockerClient, images: Iterable[str]
) -> dict[str, Manifest]:
    """Return the manifests of images, from files or else from the registry."""
    manifests: dict[str, Manifest] = {}
    kind, reachable = architecture(client), True
    pinned = registry.read_pins(Path(plan.config.images.lock))
    missing_images = set(images)
    for image in plan.images:
        document = atomic_io.read_json(plan.results.manifest(image))
        stored_manifest = Manifest.parse(document) if isinstance(document, dict) else None
        if stored_manifest and (
            image not in missing_images
            or pinned.get(image, stored_manifest).digest == stored_manifest.digest
        ):
            manifests[image] = stored_manifest
        elif image in missing_images and reachable and plan.config.images.pull:
            reference = registry.reference(image, plan.config.images.registry)
            client_of_image, entry = registry.Client(reference, kind), pinned.get(image)
            try:
                digest = entry.digest if entry else client_of_image.digest()
                manifests[image] = client_of_image.manifest(digest)
                atomic_io.write_json(plan.results.manifest(image), manifests[image].as_dict())
            except (registry.UnreachableError, registry.TransientError):
                reachable = False  # reported when the image is pulled
            except UserError:
                continue  # reported when the image is pulled
    return manifests


def check_space(plan: Plan, client: docker.DockerClient, missing: list[str]) -> str | None:
    """Return a text with the amount to fetch, None if nothing is missing.

    Raises:
        UserError: the images do not fit on Docker's disk.
    """
    if not missing:
        return None
    config = plan.config.images
    manifests = read_manifests(plan, client, missing)
    sizes = {name: e.size for name, e in registry.read_pins(Path(config.lock)).items()}
    present = [image for image in plan.images if image not in missing]
    total = compute_need(missing, manifests, sizes, present)
    root, free = containers.storage(client)
    amount = _describe_need(total)
    room = total.unpacked_bytes(config.unpacked)
    if config.rolling:
        needs = [compute_need([image], manifests, sizes, present) for image in missing]
        room = max(need.unpacked_bytes(config.unpacked) for need in needs)
    required = room + int(config.free_gb * 1e9)
    if free is not None and free < required:
        raise UserError(
            f"Disk: {amount}{_unpacked(room)}, and {config.free_gb:g} GB must "
            f"stay free (images.free_gb). Docker's root {root} has {free / 1e9:.1f} GB free: "
            f"{(required - free) / 1e9:.1f} GB are missing. {disk_advice(root, config.rolling)}"
        )
    space = "free space that is not visible here" if free is None else f"{free / 1e9:.1f} GB free"
    return f"{amount}{_unpacked(room)}; {root} has {space}"


def _describe_need(total: Need) -> str:
    if total.unknown == total.images:
        return f"{_images(total.images)} to fetch, of unknown size: the registry was not reached"
    text = f"{_images(total.images)}, {total.packed / 1e9:.1f} GB to fetch"
    if total.unknown:
        text += f" (the registry did not return the size of {total.unknown})"
    return text


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _unpacked(room: int) -> str:
    return f", about {room / 1e9:.1f} GB unpacked" if room else ""


def disk_advice(root: Path, is_rolling: bool) -> str:
    """Return the advice for a disk of Docker that is too small."""
    other = "" if is_rolling else " Or set images.rolling: true, which keeps few images at a time."
    return (
        "Free some (`docker system df` shows its use). Or move Docker's root: stop Docker, "
        f'write {{"data-root": "/other/disk/docker"}} to /etc/docker/daemon.json, copy {root} '
        f"there, start Docker.{other}"
    )


def wait_for_space(
    plan: Plan, client: docker.DockerClient, image: str, packed: int, factor: float
) -> None:
    """Wait until there is space for an image. In rolling mode, other images will be removed.

    Raises:
        UserError: there is too little space, and no image will be removed.
    """
    is_announced = False
    while True:
        root, free = containers.storage(client)
        required = int(packed * factor) + int(plan.config.images.free_gb * 1e9)
        if free is None or free >= required:
            return
        if not (plan.config.images.rolling and has_images_in_use(plan, image)):
            raise UserError(
                f"{image} needs about {packed * factor / 1e9:.2f} GB, and "
                f"{plan.config.images.free_gb:g} GB must stay free (images.free_gb); Docker's "
                f"root {root} has {free / 1e9:.2f} GB: {(required - free) / 1e9:.2f} GB are "
                f"missing. {disk_advice(root, plan.config.images.rolling)}"
            )
        if not is_announced:
            print(
                f"{image}: waiting for disk space: images in use are removed after their last run"
            )
            is_announced = True
        time.sleep(TICK)


def plan_use(plan: Plan, files_by_image: Mapping[str, Iterable[str]]) -> list[str]:
    """Record which files of this session need each image; remove images that none needs.

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
    if not isinstance(record, dict):
        return True
    files = record.get(image, [])
    return any(not Path(file).exists() for file in files)


def has_images_in_use(plan: Plan, excluded: str) -> bool:
    """Return whether another image of the workflow is in use and will be removed later."""
    others = (image for image in plan.images if image != excluded)
    return any(
        plan.results.fetch_record(image).exists() and is_needed(plan, image) for image in others
    )


def remove_unneeded(plan: Plan, image: str) -> bool:
    """Remove an image that the workflow fetched and nothing needs; return whether it did so."""
    if not plan.config.images.rolling or is_needed(plan, image):
        return False
    try:
        with locks.claim(plan.results.claims, f"image {image}", 0.0):
            return _remove(plan, image)
    except (UserError, EngineError, *containers.FAILURES):
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
        # Remove the names, so that the image stays if it has another name.
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
