"""Leftovers of killed processes are removed, and a full disk is reported, without partial files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import experiment_client
import pytest

from cooperflow import atomic_io, processes, redaction, runtime_dir
from cooperflow.layout import Results
from cooperflow.outcomes import publication


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


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    atomic_io.append_line(path, '{"a": 1}')
    program = (
        "import resource, signal, sys; sys.path.insert(0, 'scripts')\n"
        "from pathlib import Path\nfrom cooperflow import atomic_io\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        f"atomic_io.append_line(Path({str(path)!r}), 'x' * 100)\n"
    )
    root = Path(atomic_io.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert "No space left" in done.stderr
    atomic_io.append_line(path, '{"b": 2}')
    assert atomic_io.read_lines(path) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('{\n  "a": {\n    "b": 1\n  }\n}\n', True),
        ('{\n  "a": {\n    "b": 1\n  }\n', False),
        ('{"a": 1}', True),  # another program's document, but readable
        ("", False),
    ],
)
def test_a_document_is_whole_or_not(tmp_path: Path, text: str, whole: bool) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    assert atomic_io.is_complete(path) is whole


def test_tables_are_older_than_a_grading_whatever_the_clock_says(tmp_path: Path) -> None:
    results = Results(tmp_path)
    graded = tmp_path / "eval.json"
    for path in (results.runs_csv, results.summary_csv, graded):
        path.write_text("x")
    os.utime(results.summary_csv, (4_000_000_000, 4_000_000_000))
    publication.make_stale(results, graded)
    assert results.summary_csv.stat().st_mtime < graded.stat().st_mtime


def test_a_key_that_a_provider_quotes_is_taken_out(tmp_path: Path) -> None:
    key = "sk-1234567890abcdef"
    (tmp_path / "deep").mkdir()
    quoted = tmp_path / "deep" / "cooperbench.log"
    quoted.write_bytes(b"\xff said: bad key " + key.encode())
    (tmp_path / "other").write_text("nothing")
    redaction.scrub(tmp_path, key)
    assert quoted.read_bytes() == b"\xff said: bad key [key]"
    redaction.scrub(tmp_path, "replay")
    assert (tmp_path / "other").read_text() == "nothing"


def test_a_command_of_the_tests_that_times_out_leaves_no_process(tmp_path: Path) -> None:
    """A cluster's job that Snakemake waits for would outlive the test otherwise."""
    script = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(subprocess.TimeoutExpired):
        experiment_client.run_group(["sh", "-c", script], 1, tmp_path, os.environ)
    child = int((tmp_path / "pid").read_text())
    experiment_client.wait_for(lambda: processes._start_mark(child) is None)
