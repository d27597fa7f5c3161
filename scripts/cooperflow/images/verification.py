"""Providing a task's image (load, pull or build) and verifying it in a container."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors

from cooperflow import atomic_io, layout, locks, processes, session_state
from cooperflow.engine import containers, endpoint
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan
from cooperflow.images import disk_space, registry
from cooperflow.layout import Pair
from cooperflow.openhands import agent_server
from cooperflow.upstream import published

SCHEMA = 1

# Shell commands that check upstream's requirements on an image: git checkout, test runner, bash.
CHECKS = {
    "repo": "git -C /workspace/repo rev-parse --verify HEAD",
    "runner": "test -f /usr/local/bin/runner.sh",
    "bash": "command -v bash",
}

# Longest wait for other jobs that fetch images, seconds.
CLAIM_SECONDS = 6 * 3600


def write_sentinel(plan: Plan, image: str) -> dict[str, Any]:
    """Write and return the sentinel of a task's image; see `fetch_and_verify`."""
    sentinel = fetch_and_verify(plan, image)
    atomic_io.write_json(plan.results.sentinel(image), sentinel)
    return sentinel


def fetch_and_verify(plan: Plan, image: str) -> dict[str, Any]:
    """Fetch a task's image if it is missing, verify it, and return its sentinel without writing it.

    Raises:
        UserError: it cannot be fetched, does not fit on the disk, or is unusable for a run.
        EngineError: Docker does not answer.
    """
    with contextlib.closing(containers.engine()) as client, containers.engine_errors():
        return _fetch_and_verify(plan, client, image)


def _fetch_and_verify(plan: Plan, client: docker.DockerClient, image: str) -> dict[str, Any]:
    source = "present"
    if containers.image_id(client, image) is None or agent_server.is_stale(client, image):
        source = _fetch(plan, client, image)
    local = client.images.get(image)
    pinned = registry.read_pins(Path(plan.config.images.lock)).get(image)
    pulled = source == disk_space.PULLED
    digests = containers.registry_digests(local.attrs, pulled, pinned.digest if pinned else None)
    _check_pin(plan, pinned, local.attrs, digests)
    if source in disk_space.FETCHED:
        atomic_io.write_json(plan.results.fetch_record(image), {"image": image, "id": local.id})
    return {
        "schema": SCHEMA,
        "name": image,
        "id": local.id,
        "content": containers.image_hash(local.attrs),
        "digest": next(iter(digests), None),
        "size": local.attrs.get("Size"),
        "source": source,
        "checked": {
            **_verify(plan, client, image, str(local.id)),
            **(agent_server.verify(client, image, _labels(plan, image)) if _serves(image) else {}),
        },
        "time": time.time(),
    }


def _check_pin(
    plan: Plan,
    pinned: registry.Pin | None,
    attributes: Mapping[str, Any],
    digests: Sequence[str],
) -> None:
    """Raise a UserError if a local image is known to differ from its pin."""
    if pinned is None:
        return
    names = [containers.digest_of(digest) for digest in digests]
    is_pinned = pinned.digest in names or pinned.content == containers.image_hash(attributes)
    if names and not is_pinned:
        config = plan.config.images
        registry.choose_digest(
            pinned.image, pinned.digest, names[0], config.moved, Path(config.lock)
        )


def _serves(image: str) -> bool:
    """Return whether an image contains OpenHands' agent server."""
    return image != published.task_image(image)


def _labels(plan: Plan, image: str) -> Labels:
    token = f"image-{time.time_ns()}"
    return Labels.new(session_state.results_identity(plan.results), f"image {image}", token)


