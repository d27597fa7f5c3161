"""Docker's networks: whether one is there; a run's own, and this machine's address in it."""

from __future__ import annotations

from dataclasses import dataclass

import docker
import docker.errors
import requests.exceptions

from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError


@dataclass(frozen=True)
class Network:
    """A bridge of Docker's; ``address`` is this machine's end of it."""

    name: str
    address: str


def create(labels: Labels, internal: bool) -> Network:
    """Make a network with ``labels``, by which it is removed with the run's containers.

    Args:
        internal: nothing in it reaches further than this machine.

    Raises:
        EngineError: Docker does not make it.
    """
    client = containers.engine()
    try:
        made = client.networks.create(
            f"cooperflow-{labels.token[:12]}",
            driver="bridge",
            internal=internal,
            labels=labels.as_dict(),
        )
        made.reload()
        return Network(str(made.name), str(made.attrs["IPAM"]["Config"][0]["Gateway"]))
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(f"no network for the run: {error}") from error
    finally:
        client.close()


def exists(client: docker.DockerClient, name: str) -> bool:
    """Return whether there is a network of that name (or id), made by whoever.

    Raises:
        EngineError: the engine does not answer.
    """
    with containers.told():
        try:
            client.networks.get(name)
        except docker.errors.NotFound:
            return False
        return True
