"""Docker's networks: one per run, and this machine's address in a network."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests.exceptions

from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError

# Messages of an engine without a free subnet: from version 27 on, and before.
_EXHAUSTED = ("fully subnetted", "non-overlapping IPv4 address pool")
POOLS = (
    "Docker has no address range left for another network. Remove unused networks (`docker "
    'network prune`), or give Docker more in /etc/docker/daemon.json: {"default-address-pools": '
    '[{"base": "172.16.0.0/12", "size": 24}]}, then restart it.'
)


@dataclass(frozen=True)
class Network:
    """A bridge network; ``address`` is this machine's address in it, None without one."""

    name: str
    address: str | None


def own_name(labels: Labels) -> str:
    """Return the name of an attempt's network. Pure."""
    return f"cooperflow-{labels.token[:12]}"


def git_name(labels: Labels) -> str:
    """Return the name of the network of an attempt's git server; sdk_patches sets it."""
    return f"cooperbench-{labels.token[:12]}"


def create(name: str, labels: Labels, internal: bool) -> Network:
    """Create a network with ``labels``, by which it is removed with the run's containers.

    Args:
        internal: its containers reach only this machine.

    Raises:
        EngineError: Docker refuses; the text has the engine's message.
    """
    client = containers.engine()
    try:
        network = client.networks.create(
            name, driver="bridge", internal=internal, labels=labels.as_dict()
        )
        network.reload()
        return Network(name, _gateway(network.attrs))
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(f"no network for the run: {explain(str(error))}") from error
    finally:
        client.close()


def find_shortage(labels: Labels, count: int) -> str | None:
    """Create ``count`` networks, remove them, and return what Docker lacks for this number.

    The engine does not list its address ranges, so only an attempt counts them.
    """
    created = 0
    try:
        for number in range(count):
            create(f"{own_name(labels)}-{number}", labels, internal=True)
            created += 1
    except EngineError as error:
        return f"{created} of {count} networks could be created ({error})"
    finally:
        with contextlib.suppress(EngineError):
            client = containers.engine()
            try:
                containers.remove(client, {containers.TOKEN_LABEL: labels.token})
            finally:
                client.close()
    return None


def existing(name: str) -> Network:
    """Return a network that the user made.

    Raises:
        EngineError: it does not exist, or the engine does not answer.
    """
    client = containers.engine()
    try:
        with containers.engine_errors():
            return Network(name, _gateway(client.networks.get(name).attrs))
    finally:
        client.close()


def explain(message: str) -> str:
    """Return the engine's message, with advice if its address pools are exhausted. Pure."""
    return f"{message} {POOLS}" if any(text in message for text in _EXHAUSTED) else message


def _gateway(attrs: Mapping[str, Any]) -> str | None:
    """Return the IPv4 gateway of a network's description, None without one."""
    subnets = (attrs.get("IPAM") or {}).get("Config") or []
    addresses = [
        str(subnet["Gateway"]).partition("/")[0] for subnet in subnets if subnet.get("Gateway")
    ]
    return next((address for address in addresses if ":" not in address), None)


def exists(client: docker.DockerClient, name: str) -> bool:
    """Return whether a network of that name (or id) exists.

    Raises:
        EngineError: the engine does not answer.
    """
    with containers.engine_errors():
        try:
            client.networks.get(name)
        except docker.errors.NotFound:
            return False
        return True
