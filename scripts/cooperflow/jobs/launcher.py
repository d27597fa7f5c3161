"""A process that has imported cooperbench once and forks for each job of its start.

The fork owns the connection to the job's client from then on: it answers with its exit code,
and takes the client's end for its own. So a launcher that dies costs nothing but its warmth.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

from cooperflow import processes, runtime_dir
from cooperflow.attempt import child_process
from cooperflow.jobs.launcher_client import BEGUN, SCHEMA

# How often the launcher looks whether its Snakemake is still there, seconds.
TICK = 0.5
# What the jobs import.
WARM = (
    "cooperbench.cli",
    "cooperbench.runner",
    "cooperbench.eval",
    "cooperflow.instrumentation.call_log",
    "cooperflow.instrumentation.sdk_patches",
    "cooperflow.jobs.command",
    "cooperflow.jobs.eval_job",
    "cooperflow.jobs.oracle_job",
    "cooperflow.jobs.run_job",
    # What litellm leaves to its first call: a second of processor time, in each fork anew.
    "litellm.litellm_core_utils.default_encoding",
    "litellm.proxy.openai_files_endpoints.common_utils",
    "litellm.responses.mcp.chat_completions_handler",
    "httpcore",
    "openai.resources.chat",
)


def serve(path: Path) -> int:
    """Listen on ``path`` until the owner ends; fork a process for each request."""
    owner = processes.session_process()
    if owner is None:
        return 64
    listener = _listen(path)
    with runtime_dir.scratch() as scratch:
        child_process.prepare_environment(scratch)
        _warm()
        return _serve(path, listener, owner)


def _serve(path: Path, listener: socket.socket, owner: processes.Process) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: clients hear from the forks
    identity = (path.stat().st_dev, path.stat().st_ino)
    try:
        while owner.is_alive() and _still_ours(path, identity):
            ready, _, _ = select.select([listener], [], [], TICK)
            if ready:
                with contextlib.suppress(OSError):
                    _fork(listener)
    finally:
        if _still_ours(path, identity):
            for ending in (".sock", ".log", ".lock"):
                path.with_suffix(ending).unlink(missing_ok=True)
    return 0


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    listener.listen(256)
    return listener


def _still_ours(path: Path, identity: tuple[int, int]) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity


def _warm() -> None:
    """Import what the jobs will need, in this one process."""
    # A fork must not inherit threads: numpy's would be the only ones.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in WARM:
        try:
            importlib.import_module(name)
        except Exception:  # the job that needs it says so, in its own log
            traceback.print_exc()
    from cooperflow.experiment import pairs

    pairs.known_features()
    gc.collect()
    gc.freeze()  # else a collection in a fork would copy every page


def _fork(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        if _peer(connection) != os.getuid():
            return
        process = os.fork()
        if process:
            return
        code = 70
        try:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            code = _work(connection)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            _answer(connection, code)


def _peer(connection: socket.socket) -> int:
    """Return the user at the other end, as the kernel says."""
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", raw)[1])


def _work(connection: socket.socket) -> int:
    request = _request(connection)
    connection.sendall(BEGUN)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    processes.watch_client(connection)
    from cooperflow.jobs import command

    return command.perform_named(request["work"], request["arguments"])


def _request(connection: socket.socket) -> dict[str, Any]:
    head, streams = _head(connection)
    if not head:
        raise SystemExit(0)  # a client that only asked whether the launcher listens
    length = int.from_bytes(head, "big")
    body = b""
    while len(body) < length:
        chunk = connection.recv(length - len(body))
        if not chunk:
            raise ConnectionError("the client ended before it had told what to do")
        body += chunk
    request = json.loads(body)
    if request["schema"] != SCHEMA:
        raise ValueError("the client is of another version")
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    child_process.open_streams()
    return dict(request)


def _head(connection: socket.socket) -> tuple[bytes, list[int]]:
    streams = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_LEN(2 * streams.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            streams.frombytes(data[: len(data) - len(data) % streams.itemsize])
    return head, list(streams)


def _answer(connection: socket.socket, code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):
        connection.sendall(str(code).encode())
    os._exit(code)
