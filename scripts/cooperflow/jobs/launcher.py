"""Launcher: a process that imports packages once and forks for each job; and its client.

A session has two launchers: one imports cooperbench, for runs and evaluations, the other imports
pandas, for tables. The client, which is the process of a job, sends its work to a launcher or else
does the work itself. The launcher's fork takes over the connection to the client: it returns its
exit code and ends when the client ends. If a launcher dies, later jobs import the packages
themselves.

Hundreds of jobs start as a client, so this module imports only a small part of the standard
library.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cooperflow import environment, locks

SCHEMA = 2
# A fork's first answer: it has received the request.
STARTED = b"+"
# Time limit for a launcher to listen, seconds. It listens before it imports the packages.
START_SECONDS = 20
SCRIPTS = Path(__file__).resolve().parents[2]

# The two kinds of launchers.
RUNS = "runs"
TABLES = "tables"
# The table jobs, each with the module whose function `perform(plan)` does the work.
TABLE_MODULES = {
    "aggregate": "cooperflow.tables.run_table",
    "derived_tables": "cooperflow.tables.derived_tables",
    "oracle_table": "cooperflow.tables.oracle",
    "plots": "cooperflow.plots.specifications",
    "provenance": "cooperflow.archive.provenance",
    "report": "cooperflow.report.build",
}

# Interval at which a launcher checks that its session is alive, seconds.
POLL_SECONDS = 0.5
# Modules that runs and evaluations need.
RUN_MODULES = (
    "cooperbench.cli",
    "cooperbench.runner",
    "cooperbench.eval",
    "cooperflow.instrumentation.call_log",
    "cooperflow.instrumentation.upstream_patches",
    "cooperflow.jobs.entry_points",
    "cooperflow.jobs.evaluation_jobs",
    "cooperflow.jobs.run_job",
    # litellm imports these with its first call, which would take each fork a second.
    "litellm.litellm_core_utils.default_encoding",
    "litellm.proxy.openai_files_endpoints.common_utils",
    "litellm.responses.mcp.chat_completions_handler",
    "httpcore",
    "openai.resources.chat",
    "aiohttp.web",  # the replay server
)
# Further modules that the table jobs need.
LATE_MODULES = (
    "pandas.core.methods.to_dict",
    "pandas.core.reshape.reshape",
    "pandas.io.formats.csvs",
    "pandas.io.formats.style",
    "statsmodels.stats.contingency_tables",
    "statsmodels.stats.multitest",
    "unidiff.errors",
)


def call(work: str) -> int:
    """Do a script's work in a fork of the launcher, and return its exit code.

    Without a launcher (disabled, or failed to start) this process does the work, more slowly but
    with the same results.
    """
    code = None
    if os.environ.get(environment.LAUNCHER) != "off" and os.environ.get(environment.OWNER):
        with contextlib.suppress(OSError):
            if work == "eval" and os.environ.get(environment.TABLE_JOBS):
                _prepare_tables()
            code = _request_work(work)
    if code is not None:
        return code
    from cooperflow.jobs import entry_points

    return entry_points.run_named_job(work, sys.argv[1:])


def start_launcher(kind: str = RUNS) -> None:
    """Start a launcher in advance, so that its imports overlap with other work."""
    if os.environ[environment.LAUNCHER] == "off":
        return
    with contextlib.suppress(OSError):
        connection = _open_launcher(kind)
        if connection is not None:
            connection.close()


def _prepare_tables() -> None:
    """Start the launcher for tables at the first evaluation, while agents wait for models."""
    # Without connecting, because a fork would answer the connection.
    if not socket_path(os.environ[environment.OWNER], TABLES).exists():
        start_launcher(TABLES)


def _request_work(work: str) -> int | None:
    """Return the exit code of the fork that did the work, None if no fork got the request."""
    kind = TABLES if work in TABLE_MODULES else RUNS
    connection = _open_launcher(kind)
    if connection is None:
        _print_launcher_error(kind)
        return None
    with connection:
        request = json.dumps(
            {
                "schema": SCHEMA,
                "work": work,
                "arguments": sys.argv[1:],
                "environment": dict(os.environ),
                "directory": os.getcwd(),
            }
        ).encode()
        with contextlib.suppress(ConnectionError):
            socket.send_fds(connection, [len(request).to_bytes(8, "big")], [1, 2])
            connection.sendall(request)
        answer = b""
        while chunk := _receive(connection):
            answer += chunk
    if not answer:
        # The launcher ended before a fork got the request, so nothing was done.
        _print_launcher_error(kind)
        return None
    answer = answer.removeprefix(STARTED)
    if not answer:
        # The fork was killed. The next try counts the cost of its attempt and removes its
        # containers.
        print("the process of this job was killed", flush=True)
        return 137
    return int(answer)


def _print_launcher_error(kind: str) -> None:
    """Print the last line of the launcher's log."""
    log = socket_path(os.environ[environment.OWNER], kind).with_suffix(".log")
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = f": {lines[-1]}" if lines else " without a message"
        print(f"The launcher ended{reason}. This job imports its packages itself.", flush=True)


