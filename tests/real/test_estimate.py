"""The estimate: from finished runs, from stated assumptions, with a range that holds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cooperflow import atomic
from cooperflow.start import estimate, model_check

MODELS = {"m": {"model": "command-a-03-2025", "api_key": "COHERE_API_KEY"}}


@pytest.fixture(autouse=True)
def _price(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"known": True, "price": [2.5e-6, 1e-5]}
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: told)


def test_without_runs_it_states_its_assumption(make_plan: Any) -> None:
    plan = make_plan(models=MODELS)
    solo, coop = estimate.make(plan, plan.runs)
    assert solo.cost is not None
    assert coop.cost is not None
    # 40 calls of 15,000 in at 2.50 and 250 out at 10.00 USD a million tokens, 4 pairs
    assert solo.cost.mid == pytest.approx(4 * 40 * (0.0375 + 0.0025))
    assert coop.cost.mid == pytest.approx(2 * solo.cost.mid)
    assert (solo.cost.low, solo.cost.high) == (solo.cost.mid / 3, solo.cost.mid * 3)
    assert "assumed: 40 calls of 15000 tokens" in "\n".join(estimate.text([solo, coop], 4))


def test_finished_runs_speak_for_the_rest(make_plan: Any) -> None:
    plan = make_plan(models=MODELS)
    solo = [run for run in plan.runs if run.experiment.setting.name == "solo"]
    for run, cost in zip(solo, (1.0, 2.0, 3.0), strict=False):
        told = {"cost_usd": cost, "seconds": 60.0, "outcome": None}
        atomic.write_json(run.folder(plan.results).result, {"workflow": told})
    found, _ = estimate.make(plan, [r for r in plan.runs if r not in solo[:3]])
    assert found.runs == 1
    assert found.cost is not None
    assert found.cost.mid == pytest.approx(2.0)
    assert found.cost.low < 1.0
    assert found.cost.high > 3.0
    assert found.seconds.mid == pytest.approx(60.0)
    assert found.basis == "from 3 finished runs of it"


def test_nothing_to_do_costs_nothing(make_plan: Any) -> None:
    assert estimate.text(estimate.make(make_plan(models=MODELS), []), 4) == [
        "estimate: nothing is to be done"
    ]


def test_an_unknown_price_is_no_price(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: {"known": True, "price": None})
    plan = make_plan(models={"m": {"model": "openai/mine"}})
    assert "no price is known" in "\n".join(estimate.text(estimate.make(plan, plan.runs), 4))


def test_the_range_holds_nineteen_times_of_twenty() -> None:
    draw = random.Random(7)
    held = 0
    for _ in range(400):
        seen = [draw.gauss(10, 3) for _ in range(6)]
        truth = sum(draw.gauss(10, 3) for _ in range(30))
        told = estimate.from_sample(seen, 30)
        held += told.low <= truth <= told.high
    assert 0.92 < held / 400 < 0.98
