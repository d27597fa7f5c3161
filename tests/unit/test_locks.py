"""Locks: one holder, released with its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cooperflow import locks
from cooperflow.errors import UserError


def test_a_claim_has_one_holder_and_leaves_no_file(tmp_path: Path) -> None:
    with (
        locks.claim(tmp_path, "run", 0),
        pytest.raises(UserError, match="locked by another process"),
        locks.claim(tmp_path, "run", 0.3),
    ):
        pass
    assert os.listdir(tmp_path) == []
    with locks.claim(tmp_path, "run", 0):
        pass


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cooperflow import locks\n"
        f"with locks.claim(Path({str(tmp_path)!r}), 'run', 0):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "scripts"},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.communicate()
    with locks.claim(tmp_path, "run", 5):
        pass
