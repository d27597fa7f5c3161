"""Documents: complete or missing at every moment, plain or compressed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cooperflow import atomic_io, layout, redaction
from cooperflow.errors import UserError
from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Run
from cooperflow.layout import RunFolder
from cooperflow.outcomes import run_result
from cooperflow.outcomes.judgement import Evidence
from cooperflow.outcomes.run_result import AttemptRecord


def test_a_failed_write_leaves_the_old_document(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    atomic_io.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        atomic_io.write_json(path, {"a": object()})
    assert atomic_io.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["d.json"]


@pytest.mark.parametrize("content", ["", "{", '{"a": '])
def test_an_incomplete_document_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)
    assert atomic_io.read_json(path) is None
    assert atomic_io.read_json(tmp_path / "none.json") is None


def test_an_incomplete_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    atomic_io.append_line(path, '{"a": 1}')
    with path.open("a") as stream:
        stream.write('{"b": ')
    assert atomic_io.read_lines(path) == [{"a": 1}]


def test_the_end_of_a_line_file_has_complete_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for number in range(50):
        atomic_io.append_line(path, f'{{"n": {number}}}', shared=True)
    assert [line["n"] for line in atomic_io.read_lines(path, 25)] == [48, 49]
    assert len(atomic_io.read_lines(path, 10_000)) == len(atomic_io.read_lines(path)) == 50


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
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True
    )
    assert "No space left" in process.stderr
    atomic_io.append_line(path, '{"b": 2}')
    assert atomic_io.read_lines(path) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ('{\n  "a": {\n    "b": 1\n  }\n}\n', True),
        ('{\n  "a": {\n    "b": 1\n  }\n', False),
        ('{"a": 1}', True),  # another program's document, but readable
        ("", False),
    ],
)
def test_complete_and_incomplete_documents(tmp_path: Path, text: str, complete: bool) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    assert atomic_io.is_complete(path) is complete


CALLS = [{"event": "end", "id": str(n), "message": "x" * 100} for n in range(80)]
TRAJECTORY = {"agent_id": "solo", "messages": [{"content": "x" * 100}] * 80}


@pytest.fixture
def run() -> Run:
    return plan.make(config.load([layout.REPOSITORY / "config" / "demo.yaml"])).runs[0]


@pytest.fixture
def folder(tmp_path: Path, run: Run) -> RunFolder:
    """A run whose only attempt has ended, as upstream left it, and an evaluation."""
    folder = RunFolder(tmp_path / "run")
    attempt = folder.attempt(1)
    files = {
        attempt / "attempt.json": "{}",
        attempt / "agent.yaml": "config: {}",
        attempt / "calls.jsonl": "".join(json.dumps(call) + "\n" for call in CALLS),
        attempt / "cooperbench.log": "said\n" * 2000,
        attempt / "redis.log": "short",
        attempt / "logs" / run.experiment.run_name / "summary.json": "{}",
        attempt / "logs" / "unknown.txt": "kept",
        folder.evals / "1" / "cooperbench.log": "tested\n" * 2000,
        folder.evals / "1" / "deep" / "events.jsonl": "",
    }
    upstream = run_result.output_folder(run, attempt)
    files |= {
        upstream / "solo_traj.json": json.dumps(TRAJECTORY, indent=2),
        upstream / "solo.patch": "+1\n" * 4000,
        upstream / "result.json": "{}",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    atomic_io.write_json(attempt / layout.RESULT, {"workflow": {"outcome": None}})
    return folder


def evidence(folder: RunFolder) -> dict[str, bytes]:
    """The contents of all files by their plain names, wherever upstream's are."""
    contents: dict[str, bytes] = {}
    for path in folder.path.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder.path).parts)
        if path.is_file() and not hidden:
            for plain, data in atomic_io.file_contents(path):
                own = "logs" in plain.parts or layout.UPSTREAM in plain.parts
                name = plain.name if own else str(plain.relative_to(folder.path))
                contents[name] = data
    return contents


def reduce(run: Run, folder: RunFolder) -> None:
    run_result.move_upstream_files(run, folder.attempt(1))
    run_result.compress_attempt(folder.attempt(1))
    if (folder.evals / "1").is_dir():
        atomic_io.pack_folder(folder.evals / "1")


def test_everything_but_upstreams_summary_is_kept(folder: RunFolder, run: Run) -> None:
    before = evidence(folder)
    times = (folder.attempt(1) / "calls.jsonl").stat().st_mtime_ns
    reduce(run, folder)
    assert before.pop("summary.json") == b"{}"
    assert evidence(folder) == before
    names = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*")}
    assert names == {
        "attempts", "attempts/1", "evals", "evals/1.tar.gz", "attempts/1/attempt.json",
        "attempts/1/agent.yaml", "attempts/1/calls.jsonl.gz", "attempts/1/cooperbench.log.gz",
        "attempts/1/redis.log", "attempts/1/logs", "attempts/1/logs/unknown.txt",
        "attempts/1/result.json", "attempts/1/upstream", "attempts/1/upstream/result.json",
        "attempts/1/upstream/solo.patch", "attempts/1/upstream/solo_traj.json",
    }  # fmt: skip
    assert (folder.attempt(1) / "calls.jsonl.gz").stat().st_mtime_ns == times
    run_result.restore(run, folder)
    assert {path.name for path in folder.path.iterdir() if path.is_file()} == {
        "result.json", "solo.patch", "solo_traj.json",
    }  # fmt: skip


