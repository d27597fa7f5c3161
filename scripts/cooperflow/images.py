"""A task's image: brought here if need be, then verified by a real container."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import docker.errors

from cooperflow import atomic, containers, dataset, guard, layout
from cooperflow.containers import Labels
from cooperflow.errors import UserError
from cooperflow.layout import Pair
from cooperflow.plan import Plan

SCHEMA = 1

# What upstream needs of an image, as a shell says it: a git checkout, and the test runner.
CHECKS = {
    "repo": "git -C /workspace/repo rev-parse --verify HEAD",
    "runner": "test -f /usr/local/bin/runner.sh",
    "bash": "command -v bash",
}


def ensure(plan: Plan, pair: Pair) -> dict[str, Any]:
    """See to the image of a task and return its sentinel, which is written too.

    Raises:
        UserError: it cannot be had, there is no room for it, or it is not what a run needs.
        EngineError: Docker does not answer.
    """
    client = containers.engine()
    image = pair.image
    source = "present"
    if containers.image_id(client, image) is None:
        _room(plan, client, image)
        source = _fetch(plan, client, pair)
    found = client.images.get(image)
    sentinel = {
        "schema": SCHEMA,
        "name": image,
        "id": found.id,
        "digest": next(iter(found.attrs.get("RepoDigests") or []), None),
        "size": found.attrs.get("Size"),
        "source": source,
        "checked": _verify(plan, client, image, str(found.id)),
        "time": time.time(),
    }
    atomic.write_json(plan.results.sentinel(image), sentinel)
    client.close()
    return sentinel


def _room(plan: Plan, client: docker.DockerClient, image: str) -> None:
    root, free = containers.storage(client)
    needed = plan.config.images.free_gb
    if free is not None and free < needed * 1e9:
        raise UserError(
            f"{image}: Docker's storage ({root}) has {free / 1e9:.1f} GB free; images.free_gb "
            f"asks for {needed:g}. Free some (`docker system df` shows what takes it), move "
            "Docker's data-root, or lower images.free_gb."
        )


def _fetch(plan: Plan, client: docker.DockerClient, pair: Pair) -> str:
    """Load, pull or build the image, whichever the config allows and works first."""
    config, tried = plan.config.images, []
    ways: list[tuple[str, bool, Callable[[], None]]] = [
        ("loaded", config.archive is not None, lambda: _load(plan, client, pair.image)),
        ("pulled", config.pull, lambda: _pull(client, pair.image)),
        ("built", config.build, lambda: _build(plan, client, pair)),
    ]
    for word, allowed, way in ways:
        if not allowed:
            continue
        try:
            way()
        except (docker.errors.DockerException, OSError, UserError) as error:
            tried.append(f"not {word}: {_first_line(error)}")
        else:
            return word
    raise UserError(
        f"{pair.image} is not here and could not be had: "
        + ("; ".join(tried) or "images.pull, images.build and images.archive are all off")
        + "."
    )


def _load(plan: Plan, client: docker.DockerClient, image: str) -> None:
    path = Path(str(plan.config.images.archive)) / f"{layout.image_key(image)}.tar"
    if not path.is_file():
        raise UserError(f"there is no {path}")
    with path.open("rb") as stream:
        client.images.load(stream)
    if containers.image_id(client, image) is None:
        raise UserError(f"{path} does not hold {image}")


def _pull(client: docker.DockerClient, image: str) -> None:
    name, _, tag = image.rpartition(":")
    client.images.pull(name, tag=tag)


def _build(plan: Plan, client: docker.DockerClient, pair: Pair) -> None:
    folder = dataset.task_folder(Path(plan.config.dataset.dir), pair.repo, pair.task_id)
    if not (folder / "Dockerfile").is_file():
        raise UserError(f"there is no {folder / 'Dockerfile'}")
    client.images.build(path=str(folder), tag=pair.image, rm=True, forcerm=True)


def _verify(plan: Plan, client: docker.DockerClient, image: str, found: str) -> dict[str, str]:
    """Start a container of the image and run the checks in it."""
    script = "\n".join(
        f'if out=$({check} 2>&1); then echo "{name}=ok $out"; else echo "{name}=no $out"; fi'
        for name, check in CHECKS.items()
    )
    _, limits = containers.limits(plan.config.containers)
    labels = Labels.new(guard.identity(plan.results), f"image {image}", f"image-{time.time_ns()}")
    try:
        output = client.containers.run(
            found,
            ["-c", script],
            entrypoint="/bin/sh",
            labels=labels.as_dict(),
            **{**limits, "network": "none"},
            remove=True,
        ).decode(errors="replace")
    except (docker.errors.ContainerError, docker.errors.APIError) as error:
        raise UserError(f"{image}: no container of it starts: {_first_line(error)}.") from error
    finally:
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
    lines = (line.partition("=") for line in output.splitlines() if "=" in line)
    told = {name: text for name, _, text in lines if name in CHECKS}
    for name, check in CHECKS.items():
        if not told.get(name, "no").startswith("ok"):
            raise UserError(
                f"{image}: is not what a run needs: `{check}` failed in it "
                f"({told.get(name, 'no answer')}). Remove the image, then start again."
            )
    return {name: told[name].removeprefix("ok").strip() for name in CHECKS}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")


def gate(plan: Plan) -> None:
    """Write the file that says that every needed image is verified."""
    sentinels = [atomic.read_json(plan.results.sentinel(image)) for image in plan.images]
    atomic.write_json(
        plan.results.gate,
        {"schema": SCHEMA, "images": {s["name"]: s["id"] for s in sentinels if s}},
    )


def free_disk(path: Path) -> int:
    """Return the free bytes of the file system that ``path`` is or will be on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
