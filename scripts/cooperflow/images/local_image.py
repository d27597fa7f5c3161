"""The image of a job on the machine that the job landed on: the verified one, or none."""

from __future__ import annotations

import contextlib
import socket

from cooperflow import atomic_io, locks, processes
from cooperflow.engine import containers, image_identity
from cooperflow.errors import UserError
from cooperflow.experiment.plan import Plan
from cooperflow.images import verification

# Other jobs may be fetching images, seconds.
PATIENCE = 6 * 3600


def ensure(plan: Plan, image: str) -> str:
    """Return the id of the verified image of a task, which is fetched if this machine lacks it.

    Raises:
        UserError: it cannot be had, or this machine has another one of that name.
        EngineError: Docker does not answer.
    """
    path = plan.results.sentinel(image)
    sentinel = atomic_io.read_json(path) or {}
    client = containers.engine()
    try:
        attributes = containers.image_attributes(client, image)
        if attributes is None or not sentinel.get("id"):
            _fetch(plan, image, bool(sentinel.get("id")))
            sentinel = atomic_io.read_json(path) or {}
            attributes = containers.image_attributes(client, image) or {}
    finally:
        client.close()
    here = str(attributes.get("Id"))
    if sentinel.get("id") and not image_identity.is_same(sentinel, attributes):
        raise UserError(
            f"{image}: is {here} on {socket.gethostname()}, but {sentinel['id']} was "
            f"verified. Remove the image there to have the right one fetched, or remove {path} "
            "to have it verified again."
        )
    return here


def one_at_a_time(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Be the only one that fetches an image on this machine, which has one disk and one line."""
    name = f"images of {socket.gethostname()}"
    return locks.claim(plan.results.claims, name, PATIENCE)


def _fetch(plan: Plan, image: str, known: bool) -> None:
    """Fetch and verify an image."""
    place = f"on {socket.gethostname()}" if processes.on_a_node() else "here"
    print(f"{image}: is not {place}." if known else f"{image}: nothing says it is verified.")
    with one_at_a_time(plan):
        # What a cluster's first node has verified the others compare with, and leave as it is.
        once = known and processes.on_a_node()
        if once:
            verification.bring(plan, image)
        else:
            verification.ensure(plan, image)
