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


def test_a_full_disk_of_the_logs_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    log = tmp_path / "log"
    log.symlink_to("/dev/full")

    def work() -> int:
        print("a paid result")
        return 0

    assert entry_points.report_errors(work, log) == 0
    assert entry_points.report_errors(work, Path("/proc/no/such/folder/log")) == 0
    assert capsys.readouterr().out.count("a paid result") == 2
