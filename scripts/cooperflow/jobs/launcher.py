"""Launcher: a process that imports packages once and forks for each job of its session.

One launcher imports cooperbench, for runs and evaluations; one imports pandas, for tables.

The fork takes over the connection to the job's client: it answers with its exit code and ends
when the client ends. If the launcher dies, later jobs import the packages themselves.
"""

from __future__ import annotations

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cooperflow import environment, processes
from cooperflow.attempt import child_process
from cooperflow.jobs.launcher_client import SCHEMA, STARTED, TABLE_MODULES, TABLES

# Interval at which the launcher checks that its session is alive, seconds.
POLL_SECONDS = 0.5
# Modules that runs and evaluations import.
RUN_MODULES = (
    "cooperbench.cli",
    "cooperbench.runner",
    "cooperbench.eval",
    "cooperflow.instrumentation.call_log",
    "cooperflow.instrumentation.sdk_patches",
    "cooperflow.jobs.job",
    "cooperflow.jobs.evaluation_jobs",
    "cooperflow.jobs.run_job",
    # litellm imports these with its first call, which takes a second of processor time per fork.
    "litellm.litellm_core_utils.default_encoding",
    "litellm.proxy.openai_files_endpoints.common_utils",
    "litellm.responses.mcp.chat_completions_handler",
    "httpcore",
    "openai.resources.chat",
    "aiohttp.web",  # the replay server
)
# Modules that the jobs for tables import while they work.
LATE_MODULES = (
    "pandas.core.methods.to_dict",
    "pandas.core.reshape.reshape",
    "pandas.io.formats.csvs",
    "pandas.io.formats.style",
    "statsmodels.stats.contingency_tables",
    "statsmodels.stats.multitest",
    "unidiff.errors",
)


def serve(path: Path, kind: str) -> int:
    """Listen on ``path`` until the session ends; fork a process for each request."""
    owner = processes.session_process()
    if owner is None:
        return 64
    listener = _listen(path)
    if kind == TABLES:
        _import_modules(_table_modules(os.environ.get(environment.TABLE_JOBS, "")))
        return _accept_requests(path, listener, owner)
    with environment.scratch_folder() as scratch:
        child_process.prepare_environment(scratch)
        _import_modules(RUN_MODULES)
        return _accept_requests(path, listener, owner)


def _table_modules(planned: str) -> list[str]:
    """Return what the planned jobs for tables import; a job that was not planned imports more."""
    jobs = planned.split(",") if planned else list(TABLE_MODULES)
    modules = [module for job, module in TABLE_MODULES.items() if job in jobs]
    return ["cooperflow.jobs.job", *modules, *(LATE_MODULES if len(jobs) > 1 else ())]


def _accept_requests(path: Path, listener: socket.socket, owner: processes.Process) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks report to their clients
    identity = (path.stat().st_dev, path.stat().st_ino)
    try:
        while owner.is_alive() and _is_same_file(path, identity):
            ready, _, _ = select.select([listener], [], [], POLL_SECONDS)
            if ready:
                with contextlib.suppress(OSError):
                    _fork(listener)
    finally:
        if _is_same_file(path, identity):
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


def _is_same_file(path: Path, identity: tuple[int, int]) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity


def _import_modules(names: Sequence[str]) -> None:
    """Import the modules that the jobs need."""
    # numpy would start threads, which a fork must not inherit.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # the job that needs the module fails with this error in its own log
            traceback.print_exc()
    from cooperflow.experiment import pairs

    pairs.known_features()
    gc.collect()
    gc.freeze()  # otherwise a collection in a fork would copy every page


def _fork(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        if _peer_user(connection) != os.getuid():
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


def _peer_user(connection: socket.socket) -> int:
    """Return the id of the user at the other end, as reported by the kernel."""
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", raw)[1])


def _work(connection: socket.socket) -> int:
    request = _read_request(connection)
    connection.sendall(STARTED)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    processes.watch_client(connection)
    from cooperflow.jobs import job

    if request["work"] in TABLE_MODULES:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        processes.interrupt_when_orphaned()
    return job.perform_named(request["work"], request["arguments"])


def _read_request(connection: socket.socket) -> dict[str, Any]:
    """Read a request and connect stdout and stderr to the client's."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 2)
    if not head:
        raise SystemExit(0)  # a client that only checked that the launcher listens
    length = int.from_bytes(head, "big")
    body = b""
    while len(body) < length:
        chunk = connection.recv(length - len(body))
        if not chunk:
            raise ConnectionError("the client ended before it had sent its request")
        body += chunk
    request = json.loads(body)
    if request["schema"] != SCHEMA:
        raise ValueError("the client has another version")
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    child_process.open_streams()
    return dict(request)


def _answer(connection: socket.socket, code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):
        connection.sendall(str(code).encode())
    os._exit(code)
