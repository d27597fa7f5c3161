"""Files and processes: complete or missing, one holder of a claim, reliable identities."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cooperflow import atomic_io


def test_a_document_is_whole_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    atomic_io.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        atomic_io.write_json(path, {"a": object()})
    assert atomic_io.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["d.json"]


@pytest.mark.parametrize("content", ["", "{", '{"a": '])
def test_half_a_document_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)
    assert atomic_io.read_json(path) is None
    assert atomic_io.read_json(tmp_path / "none.json") is None


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    atomic_io.append_line(path, '{"a": 1}')
    with path.open("a") as stream:
        stream.write('{"b": ')
    assert atomic_io.read_lines(path) == [{"a": 1}]


def test_the_end_of_a_line_file_has_whole_lines_only(tmp_path: Path) -> None:
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
