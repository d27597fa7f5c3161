"""The message store of a run: its clients and the commands it accepts."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cooperflow.attempt import services
from cooperflow.attempt.services import COMMANDS, RedisServer
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import StoreError

BASE = "cooperflow/demo-base:bookworm"
# Commands that upstream's clients do not send, or that reach beyond a run's messages.
HOSTILE = (
    *("CONFIG SET dir /tmp", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN NOSAVE"),
    *("FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "KEYS *", "SCAN 0", "MONITOR", "INFO", "CLIENT LIST"),
    *("EVAL x 0", "EVALSHA x 0", "SCRIPT FLUSH", "FUNCTION LIST", "FCALL x 0", "MODULE LIST"),
    *("DEBUG SEGFAULT", "REPLICAOF 127.0.0.1 1", "SLAVEOF 127.0.0.1 1", "MIGRATE a 1 k 0 1"),
    *("ACL LIST", "ACL SETUSER default on nopass +@all", "SUBSCRIBE x", "RESTORE a 0 b"),
)
# Groups of commands of which none may be allowed.
GROUPS = ("admin", "dangerous", "scripting")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, tmp_path / "log", "127.0.0.1", "a password of this run")
    server.wait()
    yield server
    server.end()


def client(url: str) -> redis.Redis:
    return redis.from_url(url, socket_timeout=5)


@pytest.mark.parametrize("command", HOSTILE)
def test_a_hostile_command_is_refused(started: RedisServer, command: str, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(redis.ResponseError):
        client(started.url).execute_command(*command.split())
    assert client(started.url).ping()
    assert {path.name for path in tmp_path.iterdir()} == before


def test_only_clients_with_the_password_are_served(started: RedisServer, tmp_path: Path) -> None:
    for url in (f"redis://127.0.0.1:{started.port}", f"unix://{tmp_path}/redis.sock"):
        with pytest.raises(redis.AuthenticationError):
            client(url).ping()
    line = Path(f"/proc/{started.process.pid}/cmdline").read_text()
    assert "password" not in line


def test_no_command_of_the_list_is_admin_dangerous_or_scripting(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, tmp_path / "log", commands=("acl|cat",))
    try:
        server.wait()
        connection = client(server.url)
        refused = {
            str(name) for group in GROUPS for name in connection.execute_command("ACL CAT", group)
        }
    finally:
        server.end()
    assert len(refused) > 50
    assert not refused & set(COMMANDS)


def test_the_store_refuses_to_grow_without_end(started: RedisServer) -> None:
    connection = client(started.url)
    value = b"x" * (4 << 20)

    def fill() -> None:
        for _ in range(100):
            connection.rpush("x", value)

    with pytest.raises(redis.ResponseError, match="maxmemory"):
        fill()
    assert connection.ping()


def test_a_failed_start_is_an_error_with_the_servers_message(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, tmp_path / "log", commands=("nosuchcommand",))
    with pytest.raises(StoreError, match=r"does not start: .*\w"):
        server.wait()
    server.end()


def test_cause_of_the_servers_end(tmp_path: Path) -> None:
    """A client's SHUTDOWN is the agent's doing, a signal is not."""
    for how, by_client in (("client", True), (signal.SIGTERM, False), (signal.SIGKILL, False)):
        rights = (*COMMANDS, "shutdown")
        server = RedisServer(tmp_path, tmp_path / f"log-{how}", commands=rights)
        server.wait()
        if how == "client":
            with contextlib.suppress(redis.ConnectionError):
                client(server.url).execute_command("SHUTDOWN", "NOSAVE")
        else:
            os.kill(server.process.pid, how)
        server.process.wait(10)
        assert server.ended_by_client is by_client, how
        server.end()


@pytest.mark.docker
def test_networks_are_counted_and_removed() -> None:
    labels = Labels.new("store-test", "preflight", secrets.token_hex(16))
    assert containers.find_network_shortage(labels, 2) is None
    command = [
        "docker",
        "network",
        "ls",
        "-q",
        "--filter",
        f"name={containers.own_network_name(labels)}",
    ]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b""


@pytest.mark.docker
def test_a_store_is_tried_from_a_container_before_agents_start(tmp_path: Path) -> None:
    """The run's network reaches it, and a store that only listens elsewhere is refused."""
    labels = Labels.new("store-test", "run", secrets.token_hex(16))
    network = containers.create_network(containers.own_network_name(labels), labels, internal=True)
    try:
        assert network.address
        server = RedisServer(tmp_path, tmp_path / "log", network.address, "secret")
        server.wait()
        services.check_store_from_container(labels, BASE, network.name, server.url)
        server.end()
        with pytest.raises(
            StoreError, match=f"cannot reach the message store at {network.address}"
        ):
            services.check_store_from_container(labels, BASE, network.name, server.url)
        # A foreign container on Docker's default bridge is refused without the password.
        server = RedisServer(tmp_path, tmp_path / "log", network.address, "secret")
        server.wait()
        connect = f"exec 3<>/dev/tcp/{network.address}/{server.port}"
        ask = f"{connect}; printf 'FLUSHALL\\r\\n' >&3; head -1 <&3"
        command = ["docker", "run", "--rm", "--entrypoint", "/bin/bash", BASE, "-c", ask]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "NOAUTH" in result.stdout or "refused" in result.stderr, result
        server.end()
    finally:
        with contextlib.closing(containers.engine()) as engine:
            containers.remove(engine, {containers.TOKEN_LABEL: labels.token})
