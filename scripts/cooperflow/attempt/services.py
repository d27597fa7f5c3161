"""What an attempt starts for its agents: a Redis, and for those in containers their network too."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow.attempt.gateway import Gateway, Upstream
from cooperflow.attempt.redis_server import RedisServer
from cooperflow.engine import networks
from cooperflow.engine.containers import Labels
from cooperflow.errors import UserError
from cooperflow.openhands import agent_environment


@dataclass(frozen=True)
class Wanted:
    """What the services of a run are to be."""

    labels: Labels
    upstream: Upstream
    outside: bool  # whether the network reaches more than these services
    messaging: bool
    redis_url: str | None  # of the config; None: a private one


@dataclass(frozen=True)
class Services:
    """What was started, and what cooperbench is to be told of it."""

    arguments: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    redis: RedisServer | None = None
    gateway: Gateway | None = None

    @property
    def died(self) -> bool:
        """Whether one without which no agent gets on has ended."""
        return self.gateway is not None and self.gateway.died


def beside(
    redis_needed: bool,
    redis_url: str | None,
    gateway: str | None,
    folder: Path,
    logs: Path,
    stack: contextlib.ExitStack,
) -> Services:
    """Start what agents that call their model from this machine need; ``stack`` ends it.

    Args:
        redis_url: of the config; None: a private one.
        gateway: this machine's address for containers, where commands in them use the Redis.
    """
    if not redis_needed:
        return Services()
    arguments, redis = _redis(
        redis_url, lambda: RedisServer(folder, logs / "redis.log", gateway), stack
    )
    return Services(arguments, redis=redis)


def inside(wanted: Wanted, folder: Path, logs: Path, stack: contextlib.ExitStack) -> Services:
    """Start what agents that live in containers need; ``stack`` ends it, labels the network.

    Raises:
        EngineError: Docker makes no network.
        UserError: its networks are none of this machine's.
    """
    network = networks.create(wanted.labels, internal=not wanted.outside)
    token = secrets.token_hex(16)
    try:
        gateway = Gateway(network.address, token, wanted.upstream, logs / "gateway.log")
    except OSError as error:
        raise UserError(
            f"The address {network.address} of a network of Docker's is none of this machine's "
            f"({error}). openhands_docker needs a Docker engine on the machine that runs it."
        ) from error
    stack.callback(gateway.end)
    environment: dict[str, str] = agent_environment(network.name, gateway.url, token, logs)
    if not wanted.messaging:
        return Services([], environment, None, gateway)
    address = network.address, token
    arguments, redis = _redis(
        wanted.redis_url, lambda: RedisServer(folder, logs / "redis.log", address=address), stack
    )
    return Services(arguments, environment, redis, gateway)


def _redis(
    url: str | None, start: Callable[[], RedisServer], stack: contextlib.ExitStack
) -> tuple[list[str], RedisServer | None]:
    """Return what tells cooperbench of its Redis: that of ``url``, else one that is started."""
    if url:
        return ["--redis", url], None
    redis = start()
    stack.callback(redis.end)
    redis.wait()
    return ["--redis", redis.url], redis


def model_kwargs(agent_file: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the agent's config says of model calls."""
    return dict(agent_file["config"]["model"]["model_kwargs"])
