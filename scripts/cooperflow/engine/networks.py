"""A network of a run's own, and the address of this machine in it."""

from __future__ import annotations

from dataclasses import dataclass

import docker.errors
import requests.exceptions

from cooperflow.engine import containers
from cooperflow.engine.containers import EngineError, Labels


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
