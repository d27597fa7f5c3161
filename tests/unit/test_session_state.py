"""The lock of a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cooperflow import session_state
from cooperflow.errors import UserError
from cooperflow.layout import Results


def test_a_second_start_is_told_who_is_at_work(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from pathlib import Path\n"
        "from cooperflow import session_state; from cooperflow.layout import Results\n"
        f"results = Results(Path({str(tmp_path / 'results')!r}))\n"
        f"session_state.hold_lock(results, Path({str(tmp_path)!r}))\n"
        "print('held', flush=True); import time; time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"process {first.pid} on"):
        session_state.hold_lock(Results(tmp_path / "results"), tmp_path)
    first.kill()
    first.communicate()
    session_state.hold_lock(Results(tmp_path / "results"), tmp_path)
