"""The estimate of cost and time: assumptions, finished runs and prices."""

from __future__ import annotations

from typing import Any

import pytest

from cooperflow import atomic_io
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.session import estimate, model_check

MODELS = {"m": {"model": "command-a-03-2025", "api_key": "COHERE_API_KEY"}}


@pytest.fixture(autouse=True)
def _price(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"known": True, "price": [2.5e-6, 1e-5]}
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: answer)


@pytest.fixture
def shipped() -> planning.Plan:
    return planning.make(config.load([]))


def test_the_default_estimate_is_that_of_the_public_runs(shipped: planning.Plan) -> None:
    """300 runs of the default experiment cost 138.59 USD; the range is a third to three times."""
    estimates = estimate.make(shipped, shipped.runs)
    costs = [entry.cost for entry in estimates if entry.cost is not None]
    assert [entry.runs for entry in estimates] == [100, 100, 100]
    assert sum(cost.mid for cost in costs) == pytest.approx(138.59, rel=0.001)
    solo, messaging, silent = (cost.mid for cost in costs)
    assert solo < silent < messaging
    for cost in costs:
        assert cost.mid / cost.low == pytest.approx(3.2, abs=0.3)
        assert cost.high / cost.mid == pytest.approx(2.9, abs=0.3)
    text = "\n".join(estimate.describe(estimates, 4))
    assert "assumed: 10.4 calls of 10000 tokens" in text
    assert "assumed: 21.4 calls of 10000 tokens" in text


def test_an_assumption_of_the_config_takes_precedence(make_plan: Any) -> None:
    assume = {"calls": 40, "input_tokens": 15_000, "output_tokens": 250}
    plan = make_plan(models=MODELS, assume=assume)
    solo, coop = estimate.make(plan, plan.runs)
    assert solo.cost is not None
    assert coop.cost is not None
    # 40 calls of 15,000 in at 2.50 and 250 out at 10.00 USD a million tokens, 4 pairs
    assert solo.cost.mid == pytest.approx(4 * 40 * (0.0375 + 0.0025))
    assert coop.cost.mid == pytest.approx(2 * solo.cost.mid)


def test_each_finished_run_moves_the_estimate_from_the_assumption(make_plan: Any) -> None:
    plan = make_plan(models=MODELS)
    solo = [run for run in plan.runs if run.experiment.setting.name == "solo"]
    expected = [estimate.make(plan, solo[3:])[0]]
    for run, cost in zip(solo, (3.0, 2.0, 4.0), strict=False):
        workflow = {"cost_usd": cost, "seconds": 60.0, "outcome": None}
        atomic_io.write_json(run.folder(plan.results).result, {"workflow": workflow})
        expected += estimate.make(plan, solo[3:])
    means = [entry.cost.mid for entry in expected if entry.cost is not None]
    assert means[0] < 0.3 < means[1] < means[2] < means[3] < 3.0
    assert 60 < expected[-1].seconds.mid < 300
    assert expected[-1].basis == "from its 3 finished runs and the assumption"


def test_nothing_to_do_costs_nothing(make_plan: Any) -> None:
    assert estimate.describe(estimate.make(make_plan(models=MODELS), []), 4) == [
        "estimate: no runs pending"
    ]


def test_an_unknown_price_gives_no_cost(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: {"known": True, "price": None})
    plan = make_plan(models={"m": {"model": "openai/mine"}})
    assert "price unknown" in "\n".join(estimate.describe(estimate.make(plan, plan.runs), 4))


def test_an_unknown_price_gives_no_cost_after_runs(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: {"known": True, "price": None})
    plan = make_plan(models={"m": {"model": "openai/mine"}})
    workflow = {"cost_usd": 0.0, "seconds": 60.0, "outcome": None}
    atomic_io.write_json(plan.runs[0].folder(plan.results).result, {"workflow": workflow})
    assert estimate.make(plan, plan.runs[1:])[0].cost is None


def test_the_price_of_the_last_preflight_is_used(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A price that only litellm knows takes seconds to ask for."""
    plan = make_plan(models={"m": {"model": "openai/mine"}})
    model_check._remember(plan, plan.experiments[0], {"known": True, "price": [1e-6, 1e-6]})
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: pytest.fail("asked litellm"))
    assert estimate.make(plan, plan.runs)[0].cost is not None
