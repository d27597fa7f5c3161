"""Files and processes: complete or missing, one holder of a claim, reliable identities."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cooperflow import atomic_io, layout, locks, processes, session_lock
from cooperflow.engine import containers
from cooperflow.errors import UserError
from cooperflow.experiment import config, fingerprint, plan
from cooperflow.layout import Results, RunFolder
from cooperflow.outcomes import publication
from cooperflow.tables import stats


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


def test_a_claim_goes_with_its_process(tmp_path: Path) -> None:
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


def test_a_second_start_is_told_who_is_at_work(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from pathlib import Path\n"
        "from cooperflow import session_lock; from cooperflow.layout import Results\n"
        f"results = Results(Path({str(tmp_path / 'results')!r}))\n"
        f"session_lock.hold(results, Path({str(tmp_path)!r}))\n"
        "print('held', flush=True); import time; time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"process {first.pid} on"):
        session_lock.hold(Results(tmp_path / "results"), tmp_path)
    first.kill()
    first.communicate()
    session_lock.hold(Results(tmp_path / "results"), tmp_path)


def test_what_events_say_of_containers() -> None:
    def event(status: str, name: str, seconds: float) -> dict[str, object]:
        return {"status": status, "id": name, "timeNano": int(seconds * 1e9)}

    events = [
        event("start", "aaa", 1),
        event("start", "bbb", 1),
        event("start", "ccc", 1),
        event("die", "aaa", 5),  # its agent removed it
        event("oom", "bbb", 6),
        event("die", "bbb", 6),
        event("die", "ccc", 20),  # after the end: our own clean-up
    ]
    assert containers.count_events(events, ["aaa"], until=10) == containers.ContainerCounts(3, 1, 1)
    assert containers.count_events(events, ["aaa", "bbb"], until=10).died == 0


def test_a_removed_result_is_restored_from_its_attempt(tmp_path: Path) -> None:
    demo = layout.REPOSITORY / "config" / "demo.yaml"
    run = plan.make(config.load([demo])).runs[0]
    folder = RunFolder(tmp_path)
    assert publication.restore(run, folder) is None
    atomic_io.write_json(folder.attempt(1) / "result.json", {"workflow": {"outcome": None}})
    upstream = publication.upstream_folder(run, folder.attempt(1))
    upstream.mkdir(parents=True)
    (upstream / "solo.patch").write_text("+1\n")
    # Twice: a kill in its middle is made good by doing it again.
    for _ in range(2):
        assert publication.restore(run, folder) is not None
        assert json.loads(folder.result.read_text()) == {"workflow": {"outcome": None}}
        assert (folder.path / "solo.patch").read_text() == "+1\n"
        folder.result.unlink()


def test_differences_of_experiments() -> None:
    before = {"asked": {"model": "a"}, "resolved": {"cooperbench": "1", "tasks": {"x/1": "h"}}}
    same = {"asked": {"model": "a"}, "resolved": {"cooperbench": "1", "tasks": {"y/2": "i"}}}
    assert fingerprint.differences(before, same) == []
    other = {"asked": {"model": "b"}, "resolved": {"cooperbench": "1", "tasks": {"x/1": "j"}}}
    assert fingerprint.differences(before, other) == [
        'model: "a" -> "b"',
        "data set: x/1 has other contents",
    ]


def test_wilson() -> None:
    # Worked out by hand from Wilson's formula: k = 8, n = 10, z = 1.959964.
    assert stats.wilson(8, 10) == (0.490162, 0.943318)
    low, high = stats.wilson(0, 0)
    assert low != low
    assert high != high
