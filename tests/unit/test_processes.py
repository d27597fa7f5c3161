"""Processes: reliable identities, helpers that end with their parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from cooperflow import processes


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    me = processes.this_process()
    assert me.is_alive()
    assert processes.Process.parse(str(me)) == me
    assert not processes.Process(me.host, me.pid, "another boot:1").is_alive()
    assert processes.Process("elsewhere", 1, "x").is_alive()
    child = subprocess.Popen(["sleep", "60"])
    mark = processes.Process(me.host, child.pid, processes._start_mark(child.pid) or "")
    assert mark.is_alive()
    child.kill()
    child.wait()
    assert not mark.is_alive()


def test_a_helper_dies_with_its_parent() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from cooperflow import processes\n"
        "print(processes.spawn(['sleep', '60']).pid, flush=True); import time; time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    helper = int(parent.stdout.readline())
    assert Path(f"/proc/{helper}").exists()
    parent.kill()
    parent.communicate()
    for _ in range(50):
        if processes._start_mark(helper) is None:
            break
        time.sleep(0.1)
    assert processes._start_mark(helper) is None