def _fetch(plan: Plan, client: docker.DockerClient, image: str) -> str:
    """Load, pull, build or layer the image by the first allowed method that works."""
    config, failures = plan.config.images, []
    methods: list[tuple[str, bool, Callable[[], None]]] = [
        (disk_space.LOADED, config.archive is not None, lambda: _load(plan, client, image)),
        (disk_space.PULLED, config.pull, lambda: _pull(plan, client, image)),
        ("built", config.build, lambda: _build(plan, client, plan.image_pairs[image])),
    ]
    if _serves(image):
        methods[-1] = (agent_server.LAYERED, True, lambda: agent_server.layer(client, image))
    for source, is_allowed, method in methods:
        if not is_allowed:
            continue
        try:
            method()
        except (*containers.FAILURES, UserError) as error:
            failures.append(f"not {source}: {containers.describe(error)}")
        else:
            return source
    raise UserError(
        f"{image} is missing and could not be fetched:\n"
        + ("\n".join(failures) or "images.pull, images.build and images.archive are all off.")
    )


def _load(plan: Plan, client: docker.DockerClient, image: str) -> None:
    path = archive_path(plan, image)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    disk_space.wait_for_space(plan, client, image, path.stat().st_size, 1.0)
    with path.open("rb") as stream:
        client.images.load(stream)
    if containers.image_id(client, image) is None:
        raise UserError(f"{path} does not contain {image}")


def archive_path(plan: Plan, image: str) -> Path:
    """Return the path of an image's tar file in images.archive."""
    return Path(str(plan.config.images.archive)) / f"{layout.image_key(image)}.tar"


