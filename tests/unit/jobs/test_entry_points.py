"""Scripts of rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cooperflow import processes
from cooperflow.jobs import entry_points
from cooperflow.jobs.job import INTERRUPTED


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), processes.Interrupted("SIGINT")])
def test_an_interrupted_script_prints_no_traceback(
    reason: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)

    def work() -> int:
        raise reason

    assert entry_points.report_errors(work, tmp_path / "log") == INTERRUPTED
    assert capsys.readouterr() == ("", "")
