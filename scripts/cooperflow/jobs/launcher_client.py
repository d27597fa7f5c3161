"""Client of the launchers: sends a job's work to one, or does the work in this process.

A session has a launcher for runs and evaluations and one for tables. Hundreds of jobs start this
way, so this module imports only the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cooperflow import environment, locks

SCHEMA = 2
# A fork's first answer: it has the request and does the work.
STARTED = b"+"
# Time limit for a launcher to listen, seconds; it listens before it imports anything.
START_SECONDS = 20
SCRIPTS = Path(__file__).resolve().parents[2]

# The two launchers; each imports what its jobs need.
RUNS = "runs"
TABLES = "tables"
# The jobs for tables: the module whose `perform(plan)` does the work.
TABLE_MODULES = {
    "aggregate": "cooperflow.tables.run_table",
    "derived_tables": "cooperflow.tables.derived_tables",
    "oracle_table": "cooperflow.tables.oracle",
    "plots": "cooperflow.plots.plot_files",
    "provenance": "cooperflow.archive.provenance",
    "report": "cooperflow.report.build",
}


def call(work: str) -> int:
    """Do the script's work in a fork of the launcher; return its exit code.

    Without a launcher (switched off, or it cannot be started) this process does the work: slower,
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
    from cooperflow.jobs import job

    return job.perform_named(work, sys.argv[1:])


def start_launcher(kind: str = RUNS) -> None:
    """Start a launcher before its first job, so that its imports overlap with other work."""
    if os.environ[environment.LAUNCHER] == "off":
        return
    with contextlib.suppress(OSError):
        connection = _open_launcher(kind)
        if connection is not None:
            connection.close()


def _prepare_tables() -> None:
    """Start the launcher for tables with the first evaluation, while agents wait for models."""
    # Not a connection, which would be answered by a fork.
    if not socket_path(os.environ[environment.OWNER], TABLES).exists():
        start_launcher(TABLES)


def _request_work(work: str) -> int | None:
    """Return the exit code of a fork that did the work, None if no fork had the request."""
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
        # The launcher ended before a fork had the request: nothing was done.
        _print_launcher_error(kind)
        return None
    answer = answer.removeprefix(STARTED)
    if not answer:
        # The fork was killed. The next try accounts for its attempt and removes its containers.
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
    """Read from the fork; an interrupt of this process ends the fork, and is waited for."""
    while True:
        try:
            return connection.recv(64)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            return b""


def socket_path(owner: str, kind: str = RUNS) -> Path:
    """Return the path of the socket of a session's launcher."""
    name = hashlib.sha256(f"{owner} {SCRIPTS} {kind}".encode()).hexdigest()[:20]
    return environment.runtime_folder() / f"{name}.sock"


def _open_launcher(kind: str) -> socket.socket | None:
    """Return a connection to this session's launcher, which is started if necessary."""
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
    """Start the launcher unless another job has just done so; return a connection to it."""
    with locks.locked(path.with_suffix(".lock")):
        connection = _connect(path)
        if connection is not None:
            return connection
        program = [sys.executable, "-X", "utf8", str(SCRIPTS / "launcher.py"), str(path), kind]
        # The launcher must not hold this job's streams: Snakemake waits until they are closed.
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
