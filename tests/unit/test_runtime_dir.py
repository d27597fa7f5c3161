"""Leftovers of killed processes are removed, and a full disk is reported, without partial files."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cooperflow import runtime_dir


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A runtime folder for this test alone; a longer path would fall back to the user's own."""
    with tempfile.TemporaryDirectory(prefix="cf-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        assert runtime_dir.folder().parent == Path(folder)
        yield


def test_the_folder_is_closed_to_others() -> None:
    assert runtime_dir.folder().stat().st_mode & 0o777 == 0o700
    runtime_dir.folder().chmod(0o755)
    with pytest.raises(PermissionError):
        runtime_dir.folder()


def test_a_killed_process_leaves_a_folder_that_the_next_start_sweeps() -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, 'scripts')\n"
        "from cooperflow import runtime_dir\n"
        "with runtime_dir.scratch(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(runtime_dir.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert len(list(runtime_dir.folder().glob("run-*"))) == 1
    with runtime_dir.scratch() as mine:
        runtime_dir.remove_stale_files()
        assert list(runtime_dir.folder().glob("run-*")) == [mine]
    assert not list(runtime_dir.folder().iterdir())


def test_only_sockets_that_nobody_serves_are_swept() -> None:
    for name in ("dead", "served"):
        (runtime_dir.folder() / f"{name}.lock").touch()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(runtime_dir.folder() / f"{name}.sock"))
        if name == "served":
            listener.listen()
        else:
            listener.close()
    runtime_dir.remove_stale_files()
    assert {path.name for path in runtime_dir.folder().iterdir()} == {"served.sock", "served.lock"}
    listener.close()