def killed_at(operation: int, work: Callable[[], None]) -> bool:
    """Do the work in a process that is killed at its nth file operation; return whether it was."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    count = 0

    def hook(event: str, _: object) -> None:
        nonlocal count
        if event == "open" or event.startswith(("os.", "shutil.", "tempfile.")):
            count += 1
            if count == operation:
                os._exit(9)

    try:
        sys.addaudithook(hook)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_at_any_operation_loses_nothing(folder: RunFolder, run: Run, tmp_path: Path) -> None:
    before = evidence(folder)
    before.pop("summary.json")
    pristine = tmp_path / "pristine"
    shutil.copytree(folder.path, pristine)
    operation = 1
    while killed_at(operation, lambda: reduce(run, folder)):
        after = evidence(folder)
        after.pop("summary.json", None)
        assert after == before, operation
        attempt = folder.attempt(1)
        assert atomic_io.read_lines(attempt / layout.CALLS) == CALLS, operation
        upstream = run_result.upstream_folder(run, attempt)
        documents = atomic_io.read_documents(upstream, lambda name: name == "solo_traj.json")
        assert documents == {"solo_traj.json": TRAJECTORY}, operation
        # The next job completes it.
        for directory in (attempt, attempt / layout.UPSTREAM, folder.evals):
            atomic_io.remove_temporary_files(directory)
        reduce(run, folder)
        assert evidence(folder) == before, operation
        assert not list(folder.path.rglob("*.tmp")), operation
        assert not (folder.evals / "1").exists(), operation
        shutil.rmtree(folder.path)
        shutil.copytree(pristine, folder.path)
        operation += 1
    assert operation > 40


def test_a_damaged_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(call) + "\n" for call in CALLS))
    atomic_io.compress(path)
    compressed = atomic_io.compressed_path(path)
    assert atomic_io.read_lines(path) == CALLS
    compressed.write_bytes(compressed.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"calls\.jsonl\.gz is damaged .*Restore it"):
        atomic_io.read_lines(path)


def test_a_full_disk_leaves_the_files_plain(
    folder: RunFolder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk space of a paid attempt does not justify losing it."""

    def fill(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before = evidence(folder)
    monkeypatch.setattr(atomic_io, "_gzip_writer", fill)
    run_result.move_upstream_files(run, folder.attempt(1))
    run_result.compress_attempt(folder.attempt(1))
    before.pop("summary.json")
    assert evidence(folder) == before
    assert atomic_io.read_lines(folder.attempt(1) / layout.CALLS) == CALLS
    assert run_result.restore(run, folder) is not None


def test_an_attempt_counts_before_it_is_compressed(
    folder: RunFolder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = folder.attempt(1)
    (attempt / layout.RESULT).unlink()
    (attempt / layout.CALLS).unlink()

    class Killed(BaseException):
        pass

    def kill(_: Path) -> None:
        raise Killed

    monkeypatch.setattr(run_result, "compress_attempt", kill)
    evidence_of_run, ended = Evidence(True, agents=()), AttemptRecord(1, run_result.ENDED)
    with pytest.raises(Killed):
        run_result.publish(run, folder, ended, {"agents": {}}, evidence_of_run, None)
    assert run_result.is_restorable(run, folder)
    assert folder.result.is_file()


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_syncs_no_folder_keeps_documents(
    code: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        sync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Errno") if fails else contextlib.nullcontext():
        atomic_io.write_json(tmp_path / "x.json", {})
    assert atomic_io.read_json(tmp_path / "x.json") == {}


def test_a_users_archive_is_copied_unchanged(tmp_path: Path) -> None:
    own = tmp_path / "old.tar.gz"
    own.write_bytes(b"no archive")
    assert dict(atomic_io.file_contents(own)) == {own: b"no archive"}


def test_a_key_is_removed_from_compressed_files(tmp_path: Path) -> None:
    """A killed session may have had another key than the session that compresses."""
    key = "sk-0123456789abcdef"
    log = tmp_path / "cooperbench.log"
    log.write_text(f"refused: {key}\n" * 1000)
    atomic_io.compress(log)
    redaction.redact_files(tmp_path, [key])
    text = atomic_io.read_bytes(log).decode()
    assert key not in text
    assert text.count("refused: ") == 1000
