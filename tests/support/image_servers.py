"""Real servers for tests of images: an image registry, a separate Docker engine, a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import docker
from aiohttp import web

PROGRAMS = ("docker-registry", "dockerd", "mkfs.ext4", "busybox", "ip")
# Size of the engine's disk, bytes.
DISK = 400_000_000


def find_missing_tools() -> list[str]:
    """Return the programs that the servers need and this machine lacks."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return missing + ([] if os.getuid() == 0 else ["root"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    if process.poll() is None:
        process.kill()
        process.wait()


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Run a registry with its storage in ``folder``; yield its host:port."""
    folder.mkdir(parents=True)
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield f"127.0.0.1:{port}"
    finally:
        _end(process)


@contextlib.contextmanager
def engine(folder: Path, size: int = DISK) -> Iterator[str]:
    """Run a separate Docker engine on a disk of ``size`` bytes; yield its DOCKER_HOST."""
    folder.mkdir(parents=True)
    disk, mount = folder / "disk.img", folder / "root"
    mount.mkdir()
    with disk.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(mount)], check=True)
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--data-root", str(mount / "docker"), "--exec-root", str(folder / "exec")]
    # With --bridge=none it would remove docker0, the bridge of the machine's own engine.
    bridge = f"cftest{os.getpid()}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", "172.31.254.1/24", "dev", bridge], check=True)
    command += ["--host", host, "--pidfile", str(folder / "pid"), f"--bridge={bridge}"]
    command += ["--iptables=false", "--max-download-attempts", "1"]
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(lambda: docker.DockerClient(host, timeout=5).ping())
            yield host
        finally:
            _end(process)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)
        subprocess.run(["ip", "link", "delete", bridge], check=False)


def _wait_for(probe: object, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while True:
        try:
            probe()  # type: ignore[operator]
        except (OSError, docker.errors.DockerException):
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
        else:
            return


def task_image(content: bytes) -> bytes:
    """Return the tar of a root file system that passes a run's checks, filled with ``content``."""
    raw = io.BytesIO()
    busybox = shutil.which("busybox") or "/bin/busybox"
    files = {
        "bin/busybox": (Path(busybox).read_bytes(), 0o755),
        **{
            library.lstrip("/"): (Path(library).read_bytes(), 0o755)
            for library in _find_libraries(busybox)
        },
        "bin/git": (b"#!/bin/sh\necho 1111111111111111111111111111111111111111\n", 0o755),
        "usr/local/bin/runner.sh": (b"#!/bin/sh\n", 0o755),
        "workspace/repo/filling": (content, 0o644),
    }
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for name in ("bin/sh", "bin/bash", "bin/test"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return raw.getvalue()


def _find_libraries(program: str) -> list[str]:
    """Return a program's libraries and loader; empty for a static program."""
    result = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return re.findall(r"(/\S+) \(0x", result.stdout) if result.returncode == 0 else []


class Proxy:
    """Proxy of a registry that can interrupt, slow down, limit or protect the traffic."""

    def __init__(self, registry: str) -> None:
        self._registry = f"http://{registry}"
        self.cuts = 0  # number of answers with a large blob to interrupt in the middle
        self.limits = 0  # number of manifest requests to answer with 429
        self.retry_after = "1"
        self.token: str | None = None  # token that a challenge demands, as at Docker Hub
        self.seconds_per_megabyte = 0.0
        self.blobs = 0
        self.address = ""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=10**9)
        app.router.add_get("/token", self.give_token)
        app.router.add_route("*", "/v2/{path:.*}", self.forward)
        return app

    async def give_token(self, _: web.Request) -> web.Response:
        return web.json_response({"token": self.token})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.address}/token",service="test"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if "/manifests/" in path and self.limits:
            self.limits -= 1
            return web.Response(status=429, headers={"Retry-After": self.retry_after})
        headers = {
            name: request.headers[name] for name in ("Accept", "Range") if name in request.headers
        }
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, f"{self._registry}/v2/{path}", headers=headers
            ) as response,
        ):
            header_names = (
                "Content-Type",
                "Content-Length",
                "Docker-Content-Digest",
                "Content-Range",
            )
            answer = web.StreamResponse(
                status=response.status,
                headers={k: response.headers[k] for k in header_names if k in response.headers},
            )
            await answer.prepare(request)
            if request.method == "HEAD":
                return answer
            self.blobs += "/blobs/" in path
            cut = self.cuts > 0 and int(response.headers.get("Content-Length", 0)) > 3_000_000
            self.cuts -= cut
            sent = 0
            async for chunk in response.content.iter_chunked(500_000):
                await answer.write(chunk)
                sent += len(chunk)
                await asyncio.sleep(self.seconds_per_megabyte * len(chunk) / 1e6)
                if cut and sent > 2_000_000:
                    assert request.transport is not None
                    request.transport.abort()
                    break
            return answer
