"""The preflight with a real engine and a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import replay_client

from cooperflow import atomic_io
from cooperflow.errors import UserError
from cooperflow.experiment.config_schema import Model
from cooperflow.session import checks, model_check, session_start

COHERE = Model(model="command-a-03-2025", api_key="COHERE_API_KEY")


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The replay server; gives its base URL and its ledger."""
    folder = tmp_path_factory.mktemp("replay")
    options = ("--script", _a_script(), "--dataset", str(replay_client.DATASET))
    with replay_client.server(folder, *options) as server:
        yield server.url, server.ledger_file


def _a_script() -> str:
    from replay.scripts import SCRIPTS

    return sorted(SCRIPTS)[0]


@pytest.mark.slow
@pytest.mark.xdist_group("a real call")  # one replay server for all
@pytest.mark.parametrize(
    ("model", "path"),
    [("command-a-03-2025", "/v2/chat"), ("openai/some-model", "/v1")],
)
def test_a_real_call_reaches_the_end_point(replay: tuple[str, Path], model: str, path: str) -> None:
    url, ledger = replay
    before = len(ledger.read_text().splitlines()) if ledger.exists() else 0
    base = {"api_base": url + path}
    answer = model_check.probe(model, "key-of-the-test", base, call=True)
    assert answer["known"], answer
    assert answer["called"], answer
    assert len(ledger.read_text().splitlines()) == before + 1
    assert "key-of-the-test" not in str(answer)


@pytest.mark.docker
@pytest.mark.slow
def test_the_full_preflight_of_the_demo(make_plan: Any) -> None:
    plan = make_plan(images={"pull": False, "free_gb": 0})
    work = checks.Work(images=True, runs=plan.runs, evaluations=[])
    lines = list(session_start.run_checks(checks.Context(plan, work)))
    assert not session_start.failed_checks(lines), lines
    assert {"daemon", "limits", "clock", "images", "open files", "disk", "data set", "agent"} <= {
        line.name for line in lines
    }
    assert os.environ.get("COHERE_API_KEY") is None or "COHERE" not in str(lines)


@pytest.mark.docker
def test_a_changed_image_is_reported(make_plan: Any) -> None:
    plan = make_plan(images={"pull": False, "free_gb": 0})
    atomic_io.write_json(plan.results.sentinel(plan.images[0]), {"id": "sha256:other"})
    work = checks.Work(images=True, runs=plan.runs, evaluations=[])
    (bad,) = session_start.failed_checks(checks.check_containers(checks.Context(plan, work)))
    assert f"remove {plan.results.sentinel(plan.images[0])}" in bad.text


@pytest.mark.docker
def test_unusable_settings_are_reported_before_the_first_run(make_plan: Any) -> None:
    """A missing network and a missing module, which would break every run."""
    keys = {"containers": {"network": "no-such-network"}, "images": {"free_gb": 0}}
    plan = make_plan(**keys, agent={"name": "some", "external": ["no_such_module.agents", "json"]})
    work = checks.Work(images=False, runs=plan.runs, evaluations=[])
    with pytest.raises(UserError) as raised:
        session_start.require_quick(checks.Context(plan, work))
    assert "docker network create no-such-network" in str(raised.value)
    assert "the module no_such_module.agents is missing (external, for some)" in str(raised.value)
    assert "no module json" not in str(raised.value)
