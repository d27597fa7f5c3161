"""The preflight: each line ok or what to do; one call of one token, asked once."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cooperflow import atomic_io
from cooperflow.errors import UserError
from cooperflow.experiment.config_schema import Model
from cooperflow.layout import REPOSITORY
from cooperflow.outcomes import usage
from cooperflow.session import checks, finding, model_check, preflight

COHERE = Model(model="command-a-03-2025", api_key="COHERE_API_KEY")


def _states(found: Any) -> dict[str, str]:
    return {line.name: line.state for line in found}


@pytest.mark.parametrize(
    ("told", "states", "words"),
    [
        (
            {"kind": usage.ANSWERED, "cost": 0.00001, "price": [2.5e-6, 1e-5]},
            {"key": "ok", "model": "ok", "price": "ok"},
            "0.000010 USD, which the usage of the runs does not include",
        ),
        ({"kind": usage.AUTH, "price": [1, 1]}, {"key": "NO"}, "COHERE_API_KEY"),
        ({"kind": usage.QUOTA, "price": [1, 1]}, {"key": "NO"}, "quota"),
        ({"kind": usage.MODEL_NOT_FOUND, "price": [1, 1]}, {"model": "NO"}, "does not know"),
        ({"kind": usage.API_UNAVAILABLE, "price": None}, {"model": "NO", "price": "--"}, "serve"),
        ({"kind": usage.ANSWERED, "cost": None}, {"price": "--"}, "LITELLM_MODEL_REGISTRY_PATH"),
        ({"known": False, "message": "?"}, {"model": "NO"}, "provider/model"),
    ],
)
def test_what_a_probe_means(
    told: dict[str, Any], states: dict[str, str], words: str, make_plan: Any
) -> None:
    experiment = make_plan(models={"m": COHERE.model_dump()}).experiments[0]
    found = list(model_check.explain_answer(experiment, {"known": True, **told}))
    assert states.items() <= _states(found).items()
    assert words in "\n".join(str(line) for line in found)


def test_too_few_open_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    context: Any = None
    (problem,) = checks.check_open_files(context)
    assert "ulimit -n" in str(problem)


def test_a_clock_that_is_off_is_told() -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    assert finding.check_clock("clock", f"{now}.123456789Z", "Docker's").state == "ok"
    assert finding.check_clock("clock", "Thu, 01 Jan 1970 00:01:40 GMT", "theirs").state == "NO"
    assert finding.check_clock("clock", "", "theirs").state == "--"


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The replay server; gives its base URL and its ledger."""
    folder = tmp_path_factory.mktemp("replay")
    command = [
        sys.executable,
        str(REPOSITORY / "demo" / "replay_server.py"),
        "--script",
        _a_script(),
    ]
    command += ["--dataset", str(REPOSITORY / "demo" / "dataset")]
    command += ["--port-file", str(folder / "port"), "--ledger", str(folder / "ledger")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 30
    while not (folder / "port").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{(folder / 'port').read_text().strip()}", folder / "ledger"
    process.terminate()
    process.wait()


def _a_script() -> str:
    from replay.scripts import SCRIPTS

    return sorted(SCRIPTS)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "path"),
    [("command-a-03-2025", "/v2/chat"), ("openai/some-model", "/v1")],
)
def test_a_real_call_reaches_the_end_point(replay: tuple[str, Path], model: str, path: str) -> None:
    url, ledger = replay
    before = len(ledger.read_text().splitlines()) if ledger.exists() else 0
    base = {"api_base": url + path}
    told = model_check.probe(model, "key-of-the-test", base, call=True)
    assert told["known"], told
    assert told["called"], told
    assert len(ledger.read_text().splitlines()) == before + 1
    assert "key-of-the-test" not in str(told)


def test_one_start_pays_for_one_call(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert not preflight.failed(model_check.check_model(plan, experiment))
    assert calls == ["abc"]
    kept = (plan.results.root / "preflight.jsonl").read_text()
    assert '"cost": 0.1' in kept
    assert "abc" not in kept
    monkeypatch.delenv("COHERE_API_KEY")
    assert not list(model_check.check_model(plan, experiment))
    (problem,) = model_check.check_key("m", COHERE)
    assert "export COHERE_API_KEY" in str(problem)


@pytest.mark.docker
@pytest.mark.slow
def test_the_whole_preflight_of_the_demo(make_plan: Any) -> None:
    plan = make_plan(images={"pull": False, "free_gb": 0})
    work = checks.Work(images=True, runs=plan.runs, evaluations=[])
    found = list(preflight.run_checks(checks.Context(plan, work)))
    assert not preflight.failed(found), found
    assert {"daemon", "limits", "clock", "images", "open files", "disk", "data set", "agent"} <= {
        line.name for line in found
    }
    assert os.environ.get("COHERE_API_KEY") is None or "COHERE" not in str(found)


@pytest.mark.docker
def test_an_image_that_was_changed_is_told(make_plan: Any) -> None:
    plan = make_plan(images={"pull": False, "free_gb": 0})
    atomic_io.write_json(plan.results.sentinel(plan.images[0]), {"id": "sha256:other"})
    work = checks.Work(images=True, runs=plan.runs, evaluations=[])
    (bad,) = preflight.failed(checks.check_containers(checks.Context(plan, work)))
    assert f"remove {plan.results.sentinel(plan.images[0])}" in bad.text


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ({"step_limit": "many"}, finding.BAD, "config.agent.step_limit: 'many' has another type"),
        ({"step_limit": True}, finding.BAD, "True has another type"),
        ({"step_limt": 5}, finding.NOTE, "not among upstream's keys: agent.step_limt"),
        ({"step_limit": 5, "cost_limit": 2}, finding.OK, "config read"),
    ],
)
def test_an_agents_config_is_held_beside_upstreams(
    make_plan: Any, given: dict[str, Any], state: str, words: str
) -> None:
    plan = make_plan(agent={"name": "mini_swe_agent_v2", "config": {"agent": given}})
    work = checks.Work(images=True, runs=plan.runs, evaluations=[])
    found = list(checks.check_agent_config(checks.Context(plan, work)))
    assert {line.state for line in found} == {state}
    assert words in found[0].text


@pytest.mark.docker
def test_what_no_run_could_use_is_told_before_the_first(make_plan: Any) -> None:
    """A missing network and a missing module: each run would break on it."""
    asked = {"containers": {"network": "no-such-network"}, "images": {"free_gb": 0}}
    plan = make_plan(**asked, agent={"name": "some", "external": ["no_such_module.agents", "json"]})
    work = checks.Work(images=False, runs=plan.runs, evaluations=[])
    with pytest.raises(UserError) as told:
        preflight.require_quick(checks.Context(plan, work))
    assert "docker network create no-such-network" in str(told.value)
    assert "the module no_such_module.agents is missing (external, for some)" in str(told.value)
    assert "no module json" not in str(told.value)
