"""Many models at once: shared limits, one comparison, and the runs of an added model."""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from experiment_client import INVENTORY, TEXTKIT, Experiment
from hypothesis import given
from hypothesis import strategies as st
from replay_client import billed

from cooperflow import atomic_io
from cooperflow.attempt import supervisor
from cooperflow.experiment import config, config_schema, plan
from cooperflow.instrumentation import rate_limit
from cooperflow.outcomes import usage

Make = Callable[..., Experiment]


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=60),
    st.floats(0.5, 30),
)
def test_no_window_has_more_calls_than_the_limit(gaps: list[float], interval: float) -> None:
    """Calls start an interval apart whenever they are requested, and none waits needlessly."""
    now, due, begun = 0.0, None, []
    for gap in gaps:
        now += gap
        mine, due = rate_limit.next_turn(due, now, interval)
        assert mine >= now
        begun.append((now, mine))
    for (_, before), (asked, after) in itertools.pairwise(begun):
        assert after - before >= interval - 1e-9
        assert after == asked or after <= before + interval + 1e-9


def test_a_clock_set_back_stops_nothing() -> None:
    assert rate_limit.next_turn(1e9 + 1e6, 1e9, 5.0) == (1e9, 1e9 + 5.0)


def _take(path: str, count: int) -> None:
    one = rate_limit.RateLimit(Path(path), 60.0)
    for _ in range(count):
        one.reserve()


def test_turns_of_several_processes(tmp_path: Path) -> None:
    """Processes that ask at once are never given the same turn: each moves the next one on."""
    begun = time.time()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_take, [(str(tmp_path / "pace"), 600)] * 4, chunksize=1)
    due = float((tmp_path / "pace").read_text())
    assert begun + 2400 <= due <= time.time() + 2400


def test_held_seconds_are_those_of_the_agent_held_most() -> None:
    records = [
        {"event": "held", "thread": "1", "seconds": 2.0},
        {"event": "held", "thread": "2", "seconds": 3.0},
        {"event": "held", "thread": "1", "seconds": 2.5},
        {"event": "start", "thread": "2", "id": "a"},
    ]
    assert usage.held(records) == 4.5
    assert usage.held([]) == 0.0


def test_the_time_limit_is_extended_by_held_seconds(tmp_path: Path) -> None:
    """Only what agents wait for the pace is added, and only where there is a pace."""
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
    made = plan.make(config.parse(raw))
    slots = {one.model_name: made.slots(one) for one in made.experiments}
    assert made.run_limits == {"provider_p": 2}
    assert slots == {"a": {"provider_p": 1}, "b": {"provider_p": 1}, "c": {}}
    assert [made.limits(one).requests_per_minute for one in made.experiments] == [30, 30, None]


def _overlap(rows: Sequence[dict[str, str]]) -> bool:
    spans = sorted((row["started"], row["ended"]) for row in rows)
    return any(b[0] < a[1] for a, b in itertools.pairwise(spans))


# Name of a model -> litellm's name and the path of its end point: a wire format each.
WIRES = {
    "first": ("command-a-03-2025", "/v2/chat"),
    "second": ("openai/gpt-4o", "/v1"),
    "third": ("anthropic/claude-sonnet-4-5", ""),
}


def _model(one: Experiment, name: str = "first", **more: Any) -> dict[str, Any]:
    model, path = WIRES[name]
    base = f"{one.server.url}{path}"
    return {"model": model, "api_base": base, "api_key": "TESTED_KEY", **more}


def _with_models(one: Experiment, names: Sequence[str]) -> None:
    raw = yaml.safe_load(one.config.read_text())
    raw["models"] = {"command-a": None, **{n: _model(one, n, provider="both") for n in names}}
    raw["providers"] = {"both": {"runs": 1, "requests_per_minute": 40}}
    one.config.write_text(yaml.safe_dump(raw, sort_keys=False))


@pytest.mark.docker
@pytest.mark.slow
def test_further_models_beside_a_first(experiment: Make) -> None:
    """All are compared and keep their provider's limits together, and nothing runs again."""
    one = experiment(pairs=[(INVENTORY, 1, 1, 2)])
    one.target = str(one.results / "comparison.csv")
    _with_models(one, ["first"])
    done = one.run()
    assert done.returncode == 0, done.stdout
    documents = {p: p.stat().st_mtime_ns for p in (one.results / "runs").rglob("*.json")}
    calls = len(one.server.ledger())
    assert calls

    _with_models(one, ["first", "second", "third"])
    dry = one.dry_run()
    assert "run_second_solo" in dry
    assert "run_first_solo" not in dry
    done = one.run()
    assert done.returncode == 0, done.stdout
    assert all(p.stat().st_mtime_ns == then for p, then in documents.items())
    assert len(one.server.ledger()) == 3 * calls

    rows = one.rows()
    assert [row["outcome"] for row in rows] == ["pass"] * 3
    # What a row says was paid is what the server counted, in every wire format.
    paid = dict.fromkeys(("cohere", "openai", "anthropic"), 0.0)
    for line in one.server.ledger():
        paid[line["wire"]] += billed(line)
    assert min(paid.values()) > 0
    assert [float(row["cost_usd"]) for row in rows] == pytest.approx(list(paid.values()), abs=1e-6)
    assert {row["cost_complete"] for row in rows} == {"True"}
    assert [row["model"] for row in one.summary()] == ["first", "second", "third"]
    with (one.results / "comparison.csv").open(newline="") as stream:
        compared = list(csv.DictReader(stream))
    assert [(r["compared"], r["a"], r["b"], r["pairs"]) for r in compared] == [
        ("models", "first-solo", "second-solo", "1"),
        ("models", "first-solo", "third-solo", "1"),
        ("models", "second-solo", "third-solo", "1"),
    ]
    assert not _overlap(rows)
    assert any(float(row["waited_s"]) > 0 for row in rows)
    starts = sorted(
        float(record["time"])
        for path in (one.results / "runs").rglob("calls.jsonl")
        for record in atomic_io.read_lines(path)
        if record["event"] == "start"
    )
    # 40 a minute; a call is recorded a little after its turn, never before it.
    assert all(b - a > 1.4 for a, b in itertools.pairwise(starts))
    assert "Nothing to be done" in one.dry_run()


@pytest.mark.docker
@pytest.mark.slow
def test_other_providers_fill_the_slots(experiment: Make) -> None:
    """One provider takes a run at a time; another model's runs continue in parallel."""
    one = experiment(pairs=[(INVENTORY, 1, 1, 2), (TEXTKIT, 2, 1, 2)])
    raw = yaml.safe_load(one.config.read_text())
    raw["models"] = {
        "command-a": None,
        "narrow": _model(one, provider="narrow"),
        "free": _model(one),
    }
    raw["providers"] = {"narrow": {"runs": 1}}
    one.config.write_text(yaml.safe_dump(raw, sort_keys=False))
    done = one.run()
    assert done.returncode == 0, done.stdout
    rows = one.rows()
    narrow = [row for row in rows if row["model"] == "narrow"]
    assert len(narrow) == 2
    assert not _overlap(narrow)
    assert _overlap(rows)
