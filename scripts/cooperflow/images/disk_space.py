"""Room for images on Docker's disk: what is needed, from the manifests, and what is there."""

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

# Between two looks at the disk while images in use take the room, seconds.
TICK = 3.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True)
class Need:
    """What fetching some images takes."""

    images: int
    packed: int  # bytes to download, each layer once
    unknown: int  # images of which nobody could say how large they are

    def unpacked(self, factor: float) -> int:
        """Bytes on disk while and after they are unpacked."""
        return int(self.packed * factor)


def architecture(client: docker.DockerClient) -> str:
    """Return the registry's word for what Docker runs on."""
    name = str(client.info().get("Architecture") or "x86_64")
    return _ARCHITECTURES.get(name, name)


def need(
    absent: Iterable[str],
    manifests: Mapping[str, Manifest],
    sizes: Mapping[str, int],
    here: Iterable[str] = (),
) -> Need:
    """Return what fetching the images ``absent`` takes; a layer that two share counts once.

    Args:
        manifests: by image, of those that a registry told of.
        sizes: packed sizes by image, for the others, as far as known.
        here: images whose layers are on this machine.
    """
    seen = {digest for image in here if image in manifests for digest, _ in manifests[image].layers}
    packed = unknown = count = 0
    for image in absent:
        count += 1
        if image in manifests:
            for digest, size in manifests[image].layers:
                packed += size if digest not in seen else 0
                seen.add(digest)
        elif sizes.get(image):
            packed += sizes[image]
        else:
            unknown += 1
    return Need(count, packed, unknown)


def ask(plan: Plan, client: docker.DockerClient, absent: Iterable[str]) -> dict[str, Manifest]:
    """Return the manifests of images, those that are known already without asking again."""
    found: dict[str, Manifest] = {}
    kind, reachable = architecture(client), True
    pinned = image_lock.read(Path(plan.config.images.lock))
    wanted = set(absent)
    for image in plan.images:
        document = atomic_io.read_json(plan.results.manifest(image))
        known = Manifest.parse(document) if isinstance(document, dict) else None
        if known and (image not in wanted or pinned.get(image, known).digest == known.digest):
            found[image] = known
        elif image in wanted and reachable and plan.config.images.pull:
            asking = registry.Client(registry.reference(image, plan.config.images.registry), kind)
            try:
                entry = pinned.get(image)
                found[image] = asking.manifest(entry.digest if entry else asking.digest())
                atomic_io.write_json(plan.results.manifest(image), found[image].as_dict())
            except (registry.OutOfReach, registry.Transient):
                reachable = False  # told when the image is pulled
            except UserError:
                continue  # told when the image is pulled
    return found


@dataclass(frozen=True)
class Fit:
    """How much is to be fetched, in words; ``known``: whether the registry told any sizes."""

    words: str
    known: bool


def check(plan: Plan, client: docker.DockerClient, absent: list[str]) -> Fit | None:
    """Return how much is to be fetched, which fits as far as is known; None: nothing is.

    Raises:
        UserError: it does not fit on Docker's disk.
    """
    if not absent:
        return None
    config = plan.config.images
    manifests = ask(plan, client, absent)
    sizes = {name: e.size for name, e in image_lock.read(Path(config.lock)).items()}
    here = [image for image in plan.images if image not in absent]
    whole = need(absent, manifests, sizes, here)
    root, free = containers.storage(client)
    told = _words(whole)
    room = whole.unpacked(config.unpacked)
    if config.rolling:
        room = max((need([image], manifests, sizes, here).packed for image in absent), default=0)
        room = int(room * config.unpacked)
    wanted = room + int(config.free_gb * 1e9)
    if free is not None and free < wanted:
        raise UserError(
            f"Disk: {told}{_unpacked(room)}, and {config.free_gb:g} GB are to "
            f"stay free (images.free_gb). Docker's root {root} has {free / 1e9:.1f} GB free: "
            f"{(wanted - free) / 1e9:.1f} GB are missing. {advice(root, config.rolling)}"
        )
    there = (
        f"{free / 1e9:.1f} GB free" if free is not None else "room that cannot be seen from here"
    )
    return Fit(f"{told}{_unpacked(room)}; {root} has {there}", whole.unknown < whole.images)


def _words(whole: Need) -> str:
    if whole.unknown == whole.images:
        return f"{_images(whole.images)} to fetch, of unknown size: the registry was not reached"
    told = f"{_images(whole.images)}, {whole.packed / 1e9:.1f} GB to fetch"
    if whole.unknown:
        told += f" (the registry did not tell the size of {whole.unknown})"
    return told


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _unpacked(room: int) -> str:
    return f", about {room / 1e9:.1f} GB unpacked" if room else ""


def advice(root: Path, is_rolling: bool) -> str:
    """Return what to do where Docker's disk is too small."""
    other = "" if is_rolling else " Or set images.rolling: true, which keeps few images at a time."
    return (
        "Free some (`docker system df` shows what takes it). Or move Docker's root: stop Docker, "
        f'write {{"data-root": "/other/disk/docker"}} to /etc/docker/daemon.json, copy {root} '
        f"there, start Docker.{other}"
    )


def wait(plan: Plan, client: docker.DockerClient, image: str, packed: int, factor: float) -> None:
    """Return when there is room for an image. In rolling mode others are waited for.

    Raises:
        UserError: there is none, and none will be made.
    """
    told = False
    while True:
        root, free = containers.storage(client)
        wanted = int(packed * factor) + int(plan.config.images.free_gb * 1e9)
        if free is None or free >= wanted:
            return
        if not (plan.config.images.rolling and rolling.in_use(plan, image)):
            raise UserError(
                f"{image} needs about {packed * factor / 1e9:.2f} GB, and "
                f"{plan.config.images.free_gb:g} GB are to stay free (images.free_gb); Docker's "
                f"root {root} has {free / 1e9:.2f} GB: {(wanted - free) / 1e9:.2f} GB are "
                f"missing. {advice(root, plan.config.images.rolling)}"
            )
        if not told:
            print(f"{image}: waits for room: the images in use are removed after their last run")
            told = True
        time.sleep(TICK)
