"""Space for images on Docker's disk: the need, computed from manifests, and the free space."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker

from cooperflow import atomic_io
from cooperflow.engine import containers
from cooperflow.errors import UserError
from cooperflow.experiment.plan import Plan
from cooperflow.images import image_lock, registry, rolling
from cooperflow.images.registry import Manifest

# Interval of disk checks while images in use take the space, seconds.
TICK = 3.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True)
class Need:
    """Disk space and download that fetching some images takes."""

    images: int
    packed: int  # bytes to download, each layer once
    unknown: int  # images of unknown size

    def unpacked(self, factor: float) -> int:
        """Return the bytes on disk while and after the images are unpacked."""
        return int(self.packed * factor)


def architecture(client: docker.DockerClient) -> str:
    """Return the registry's name for the architecture that Docker runs on."""
    name = str(client.info().get("Architecture") or "x86_64")
    return _ARCHITECTURES.get(name, name)


def need(
    absent: Iterable[str],
    manifests: Mapping[str, Manifest],
    sizes: Mapping[str, int],
    present: Iterable[str] = (),
) -> Need:
    """Return what fetching the images ``absent`` takes; a shared layer counts once.

    Args:
        manifests: manifests by image, as far as a registry returned them.
        sizes: packed sizes by image, as far as known, for images without a manifest.
        present: images whose layers are on this machine.
    """
    counted = {
        digest for image in present if image in manifests for digest, _ in manifests[image].layers
    }
    packed = unknown = count = 0
    for image in absent:
        count += 1
        if image in manifests:
            for digest, size in manifests[image].layers:
                packed += size if digest not in counted else 0
                counted.add(digest)
        elif sizes.get(image):
            packed += sizes[image]
        else:
            unknown += 1
    return Need(count, packed, unknown)


def ask(plan: Plan, client: docker.DockerClient, absent: Iterable[str]) -> dict[str, Manifest]:
    """Return the manifests of images. A stored manifest is not requested again."""
    manifests: dict[str, Manifest] = {}
    kind, reachable = architecture(client), True
    pinned = image_lock.read(Path(plan.config.images.lock))
    missing = set(absent)
    for image in plan.images:
        document = atomic_io.read_json(plan.results.manifest(image))
        stored = Manifest.parse(document) if isinstance(document, dict) else None
        if stored and (image not in missing or pinned.get(image, stored).digest == stored.digest):
            manifests[image] = stored
        elif image in missing and reachable and plan.config.images.pull:
            registry_client = registry.Client(
                registry.reference(image, plan.config.images.registry), kind
            )
            try:
                entry = pinned.get(image)
                manifests[image] = registry_client.manifest(
                    entry.digest if entry else registry_client.digest()
                )
                atomic_io.write_json(plan.results.manifest(image), manifests[image].as_dict())
            except (registry.OutOfReach, registry.Transient):
                reachable = False  # reported when the image is pulled
            except UserError:
                continue  # reported when the image is pulled
    return manifests


@dataclass(frozen=True)
class Fit:
    """Amount to fetch, in words; ``known``: the registry returned at least one size."""

    words: str
    known: bool


def check(plan: Plan, client: docker.DockerClient, absent: list[str]) -> Fit | None:
    """Return the amount to fetch, which fits as far as sizes are known; None: nothing to fetch.

    Raises:
        UserError: it does not fit on Docker's disk.
    """
    if not absent:
        return None
    config = plan.config.images
    manifests = ask(plan, client, absent)
    sizes = {name: e.size for name, e in image_lock.read(Path(config.lock)).items()}
    present = [image for image in plan.images if image not in absent]
    total = need(absent, manifests, sizes, present)
    root, free = containers.storage(client)
    amount = _words(total)
    room = total.unpacked(config.unpacked)
    if config.rolling:
        room = max((need([image], manifests, sizes, present).packed for image in absent), default=0)
        room = int(room * config.unpacked)
    required = room + int(config.free_gb * 1e9)
    if free is not None and free < required:
        raise UserError(
            f"Disk: {amount}{_unpacked(room)}, and {config.free_gb:g} GB are to "
            f"stay free (images.free_gb). Docker's root {root} has {free / 1e9:.1f} GB free: "
            f"{(required - free) / 1e9:.1f} GB are missing. {advice(root, config.rolling)}"
        )
    free_space = (
        f"{free / 1e9:.1f} GB free" if free is not None else "free space that is not visible here"
    )
    return Fit(f"{amount}{_unpacked(room)}; {root} has {free_space}", total.unknown < total.images)


def _words(total: Need) -> str:
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


def advice(root: Path, is_rolling: bool) -> str:
    """Return the advice for a disk of Docker that is too small."""
    other = "" if is_rolling else " Or set images.rolling: true, which keeps few images at a time."
    return (
        "Free some (`docker system df` shows its use). Or move Docker's root: stop Docker, "
        f'write {{"data-root": "/other/disk/docker"}} to /etc/docker/daemon.json, copy {root} '
        f"there, start Docker.{other}"
    )


def wait(plan: Plan, client: docker.DockerClient, image: str, packed: int, factor: float) -> None:
    """Return when there is space for an image. Rolling mode waits until other images are removed.

    Raises:
        UserError: there is too little, and no image will be removed.
    """
    is_announced = False
    while True:
        root, free = containers.storage(client)
        required = int(packed * factor) + int(plan.config.images.free_gb * 1e9)
        if free is None or free >= required:
            return
        if not (plan.config.images.rolling and rolling.in_use(plan, image)):
            raise UserError(
                f"{image} needs about {packed * factor / 1e9:.2f} GB, and "
                f"{plan.config.images.free_gb:g} GB are to stay free (images.free_gb); Docker's "
                f"root {root} has {free / 1e9:.2f} GB: {(required - free) / 1e9:.2f} GB are "
                f"missing. {advice(root, plan.config.images.rolling)}"
            )
        if not is_announced:
            print(
                f"{image}: waiting for disk space: images in use are removed after their last run"
            )
            is_announced = True
        time.sleep(TICK)
