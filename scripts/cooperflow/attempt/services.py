"""Services of an attempt: message store, model gateway, network and replay server."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow import layout, processes
from cooperflow.attempt import message_store
from cooperflow.attempt.attempt import Attempt
from cooperflow.attempt.message_store import RedisServer
from cooperflow.attempt.model_gateway import Gateway, Upstream
from cooperflow.engine import networks
from cooperflow.engine.networks import Network
from cooperflow.errors import EngineError, StoreError
from cooperflow.openhands import agent_environment


@dataclass(frozen=True)
class Services:
    """Started services, and the arguments and environment that pass them to cooperbench."""

    arguments: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    run_arguments: list[str] = field(default_factory=list)  # of the agents' `docker run`
    redis: RedisServer | None = None
    gateway: Gateway | None = None

    @property
    def died(self) -> bool:
        """True if a service has ended that every agent needs."""
        return self.gateway is not None and self.gateway.died


def start_store(attempt: Attempt, scratch: Path, stack: contextlib.ExitStack) -> Services:
    """Start the message store of agents whose tools run on this machine; ``stack`` stops it.

    Raises:
        StoreError: the store does not start or does not answer.
    """
    if url := attempt.plan.config.redis.url:
        message_store.ping(url)
        return Services(["--redis", url])
    redis = _wait_for(RedisServer(scratch, attempt.folder / "redis.log"), stack)
    return Services(["--redis", redis.url], redis=redis)


def start_store_on_network(
    network: Network, attempt: Attempt, scratch: Path, stack: contextlib.ExitStack
) -> Services:
    """Start the message store of agents whose containers in ``network`` call it themselves.

    Raises:
        EngineError: Docker cannot start a container to check the store.
        StoreError: the store does not start, or containers do not reach it.
    """
    if url := attempt.plan.config.redis.url:
        message_store.ping(url)
        message_store.check_from_container(attempt.labels, attempt.run.image, network.name, url)
        return Services(["--redis", url])
    redis = _start_reachable_store(network, attempt, scratch, stack)
    return Services(["--redis", redis.url], redis=redis)


def start_for_containers(
    attempt: Attempt, upstream: Upstream, scratch: Path, stack: contextlib.ExitStack
) -> Services:
    """Start the services of agents that run in containers; ``stack`` stops them.

    Raises:
        EngineError: Docker cannot create a network, or its networks are on another machine.
        StoreError: the message store does not start, or containers do not reach it.
    """
    labels = attempt.labels
    network = networks.create(networks.own_name(labels), labels, not attempt.has_outside_network)
    if network.address is None:
        raise EngineError(f"Docker's network {network.name} has no gateway.")
    token = secrets.token_hex(16)
    try:
        gateway = Gateway(network.address, token, upstream, attempt.folder / "gateway.log")
    except OSError as error:
        raise EngineError(
            f"The address {network.address} of a Docker network does not belong to this machine "
            f"({error}). openhands_docker needs a Docker engine on the machine that runs it."
        ) from error
    stack.callback(gateway.end)
    environment: dict[str, str] = agent_environment(
        network.name, gateway.url, token, attempt.folder
    )
    store = Services()
    if attempt.experiment.setting.redis:
        store = start_store_on_network(network, attempt, scratch, stack)
    return dataclasses.replace(store, environment=environment, gateway=gateway)


def _start_reachable_store(
    network: Network, attempt: Attempt, scratch: Path, stack: contextlib.ExitStack
) -> RedisServer:
    """Start a store at this machine's address in ``network`` and check it from a container."""
    if network.address is None:
        raise StoreError(
            f"Docker's network {network.name} has no gateway, so containers in it cannot reach "
            "this machine. Set containers.network to another network, or remove the key."
        )
    password = secrets.token_hex(16)
    server = RedisServer(scratch, attempt.folder / "redis.log", network.address, password)
    redis = _wait_for(server, stack)
    message_store.check_from_container(attempt.labels, attempt.run.image, network.name, redis.url)
    return redis


def _wait_for(redis: RedisServer, stack: contextlib.ExitStack) -> RedisServer:
    stack.callback(redis.end)
    redis.wait()
    return redis


def read_model_kwargs(agent_file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the agent config's parameters of model calls."""
    return dict(agent_file["config"]["model"]["model_kwargs"])


def start_replay_server(
    recordings: str, folder: Path, model: str, stack: contextlib.ExitStack
) -> str:
    """Start a server that plays recordings as ``model``, and return its URL."""
    port = folder / ".port"
    command = [sys.executable, str(layout.REPOSITORY / "demo" / "replay_server.py")]
    command += ["--recordings", recordings, "--port-file", str(port)]
    command += ["--ledger", str(folder / "ledger.jsonl")]
    with (folder / "replay.log").open("ab") as log:
        server = processes.spawn(command, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(port.unlink, missing_ok=True)
    stack.callback(processes.end, server)
    limit = time.monotonic() + 30
    while not port.exists() and server.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    base = f"http://127.0.0.1:{port.read_text().strip() if port.exists() else 9}"
    return f"{base}/v1" if model.startswith("openai/") else f"{base}/v2/chat"
