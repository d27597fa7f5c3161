"""`make doctor`: the report for an issue, without secrets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from experiment_client import clone_of

KEY = "sk-not.a/real*key-5f1d0c"


def test_doctor_reports_errors_and_no_secret(tmp_path: Path) -> None:
    clone = clone_of(tmp_path)
    logs = clone / "logs" / "runs" / "m-solo"
    logs.mkdir(parents=True)
    (logs / "f1_f2.log").write_text(
        "all well\n"
        f"AuthenticationError: the key {KEY} is refused\n"
        "error: Authorization: Bearer abcdef123456\n"
        "error at https://me:secret@mirror.example.org/v2\n"
        "0 errors\n"
    )
    result = subprocess.run(
        ["envs/setup.sh", "doctor"],
        cwd=clone,
        env={**os.environ, "TESTED_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    text = result.stdout
    assert "TESTED_API_KEY" in text
    assert "runs/m-solo/f1_f2.log: AuthenticationError: the key [key] is refused" in text
    for secret in (KEY, "abcdef123456", "secret@"):
        assert secret not in text
    assert "0 errors" not in text
    for row in ("cooperbench", "engine", "open files", "memory limit", "commit"):
        assert f"\n  {row}" in text
