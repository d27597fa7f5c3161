"""The preflight: each line ok or with a remedy; one call of one token per session."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from cooperflow.experiment.config_schema import Model
from cooperflow.outcomes import usage
from cooperflow.session import checks, estimate, model_check, session_start

COHERE = Model(model="command-a-03-2025", api_key="COHERE_API_KEY")


def _states(lines: Any) -> dict[str, str]:
    return {line.name: line.state for line in lines}


@pytest.mark.parametrize(
    ("answer", "states", "words"),
    [
        (
            {"kind": usage.ANSWERED, "cost": 0.00001, "price": [2.5e-6, 1e-5]},
            {"key": "ok", "model": "ok", "price": "ok"},
            "0.000010 USD, which the usage of the runs does not include",
        ),
        ({"kind": usage.AUTH, "price": [1, 1]}, {"key": "NO"}, "COHERE_API_KEY"),
        ({"kind": usage.QUOTA, "price": [1, 1]}, {"key": "NO"}, "quota"),
        ({"kind": usage.MODEL_NOT_FOUND, "price": [1, 1]}, {"model": "NO"}, "does not know"),
        (
            {"kind": usage.API_UNAVAILABLE, "price": None},
            {"model": "NO", "price": "--"},
            "end point",
        ),
        ({"kind": usage.ANSWERED, "cost": None}, {"price": "--"}, "LITELLM_MODEL_REGISTRY_PATH"),
        # A price of 0 declares a model free.
        ({"kind": usage.ANSWERED, "price": [0, 0]}, {"price": "ok"}, "0.00 / 0.00 USD"),
        ({"known": False, "message": "?"}, {"model": "NO"}, "provider/model"),
    ],
)
def test_results_of_a_probe(
    answer: dict[str, Any], states: dict[str, str], words: str, make_plan: Any
) -> None:
    experiment = make_plan(models={"m": COHERE.model_dump()}).experiments[0]
    lines = list(model_check.explain_answer(experiment, {"known": True, **answer}))
    assert states.items() <= _states(lines).items()
    assert words in "\n".join(str(line) for line in lines)


def test_too_few_open_files_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    context: Any = None
    (problem,) = checks.check_open_files(context)
    assert "ulimit -n" in str(problem)


def test_a_wrong_clock_is_reported() -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    assert model_check.check_clock(f"{now}.123456789Z", "Docker's").state == "ok"
    assert model_check.check_clock("Thu, 01 Jan 1970 00:01:40 GMT", "theirs").state == "NO"
    assert model_check.check_clock("", "theirs").state == "--"


def test_a_session_pays_for_one_call(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def probe(model: str, key: str, kwargs: dict[str, Any], call: bool) -> dict[str, Any]:
        calls.append(key)
        return {"known": True, "kind": usage.ANSWERED, "cost": 0.1, "price": [1, 1]}

    monkeypatch.setattr(model_check, "probe", probe)
    monkeypatch.setenv("COHERE_API_KEY", "abc")
    plan = make_plan(models={"m": COHERE.model_dump()})
    experiment = plan.experiments[0]
    for _ in range(3):
        assert not list(model_check.check_key("m", COHERE))
        assert not session_start.failed_checks(model_check.check_model(plan, experiment))
    assert calls == ["abc"]
    # Its price is that of the estimate, until the config describes another call.
    assert estimate.assumptions(plan)["m-solo"] == pytest.approx(10.4 * 10_317)
    other = make_plan(models={"m": {"model": "openai/other", "api_key": "COHERE_API_KEY"}})
    assert model_check.last_answer(other, other.experiments[0]) is None
    assert calls == ["abc"]
    log = (plan.results.root / "preflight.jsonl").read_text()
    assert '"cost": 0.1' in log
    assert "abc" not in log
    monkeypatch.delenv("COHERE_API_KEY")
    assert not list(model_check.check_model(plan, experiment))
    (problem,) = model_check.check_key("m", COHERE)
    assert "export COHERE_API_KEY" in str(problem)


@pytest.mark.parametrize(
    ("settings", "state", "words"),
    [
        (
            {"step_limit": "many"},
            model_check.BAD,
            "config.agent.step_limit: 'many' has another type",
        ),
        ({"step_limit": True}, model_check.BAD, "True has another type"),
        ({"step_limt": 5}, model_check.NOTE, "not among upstream's keys: agent.step_limt"),
        ({"step_limit": 5, "cost_limit": 2}, model_check.OK, "config read"),
    ],
)
def test_an_agents_config_is_compared_with_upstreams(
    make_plan: Any, settings: dict[str, Any], state: str, words: str
) -> None:
    lines = _findings_on_agent(make_plan, {"agent": settings})
    assert {line.state for line in lines} == {state}
    assert words in lines[0].text


def _findings_on_agent(make_plan: Any, config: dict[str, Any]) -> list[model_check.Finding]:
    plan = make_plan(agent={"name": "mini_swe_agent_v2", "config": config})
    work = checks.Work(images=True, runs=plan.runs, evaluations=[])
    return list(checks.check_agent_config(checks.Context(plan, work)))


def test_keys_that_the_agent_would_ignore_are_named(make_plan: Any) -> None:
    from cooperbench.agents.mini_swe_agent_v2.models.litellm_model import LitellmModelConfig

    config = {"model": {"model_kwarg": {}, "cost_tracking": "default"}, "environment": {"image": 1}}
    lines = _findings_on_agent(make_plan, config)
    assert {line.state for line in lines} == {model_check.NOTE}
    assert "upstream's keys: model.model_kwarg, environment.image" in lines[0].text
    assert checks._READ["model"] == set(LitellmModelConfig.model_fields) - {"model_name"}
