"""What an attempt starts for its agents: a Redis, and for those in containers their network too."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow.attempt import store_checks
from cooperflow.attempt.model_gateway import Gateway, Upstream
from cooperflow.attempt.redis_server import RedisServer
from cooperflow.engine import networks
from cooperflow.engine.containers import Labels
from cooperflow.engine.networks import Network
from cooperflow.errors import EngineError, StoreError
from cooperflow.openhands import agent_environment


@dataclass(frozen=True)
class Wanted:
    """What the services of a run are to be."""

    labels: Labels
    image: str  # in which the agents' containers start
    outside: bool  # whether the network reaches more than these services
    messaging: bool
    redis_url: str | None  # of the config; None: a private one


@dataclass(frozen=True)
class Services:
    """What was started, and what cooperbench is to be told of it."""

    arguments: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    run_arguments: list[str] = field(default_factory=list)  # of the agents' `docker run`
    redis: RedisServer | None = None
    gateway: Gateway | None = None

    @property
    def died(self) -> bool:
        """Whether one without which no agent gets on has ended."""
        return self.gateway is not None and self.gateway.died


def beside(
    redis_url: str | None, folder: Path, logs: Path, stack: contextlib.ExitStack
) -> Services:
    """Start the message store of agents that talk from this machine; ``stack`` ends it.

    Args:
        redis_url: of the config; None: a private one.

    Raises:
        StoreError: it does not start, or does not answer.
    """
    if redis_url:
        store_checks.ping(redis_url)
        return Services(["--redis", redis_url])
    redis = _started(RedisServer(folder, logs / "redis.log"), stack)
    return Services(["--redis", redis.url], redis=redis)


def on_network(
    network: Network, wanted: Wanted, folder: Path, logs: Path, stack: contextlib.ExitStack
) -> Services:
    """Start the message store of agents whose containers, on ``network``, call it themselves.

    Raises:
        EngineError: Docker starts no container that tries it.
        StoreError: it does not start, or containers do not reach it.
    """
    if wanted.redis_url:
        store_checks.ping(wanted.redis_url)
        store_checks.reach(wanted.labels, wanted.image, network.name, wanted.redis_url)
        return Services(["--redis", wanted.redis_url])
    redis = _reachable(network, wanted, folder, logs, stack)
    return Services(["--redis", redis.url], redis=redis)


def inside(
    wanted: Wanted, upstream: Upstream, folder: Path, logs: Path, stack: contextlib.ExitStack
) -> Services:
    """Start what agents that live in containers need; ``stack`` ends it, labels the network.

    Raises:
        EngineError: Docker makes no network, or its networks are on another machine.
        StoreError: the message store does not start, or containers do not reach it.
    """
    network = networks.create(networks.own_name(wanted.labels), wanted.labels, not wanted.outside)
    if network.address is None:
        raise EngineError(f"Docker's network {network.name} has no gateway.")
    token = secrets.token_hex(16)
    try:
        gateway = Gateway(network.address, token, upstream, logs / "gateway.log")
    except OSError as error:
        raise EngineError(
            f"The address {network.address} of a network of Docker's is none of this machine's "
            f"({error}). openhands_docker needs a Docker engine on the machine that runs it."
        ) from error
    stack.callback(gateway.end)
    environment: dict[str, str] = agent_environment(network.name, gateway.url, token, logs)
    if not wanted.messaging:
        return Services(environment=environment, gateway=gateway)
    if wanted.redis_url:
        store_checks.ping(wanted.redis_url)
        store_checks.reach(wanted.labels, wanted.image, network.name, wanted.redis_url)
        return Services(["--redis", wanted.redis_url], environment, gateway=gateway)
    redis = _reachable(network, wanted, folder, logs, stack)
    return Services(["--redis", redis.url], environment, redis=redis, gateway=gateway)


def _reachable(
    network: Network, wanted: Wanted, folder: Path, logs: Path, stack: contextlib.ExitStack
) -> RedisServer:
    """Start a store at this machine's address in ``network`` and try it from a container there."""
    if network.address is None:
        raise StoreError(
            f"Docker's network {network.name} has no gateway, so containers in it cannot reach "
            "this machine. Name another one as containers.network, or leave the key out."
        )
    password = secrets.token_hex(16)
    server = RedisServer(folder, logs / "redis.log", network.address, password)
    redis = _started(server, stack)
    store_checks.reach(wanted.labels, wanted.image, network.name, redis.url)
    return redis


def _started(redis: RedisServer, stack: contextlib.ExitStack) -> RedisServer:
    stack.callback(redis.end)
    redis.wait()
    return redis


def model_kwargs(agent_file: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the agent's config says of model calls."""
    return dict(agent_file["config"]["model"]["model_kwargs"])
