"""Output of commands in containers: its end, its loss, and its size."""

from __future__ import annotations

import io
import itertools
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from docker.models.containers import Container
from docker.types import CancellableStream

from cooperflow.instrumentation import upstream_patches as patches

FRAMES = patches.FRAME.pack(1, 3) + b"out" + patches.FRAME.pack(2, 3) + b"err"


class Reset(io.RawIOBase):
    """A connection that is reset after its content."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._content:
            raise ConnectionResetError
        count = min(len(buffer), len(self._content))
        buffer[:count], self._content = self._content[:count], self._content[count:]
        return count


def test_frames_of_a_command_end_with_it() -> None:
    reader = io.BufferedReader(io.BytesIO(FRAMES))  # type: ignore[arg-type]
    assert list(patches._frames(reader)) == [(1, b"out"), (2, b"err")]


@pytest.mark.parametrize("size", [3, 8, 9, 13, 18, 21])
def test_a_connection_that_is_cut_is_not_the_end_of_a_command(size: int) -> None:
    """The SDK takes an end and a reset of the connection for the end of the command."""
    with pytest.raises(patches.OutputCut):
        list(patches._frames(io.BufferedReader(io.BytesIO(FRAMES[:size]))))  # type: ignore[arg-type]
    with pytest.raises(patches.OutputCut):
        list(patches._frames(io.BufferedReader(Reset(FRAMES[:size]))))


class Api:
    """Docker's client of a command with this output and these answers for its exit code."""

    def __init__(self, output: Any, codes: list[int | None]) -> None:
        self._output, self._codes = output, iter(codes)
        self.timeout = 0

    def exec_create(self, *_: Any, **__: Any) -> dict[str, str]:
        return {"Id": "1"}

    def exec_start(self, *_: Any, **__: Any) -> Any:
        response = SimpleNamespace(raw=SimpleNamespace(closed=True))
        return CancellableStream(iter(self._output), response)

    def exec_inspect(self, *_: Any) -> dict[str, int | None]:
        return {"ExitCode": next(self._codes)}


def _evaluate(api: Api, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(Container, "exec_run", Container.exec_run)
        patches.limit_commands(60)
        container = Container(attrs={"Id": "1"}, client=SimpleNamespace(api=api))  # type: ignore[arg-type]
        return container.exec_run(["true"])


def test_a_test_that_still_runs_after_its_output_is_no_failed_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patches, "GRACE", 0.2)
    late = Api([b"1 passed"], [None, None, 0])
    assert _evaluate(late, monkeypatch) == (0, b"1 passed")
    with pytest.raises(patches.OutputCut):
        _evaluate(Api([b"collecting"], itertools.repeat(None)), monkeypatch)  # type: ignore[arg-type]
    # Docker ends a command whose reader has gone.
    with pytest.raises(patches.OutputCut):
        _evaluate(Api([b"collecting"], [None, 126]), monkeypatch)
    assert _evaluate(Api([b"killed"], [137]), monkeypatch) == (137, b"killed")


def _command(api: Api, monkeypatch: pytest.MonkeyPatch, script: str) -> Any:
    monkeypatch.setenv("MSWEA_DOCKER_EXECUTABLE", "docker-labelled")
    programs = patches._Programs()
    monkeypatch.setattr(programs, "_client", lambda _: api)
    arguments = ["docker-labelled", "exec", "-w", "/", "1", "bash", "-lc", script]
    return programs.run(arguments, timeout=60, **patches.CAPTURED)


def test_a_command_whose_output_is_cut_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut() -> Any:
        yield b"half"
        raise patches.OutputCut

    result = _command(Api(cut(), [0]), monkeypatch, "ls")
    assert (result.returncode, result.stdout) == (patches.LOST, "half")
    assert isinstance(result, subprocess.CompletedProcess)


def test_endless_output_of_an_agent_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patches, "KEPT_AGENT", 100)
    chunks = [b"first", *[bytes(1 << 20)] * 50, b"last"]
    text = _command(Api(chunks, [0]), monkeypatch, "yes").stdout
    assert text.startswith("first") and text.endswith("last")
    assert len(text) < 2 * patches.KEPT_TAIL and "bytes left out" in text
    patch = _command(Api(chunks, [0]), monkeypatch, f"{patches.DIFF}| base64").stdout
    assert len(patch) == sum(map(len, chunks))


def test_output_keeps_its_head_and_its_tail() -> None:
    output, sent = patches._Output(10, 20), bytearray()
    for number in range(100):
        chunk = f"{number:02d}".encode()
        sent += chunk
        output.add(chunk)
    kept = output.content()
    assert kept.startswith(sent[:10]) and kept.endswith(sent[-20:])
    assert b"[... 170 bytes left out ...]" in kept
    small = patches._Output(10, 20)
    small.add(b"x" * 30)
    assert small.content() == b"x" * 30
