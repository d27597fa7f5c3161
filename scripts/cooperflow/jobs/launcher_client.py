"""The job's own process: hands its work to the warm launcher, or does it itself. Stdlib only.

Hundreds of jobs start this way, so it imports nothing that takes longer than milliseconds.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cooperflow import environment, locks, runtime_dir

SCHEMA = 2
# A fork's first answer: it has the request and does the work.
BEGUN = b"+"
# How long a launcher may take to be there, seconds; it listens before it imports anything.
PATIENCE = 20
SCRIPTS = Path(__file__).resolve().parents[2]


def call(work: str) -> int:
    """Do the script's work in a fork of the launcher; return its exit code.

    Without a launcher (switched off, none can be had, another program's socket) the work is
    done in this process: slower, with the same results.
    """
    code = None
    if os.environ.get(environment.LAUNCHER) != "off" and os.environ.get(environment.OWNER):
        with contextlib.suppress(OSError):
            code = _warm(work)
    if code is not None:
        return code
    from cooperflow.jobs import command

    return command.perform_named(work, sys.argv[1:])


def begin_launcher() -> None:
    """Begin the launcher before the first job asks for it: its import goes on meanwhile."""
    if os.environ[environment.LAUNCHER] == "off":
        return
    with contextlib.suppress(OSError):
        connection = _launcher()
        if connection is not None:
            connection.close()


def _warm(work: str) -> int | None:
    connection = _launcher()
    if connection is None:
        _say_why_cold()
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
        streams = array.array("i", [1, 2])
        with contextlib.suppress(ConnectionError):
            connection.sendmsg(
                [len(request).to_bytes(8, "big")],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams.tobytes())],
            )
            connection.sendall(request)
        answer = b""
        while chunk := _receive(connection):
            answer += chunk
    if not answer:
        # The launcher ended before a fork had the request: nothing of the work was done.
        _say_why_cold()
        return None
    answer = answer.removeprefix(BEGUN)
    if not answer:
        # Its process was killed; what it left is in the books and is put away by the next try.
        print("the process that did this job was killed", flush=True)
        return 137
    return int(answer)


def _say_why_cold() -> None:
    """Print what the launcher said when it ended; the job does its work without it."""
    log = socket_path(os.environ[environment.OWNER]).with_suffix(".log")
    with contextlib.suppress(OSError):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        why = f": {said[-1]}" if said else " without a word"
        print(f"The launcher ended{why}. This job imports cooperbench itself.", flush=True)


def _receive(connection: socket.socket) -> bytes:
    """Read from the process that does the work; a signal to us ends it, and we wait for that."""
    while True:
        try:
            return connection.recv(64)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            return b""


def socket_path(owner: str) -> Path:
    """Return where the launcher of a start listens."""
    return (
        runtime_dir.folder()
        / f"{hashlib.sha256(f'{owner} {SCRIPTS}'.encode()).hexdigest()[:20]}.sock"
    )


def _launcher() -> socket.socket | None:
    """Return a connection to this start's launcher, which is begun if it is not there."""
    path = socket_path(os.environ[environment.OWNER])
    return _connect(path) or _started(path)


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _started(path: Path) -> socket.socket | None:
    """Start the launcher, unless another job is just doing so, and return a connection to it."""
    with locks.locked(path.with_suffix(".lock")):
        connection = _connect(path)
        if connection is not None:
            return connection
        program = [sys.executable, "-X", "utf8", str(SCRIPTS / "launcher.py"), str(path)]
        # The launcher must not hold this job's streams: Snakemake waits for them to close.
        with path.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit and process.poll() is None:
            connection = _connect(path)
            if connection is not None:
                return connection
            time.sleep(0.02)
    return None
