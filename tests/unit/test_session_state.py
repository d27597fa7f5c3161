"""State that a session's jobs share: the session's lock, and the rate limits of providers."""

from __future__ import annotations

import concurrent.futures
import errno
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cooperflow import atomic_io, locks, session_state
from cooperflow.attempt import supervisor
from cooperflow.errors import UserError
from cooperflow.experiment import config, config_schema
from cooperflow.experiment import plan as planning
from cooperflow.layout import Results
from cooperflow.outcomes import usage


def test_a_user_without_a_name_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with `--user 12345`."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(session_state.getpass, "getuser", unknown)
    results = Results(tmp_path / "results")
    monkeypatch.setattr(session_state, "_lock_files", [])
    session_state.hold_lock(results, tmp_path)
    assert json.loads(results.lock.read_text())["user"] == str(os.getuid())


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"No locks available.*another file system"):
        session_state.hold_lock(Results(tmp_path / "results"), tmp_path)


def test_jobs_that_are_first_at_once_get_one_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results(tmp_path)
    write, turns = atomic_io.write_text, itertools.count(1)

    def slowly(path: Path, text: str) -> None:
        time.sleep(0.1 * next(turns))
        write(path, text)

    monkeypatch.setattr(atomic_io, "write_text", slowly)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        identities = list(pool.map(session_state.results_identity, [results] * 4))
    assert len(set(identities)) == 1


def test_a_second_session_is_refused_with_the_running_process(tmp_path: Path) -> None:
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


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=60),
    st.floats(0.5, 30),
)
def test_no_window_has_more_calls_than_the_limit(gaps: list[float], interval: float) -> None:
    """Calls start an interval apart whenever they are requested, and none waits needlessly."""
    now, due, turns = 0.0, None, []
    for gap in gaps:
        now += gap
        turn, due = session_state.next_turn(due, now, interval)
        assert turn >= now
        turns.append((now, turn))
    for (_, before), (request, after) in itertools.pairwise(turns):
        assert after - before >= interval - 1e-9
        assert after == request or after <= before + interval + 1e-9


def test_a_clock_set_back_does_not_delay_calls() -> None:
    assert session_state.next_turn(1e9 + 1e6, 1e9, 5.0) == (1e9, 1e9 + 5.0)


def _reserve_turns(path: str, count: int) -> None:
    rate_limit = session_state.RateLimit(Path(path), 60.0)
    for _ in range(count):
        rate_limit.reserve()


def test_turns_of_several_processes(tmp_path: Path) -> None:
    """Processes that request a turn at the same time never get the same one."""
    start = time.time()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_reserve_turns, [(str(tmp_path / "pace"), 600)] * 4, chunksize=1)
    due = float((tmp_path / "pace").read_text())
    assert start + 2400 <= due <= time.time() + 2400


def test_held_seconds_are_those_of_the_agent_held_most() -> None:
    records = [
        {"event": "held", "thread": "1", "seconds": 2.0},
        {"event": "held", "thread": "2", "seconds": 3.0},
        {"event": "held", "thread": "1", "seconds": 2.5},
        {"event": "start", "thread": "2", "id": "a"},
    ]
    assert usage.rate_limit_delay(records) == 4.5
    assert usage.rate_limit_delay([]) == 0.0


def test_the_time_limit_is_extended_by_held_seconds(tmp_path: Path) -> None:
    """Only time spent waiting for the rate limit is added, and only if there is one."""
    log = tmp_path / "calls.jsonl"
    log.write_text('{"event": "held", "thread": "1", "seconds": 42.5}\n')

    def limit(rate_limit: object, seconds: float) -> float:
        attempt: Any = SimpleNamespace(rate_limit=rate_limit, call_log=log, seconds=seconds)
        return supervisor._time_limit(attempt)

    assert limit(object(), 20.0) == 62.5
    assert limit(None, 20.0) == 20.0
    longest = config_schema.LONGEST_RUN
    assert limit(object(), longest - 1.0) == longest
    assert limit(object(), longest + 1.0) == longest + 1.0


def test_models_of_a_provider_share_its_slots() -> None:
    raw: dict[str, Any] = {
        "dataset": {"subset": "flash"},
        "models": {
            "a": {"model": "x", "provider": "p"},
            "b": {"model": "y", "provider": "p"},
            "c": {"model": "z"},
        },
        "providers": {"p": {"runs": 2, "requests_per_minute": 30}},
        "settings": {"solo": ["--setting", "solo"]},
    }
    plan = planning.make(config.parse(raw))
    slots = {experiment.model_name: plan.slots(experiment) for experiment in plan.experiments}
    assert plan.run_limits == {"provider_p": 2}
    assert slots == {"a": {"provider_p": 1}, "b": {"provider_p": 1}, "c": {}}
    assert [plan.limits(e).requests_per_minute for e in plan.experiments] == [30, 30, None]
