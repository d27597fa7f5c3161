"""A private redis-server for one run: at a socket that only this user can open, or an address."""

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

    Args:
        gateway: listen on a port of this machine and at that address too, so that commands in
            containers reach it: upstream's team setting has such. Whatever runs on Docker's
            bridge meanwhile can reach it as well.
        address: listen there as well, for whoever has the password beside it; its URL is that.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        gateway: str | None = None,
        address: tuple[str, str] | None = None,
    ) -> None:
        self._socket = folder / "redis.sock"
        self._url = f"unix://{self._socket}"
        port, listen = 0, []
        if address is not None:
            host, password = address
            port = _free_port(host)
            listen = ["--bind", host, "--requirepass", password]
            self._url = f"redis://:{password}@{host}:{port}"
        elif gateway is not None:
            port = _free_port("127.0.0.1")
            listen = ["--bind", "127.0.0.1", gateway, "--protected-mode", "no"]
            self._url = f"redis://127.0.0.1:{port}"
        command = [program(), "--port", str(port), *listen, "--unixsocket", str(self._socket)]
        command += ["--unixsocketperm", "700", "--save", "", "--appendonly", "no"]
        command += ["--daemonize", "no", "--dir", str(folder)]
        with log.open("ab") as stream:
            self.process = processes.spawn(command, stdout=stream, stderr=subprocess.STDOUT)

    @property
    def url(self) -> str:
        return self._url

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


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])