def save(plan: Plan, image: str) -> int:
    """Write an image's tar file atomically; return its size in bytes."""
    client = containers.engine()
    path = archive_path(plan, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as stream:
            for chunk in client.images.get(image).save(named=image):
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except containers.FAILURES as error:
        raise UserError(f"{path}: could not be written: {_first_line(error)}.") from error
    finally:
        part.unlink(missing_ok=True)
        client.close()
    return path.stat().st_size


def _pull(plan: Plan, client: docker.DockerClient, image: str) -> None:
    """Pull the pinned content of an image and tag it with the name that upstream expects."""
    config, lock = plan.config.images, Path(plan.config.images.lock)
    reference = registry.reference(image, config.registry)
    registry_client = registry.Client(reference, disk_space.architecture(client))
    position = f"image {plan.images.index(image) + 1} of {len(plan.images)}"

    def work() -> None:
        pinned = registry.read_pins(lock).get(image)
        try:
            digest_now = registry_client.digest()
        except registry.UnreachableError:
            digest_now = None  # Docker may reach it through its proxy or mirror
        digest = registry.choose_digest(
            image, pinned.digest if pinned else None, digest_now, config.moved, lock
        )
        manifest = None
        if digest_now is not None and digest is not None:
            manifest = registry_client.manifest(digest)
            atomic_io.write_json(plan.results.manifest(image), manifest.as_dict())
            disk_space.wait_for_space(plan, client, image, manifest.size, config.unpacked)
        else:
            disk_space.wait_for_space(
                plan, client, image, pinned.size if pinned else 0, config.unpacked
            )
        start = time.monotonic()
        progress = registry.PullProgress(image, position, manifest.size if manifest else None)
        registry.pull_once(
            client, reference.name, digest or reference.tag, progress, registry.report_now
        )
        source = f"{reference.name}@{digest}" if digest else f"{reference.name}:{reference.tag}"
        local = client.images.get(source)
        name, _, tag = image.rpartition(":")
        local.tag(name, tag)
        digest = digest or next(d.rpartition("@")[2] for d in local.attrs["RepoDigests"])
        size = manifest.size if manifest else progress.total
        content = containers.image_hash(local.attrs)
        registry.write_pin(lock, registry.Pin(image, digest, size, content))
        seconds = time.monotonic() - start
        registry.report_now(
            f"{position}: {image}: pulled, {size / 1e6:.1f} MB packed, {seconds:.0f} s"
        )

    registry.retry_pull(work, image, config.tries, config.pause_seconds, registry.report_now)


def _build(plan: Plan, client: docker.DockerClient, pair: Pair) -> None:
    folder = dataset.task_folder(Path(plan.config.dataset.dir), pair.repo, pair.task_id)
    if not (folder / "Dockerfile").is_file():
        raise UserError(f"{folder / 'Dockerfile'} does not exist")
    disk_space.wait_for_space(plan, client, pair.image, 0, 1.0)
    client.images.build(path=str(folder), tag=pair.image, rm=True, forcerm=True)


def _verify(plan: Plan, client: docker.DockerClient, image: str, image_id: str) -> dict[str, str]:
    """Run the checks in a container of the image and return their output."""
    script = "\n".join(
        f'if out=$({check} 2>&1); then echo "{name}=ok $out"; else echo "{name}=no $out"; fi'
        for name, check in CHECKS.items()
    )
    _, limits = endpoint.limits(plan.config.containers)
    labels = _labels(plan, image)
    try:
        output = containers.output(
            client,
            image_id,
            script,
            lambda text: set(CHECKS) <= set(_answers(text)),
            labels=labels.as_dict(),
            **{**limits, "network": "none"},
        )
    except (docker.errors.ContainerError, docker.errors.APIError) as error:
        raise UserError(f"{image}: its container does not start: {_first_line(error)}.") from error
    finally:
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
    answers = _answers(output)
    if not set(CHECKS) <= set(answers):
        raise EngineError(
            f"{image}: not verified: the engine lost the output of its containers (output: "
            f"{output.strip()[:200] or 'none'})"
        )
    for name, check in CHECKS.items():
        if not answers[name].startswith("ok"):
            raise UserError(
                f"{image}: not usable for a run: `{check}` failed in it "
                f"({answers[name]}). Remove the image, then start again."
            )
    return {name: answers[name].removeprefix("ok").strip() for name in CHECKS}


def _answers(output: str) -> dict[str, str]:
    """Return the output of the checks, by name."""
    lines = (line.partition("=") for line in output.splitlines() if "=" in line)
    return {name: text for name, _, text in lines if name in CHECKS}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")


def write_gate(plan: Plan) -> None:
    """Write the gate: the record that all required images are verified."""
    sentinels = [atomic_io.read_json(plan.results.sentinel(image)) for image in plan.images]
    atomic_io.write_json(
        plan.results.gate,
        {"schema": SCHEMA, "images": {s["name"]: s["id"] for s in sentinels if s}},
    )


def ensure_verified(plan: Plan, image: str) -> str:
    """Return the id of a verified image; fetch the image if this machine lacks it.

    Raises:
        UserError: it cannot be fetched, or this machine has another image of that name.
        EngineError: Docker does not answer.
    """
    path = plan.results.sentinel(image)
    sentinel = atomic_io.read_object(path)
    with contextlib.closing(containers.engine()) as client:
        attributes = containers.image_attributes(client, image)
        if attributes is None or not sentinel.get("id"):
            _fetch_here(plan, image, bool(sentinel.get("id")))
            sentinel = atomic_io.read_object(path)
            attributes = containers.image_attributes(client, image) or {}
    image_id = str(attributes.get("Id"))
    if sentinel.get("id") and not containers.is_same_image(sentinel, attributes):
        raise UserError(
            f"{image}: is {image_id} on {socket.gethostname()}, but {sentinel['id']} was "
            f"verified. Remove the image there to fetch the verified one, or remove {path} "
            "to verify the image again."
        )
    return image_id


def claim_fetch(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Return a claim for fetching one image at a time, since images share disk and network."""
    name = f"images of {socket.gethostname()}"
    return locks.claim(plan.results.claims, name, CLAIM_SECONDS)


def _fetch_here(plan: Plan, image: str, is_known: bool) -> None:
    """Fetch and verify an image."""
    location = f"on {socket.gethostname()}" if processes.on_a_node() else "here"
    print(f"{image}: missing {location}." if is_known else f"{image}: not verified yet.")
    with claim_fetch(plan):
        # The first node of a cluster writes the sentinel, with which the other nodes compare.
        is_compared = is_known and processes.on_a_node()
        if is_compared:
            fetch_and_verify(plan, image)
        else:
            write_sentinel(plan, image)