def _receive(connection: socket.socket) -> bytes:
    """Read from the fork; if this process is interrupted, end the fork and wait for it."""
    while True:
        try:
            return connection.recv(64)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            return b""


def socket_path(owner: str, kind: str = RUNS) -> Path:
    """Return the socket path of a session's launcher."""
    name = hashlib.sha256(f"{owner} {SCRIPTS} {kind}".encode()).hexdigest()[:20]
    return environment.runtime_folder() / f"{name}.sock"


def _open_launcher(kind: str) -> socket.socket | None:
    """Return a connection to this session's launcher; start the launcher if necessary."""
    path = socket_path(os.environ[environment.OWNER], kind)
    return _connect(path) or _start(path, kind)


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _start(path: Path, kind: str) -> socket.socket | None:
    """Start the launcher unless another job has just started it; return a connection to it."""
    with locks.hold(path.with_suffix(".lock")):
        connection = _connect(path)
        if connection is not None:
            return connection
        program = [sys.executable, "-X", "utf8", str(SCRIPTS / "launcher.py"), str(path), kind]
        # The launcher must not inherit this job's streams, because Snakemake waits for their end.
        with path.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit and process.poll() is None:
            connection = _connect(path)
            if connection is not None:
                return connection
            time.sleep(0.02)
    return None


def serve(path: Path, kind: str) -> int:
    """Listen on ``path`` until the session ends; fork a process for each request."""
    from cooperflow import processes

    owner = processes.session_process()
    if owner is None:
        return 64
    listener = _listen(path)
    if kind == TABLES:
        _import_modules(_table_modules(os.environ.get(environment.TABLE_JOBS, "")))
        return _accept_requests(path, listener, owner.is_alive)
    from cooperflow.attempt import child_process

    with environment.scratch_folder() as scratch:
        child_process.prepare_environment(scratch)
        _import_modules(RUN_MODULES)
        return _accept_requests(path, listener, owner.is_alive)


def _table_modules(planned_jobs: str) -> list[str]:
    """Return the modules that the planned table jobs need; other jobs import more themselves."""
    jobs = planned_jobs.split(",") if planned_jobs else list(TABLE_MODULES)
    modules = [module for job, module in TABLE_MODULES.items() if job in jobs]
    return ["cooperflow.jobs.entry_points", *modules, *(LATE_MODULES if len(jobs) > 1 else ())]


def _accept_requests(path: Path, listener: socket.socket, is_needed: Callable[[], bool]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # forks report to their clients, so they need not be reaped
    identity = (path.stat().st_dev, path.stat().st_ino)
    try:
        while is_needed() and _is_same_file(path, identity):
            readable, _, _ = select.select([listener], [], [], POLL_SECONDS)
            if readable:
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
    # numpy would otherwise start threads, which a fork must not inherit.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()  # imports create almost no garbage, and collections take a sixth of their time
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # the job that needs the module will fail with this error in its log
            sys.excepthook(*sys.exc_info())
    from cooperflow.experiment import pairs

    pairs.known_features()
    gc.collect()
    gc.enable()
    gc.freeze()  # a collection in a fork would otherwise copy every memory page


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
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            code = _work(connection)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            _answer(connection, code)


def _peer_user(connection: socket.socket) -> int:
    """Return the user id of the process at the other end, as reported by the kernel."""
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", raw)[1])


def _work(connection: socket.socket) -> int:
    from cooperflow import processes
    from cooperflow.jobs import entry_points

    work, arguments, variables, directory = _read_request(connection)
    processes.open_streams()
    connection.sendall(STARTED)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)
    processes.watch_client(connection)
    if work in TABLE_MODULES:
        processes.interrupt_when_orphaned()
    return entry_points.run_named_job(work, arguments)


def _read_request(connection: socket.socket) -> tuple[str, list[str], dict[str, str], str]:
    """Receive a request and the client's streams; return work, arguments, variables and folder."""
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
    return request["work"], request["arguments"], request["environment"], request["directory"]


def _answer(connection: socket.socket, code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):
        connection.sendall(str(code).encode())
    os._exit(code)
