"""Many models at once: one comparison, and the runs of an added model."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import yaml
from experiment_client import INVENTORY, Experiment
from replay_client import billed

Make = Callable[..., Experiment]


def _overlap(rows: Sequence[dict[str, str]]) -> bool:
    spans = sorted((row["started"], row["ended"]) for row in rows)
    return any(b[0] < a[1] for a, b in itertools.pairwise(spans))


# Name of a model -> litellm's name and the path of its end point: a wire format each.
WIRES = {
    "first": ("command-a-03-2025", "/v2/chat"),
    "second": ("openai/gpt-4o", "/v1"),
    "third": ("anthropic/claude-sonnet-4-5", ""),
}


def _model(experiment: Experiment, name: str = "first", **more: Any) -> dict[str, Any]:
    model, path = WIRES[name]
    base = f"{experiment.server.url}{path}"
    return {"model": model, "api_base": base, "api_key": "TESTED_KEY", **more}


def _with_models(experiment: Experiment, names: Sequence[str]) -> None:
    raw = yaml.safe_load(experiment.config.read_text())
    raw["models"] = {
        "command-a": None,
        **{n: _model(experiment, n, provider="both") for n in names},
    }
    raw["providers"] = {"both": {"runs": 1, "requests_per_minute": 50}}
    if len(names) > 1:
        raw["models"]["free"] = _model(experiment)  # no limit
    experiment.config.write_text(yaml.safe_dump(raw, sort_keys=False))


@pytest.mark.docker
@pytest.mark.slow
def test_models_added_to_a_finished_model(make_experiment: Make) -> None:
    """All are compared and keep their provider's limits together, and nothing runs again.

    One provider takes a run at a time; meanwhile another model's run fills the slots.
    """
    experiment = make_experiment(pairs=[(INVENTORY, 1, 1, 2)])
    experiment.target = str(experiment.results / "comparison.csv")
    _with_models(experiment, ["first"])
    session = experiment.run()
    assert session.returncode == 0, session.stdout
    documents = {p: p.stat().st_mtime_ns for p in (experiment.results / "runs").rglob("*.json")}
    calls = len(experiment.server.ledger())
    assert calls

    _with_models(experiment, ["first", "second", "third"])
    dry = experiment.dry_run()
    assert "run_second_solo" in dry
    assert "run_first_solo" not in dry
    session = experiment.run()
    assert session.returncode == 0, session.stdout
    assert all(p.stat().st_mtime_ns == then for p, then in documents.items())
    assert len(experiment.server.ledger()) == 4 * calls

    rows = experiment.rows()
    assert [(row["model"], row["outcome"]) for row in rows] == [
        (name, "pass") for name in ("first", "second", "third", "free")
    ]
    # The cost in a row equals the cost that the server counted, in every wire format.
    paid = dict.fromkeys(("cohere", "openai", "anthropic"), 0.0)
    for line in experiment.server.ledger():
        paid[line["wire"]] += billed(line)
    assert min(paid.values()) > 0
    cost = {row["model"]: float(row["cost_usd"]) for row in rows}
    cost["first"] += cost.pop("free")
    assert list(cost.values()) == pytest.approx(list(paid.values()), abs=1e-6)
    assert {row["cost_complete"] for row in rows} == {"True"}
    assert [row["model"] for row in experiment.summary()] == ["first", "second", "third", "free"]
    with (experiment.results / "comparison.csv").open(newline="") as stream:
        compared = list(csv.DictReader(stream))
    experiments = ("first-solo", "second-solo", "third-solo", "free-solo")
    assert [(r["compared"], r["a"], r["b"], r["pairs"]) for r in compared] == [
        ("models", a, b, "1") for a, b in itertools.combinations(experiments, 2)
    ]
    limited = [row for row in rows if row["model"] != "free"]
    assert not _overlap(limited)
    assert _overlap(rows)
    assert any(float(row["waited_s"]) > 0 for row in limited)
    starts = sorted(
        float(record["time"])
        for log in experiment.call_logs(excluded="free-solo")
        for record in log
        if record["event"] == "start"
    )
    # 50 a minute; a call is recorded a little after its turn, never before it.
    assert all(b - a > 1.1 for a, b in itertools.pairwise(starts))
    assert "Nothing to be done" in experiment.dry_run()
