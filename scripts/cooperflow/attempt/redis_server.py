"""A private redis-server for one run: a socket that only this user can open, no file left."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from cooperflow import processes
from cooperflow.errors import UserError


def program() -> str:
    """Return the redis-server to use: the environment's own, else the machine's.

    Raises:
        UserError: there is none.
    """
    own = Path(sys.executable).with_name("redis-server")
    found = str(own) if own.exists() else shutil.which("redis-server")
    if not found:
        raise UserError(
            "redis-server is not there, which agents that talk need. Run `make setup`, or give "
            "the URL of one that runs as redis.url in the config."
        )
    return found


class RedisServer:
    """A redis-server on a unix socket in ``folder`` (which is the caller's, of mode 0700).

    With ``gateway`` it listens on a port of this machine instead, at that address too, so that
    commands in containers reach it: upstream's team setting has such. Whatever runs on Docker's
    bridge meanwhile can reach it as well.
    """

    def __init__(self, folder: Path, log: Path, gateway: str | None = None) -> None:
        self._socket = folder / "redis.sock"
        self._port = _free_port() if gateway else 0
        command = [program(), "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(folder)]
        command += ["--port", str(self._port)]
        if gateway:
            command += ["--bind", "127.0.0.1", gateway, "--protected-mode", "no"]
        with log.open("ab") as stream:
            self.process = processes.spawn(command, stdout=stream, stderr=subprocess.STDOUT)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}" if self._port else f"unix://{self._socket}"

    @property
    def died(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = 15) -> bool:
        """Return whether it accepts connections within ``seconds``."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and not self.died:
            with socket.socket(socket.AF_UNIX) as connection:
                try:
                    connection.connect(str(self._socket))
                except OSError:
                    time.sleep(0.02)
                else:
                    return True
        return False

    def end(self) -> None:
        processes.end(self.process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
