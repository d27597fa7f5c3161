"""Checks of a message store before the first paid call: from this process and from a container."""

from __future__ import annotations

import contextlib
import shlex
from typing import Any
from urllib.parse import urlsplit

import docker.errors
import requests.exceptions

from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, StoreError

# Seconds for a connection to a store.
PATIENCE = 10
# Upstream's name for this machine inside containers.
HOST = "host.docker.internal"
LOCAL = ("localhost", "127.0.0.1")
_PORT = 6379


def ping(url: str) -> None:
    """Send a PING to the store at ``url``.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    import redis

    client = redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise StoreError(f"the message store of redis.url does not answer: {error}") from error
    finally:
        client.close()


def parse_target(url: str) -> tuple[str, int]:
    """Return host and port of ``url`` as seen from containers, in upstream's notation. Pure."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    return (HOST if host in LOCAL else host), parts.port or _PORT


def check_from_container(labels: Labels, image: str, network: str, url: str) -> None:
    """Connect to the store at ``url`` from a container in ``network``.

    Raises:
        EngineError: the engine cannot start the container.
        StoreError: the container does not reach the store.
    """
    host, port = parse_target(url)
    connect = f"exec 3<>/dev/tcp/{shlex.quote(host)}/{port}"
    client = containers.engine()
    try:
        container = client.containers.run(
            image,
            ["-c", connect],
            entrypoint="/bin/bash",
            network=network,
            extra_hosts={HOST: "host-gateway"} if host == HOST else {},
            labels=labels.as_dict(),
            detach=True,
        )
        status, words = _outcome(container)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(
            f"cannot start a container to check the message store: {error}"
        ) from error
    finally:
        client.close()
    if status != 0:
        raise StoreError(
            f"containers in Docker's network {network} do not reach the message store at "
            f"{host}:{port} ({words}). Check that no firewall drops packets from Docker's "
            "bridges to this machine, and that the engine runs in this network namespace."
        )


def _outcome(container: Any) -> tuple[int | None, str]:
    """Wait for a container, remove it, and return its exit status and its last line."""
    try:
        try:
            status = int(container.wait(timeout=PATIENCE)["StatusCode"])
        except requests.exceptions.RequestException:
            return None, f"no connection within {PATIENCE} s"
        lines = container.logs(tail=1).decode(errors="replace").strip()
        return status, lines or f"exit status {status}"
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)
