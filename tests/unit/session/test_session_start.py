"""Start of a session: its plan and estimate, retried attempts, an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic

from cooperflow import atomic_io, layout
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.session import model_check, session_start
from cooperflow.session.checks import Work


def test_the_plan_names_what_the_session_does(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    text = session_start.plan_text(plan, Work(True, [], [], tables=False, pulls=3), 0)
    assert "images to verify: 3 of" in text
    assert "run name" not in text
    text = session_start.plan_text(plan, Work(False, [], [], oracles=4, tables=False), 0)
    assert "oracle evaluations pending: 4" in text
    assert "run name" not in text


def test_an_adopting_session_does_not_ask_for_adoption(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    raw = plan.config.model_dump(mode="json")
    raw["models"]["theirs"] = {"model": "m", "adopt": {"solo": str(tmp_path / "theirs")}}
    adopting_plan = planning.make(config.parse(raw))
    words = "Not adopted yet: theirs-solo. Run `snakemake adopt`."
    assert words in session_start.plan_text(adopting_plan, Work(False, [], []), 0)
    assert "dopt" not in session_start.plan_text(
        adopting_plan, Work(False, [], [], tables=False, adopting=True), 0
    )


def test_runs_that_are_restored_are_not_in_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--delete-all-output` removes result.json and leaves the attempts."""
    price = {"known": True, "price": [2.5e-6, 1e-5]}
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: price)
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    runs = plan.runs[:2]
    for run in runs:
        result = run.folder(plan.results).attempt(1) / layout.RESULT
        atomic_io.write_json(result, {"workflow": {}})
    text = session_start.plan_text(plan, Work(False, runs, runs), 0)
    assert "2 of these runs are restored from their attempts at no cost." in text
    assert "$" not in text
    # A retired attempt is not restored: the run is paid for again.
    for run in runs:
        result = run.folder(plan.results).attempt(1) / layout.RESULT
        result.rename(result.with_name(layout.RETIRED))
    assert "restored" not in session_start.plan_text(plan, Work(False, runs, runs), 0)


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
    estimates = session_start.make_estimate(shipped, shipped.runs)
    costs = [estimate.cost for estimate in estimates if estimate.cost is not None]
    assert [estimate.runs for estimate in estimates] == [100, 100, 100]
    assert sum(cost.mid for cost in costs) == pytest.approx(138.59, rel=0.001)
    solo, messaging, silent = (cost.mid for cost in costs)
    assert solo < silent < messaging
    for cost in costs:
        assert cost.mid / cost.low == pytest.approx(3.2, abs=0.3)
        assert cost.high / cost.mid == pytest.approx(2.9, abs=0.3)
    text = "\n".join(session_start.estimate_text(estimates, 4))
    assert "assumed: 10.4 calls of 10000 tokens" in text
    assert "assumed: 21.4 calls of 10000 tokens" in text


def test_an_assumption_of_the_config_takes_precedence(make_plan: Any) -> None:
    assume = {"calls": 40, "input_tokens": 15_000, "output_tokens": 250}
    plan = make_plan(models=MODELS, assume=assume)
    solo, coop = session_start.make_estimate(plan, plan.runs)
    assert solo.cost is not None
    assert coop.cost is not None
    # 40 calls of 15,000 in at 2.50 and 250 out at 10.00 USD a million tokens, 4 pairs
    assert solo.cost.mid == pytest.approx(4 * 40 * (0.0375 + 0.0025))
    assert coop.cost.mid == pytest.approx(2 * solo.cost.mid)


def test_each_finished_run_moves_the_estimate_from_the_assumption(make_plan: Any) -> None:
    plan = make_plan(models=MODELS)
    solo = [run for run in plan.runs if run.experiment.setting.name == "solo"]
    expected = [session_start.make_estimate(plan, solo[3:])[0]]
    for run, cost in zip(solo, (3.0, 2.0, 4.0), strict=False):
        workflow = {"cost_usd": cost, "seconds": 60.0, "outcome": None}
        atomic_io.write_json(run.folder(plan.results).result, {"workflow": workflow})
        expected += session_start.make_estimate(plan, solo[3:])
    means = [estimate.cost.mid for estimate in expected if estimate.cost is not None]
    assert means[0] < 0.3 < means[1] < means[2] < means[3] < 3.0
    assert 60 < expected[-1].seconds.mid < 300
    assert expected[-1].basis == "from its 3 finished runs and the assumption"


def test_nothing_to_do_costs_nothing(make_plan: Any) -> None:
    assert session_start.estimate_text(
        session_start.make_estimate(make_plan(models=MODELS), []), 4
    ) == ["estimate: no runs pending"]


def test_an_unknown_price_gives_no_cost(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: {"known": True, "price": None})
    plan = make_plan(models={"m": {"model": "openai/mine"}})
    assert "price unknown" in "\n".join(
        session_start.estimate_text(session_start.make_estimate(plan, plan.runs), 4)
    )


def test_an_unknown_price_gives_no_cost_after_runs(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_check, "probe", lambda *_, **__: {"known": True, "price": None})
    plan = make_plan(models={"m": {"model": "openai/mine"}})
    workflow = {"cost_usd": 0.0, "seconds": 60.0, "outcome": None}
    atomic_io.write_json(plan.runs[0].folder(plan.results).result, {"workflow": workflow})
    assert session_start.make_estimate(plan, plan.runs[1:])[0].cost is None


@pytest.mark.parametrize(
    ("table", "count"),
    [
        ("run_name,infra_error\na-solo,2\na-coop,1\n", 3),
        ("run_name\na-solo\n", 0),
        ("run_name,infra_error\na-solo,x\n", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_the_infra_errors_of_the_last_table_are_counted(
    make_plan: Any, table: str | None, count: int
) -> None:
    plan = make_plan()
    if table is not None:
        plan.results.summary_csv.parent.mkdir(parents=True)
        plan.results.summary_csv.write_text(table)
    assert session_start.count_infra_errors(plan) == count
