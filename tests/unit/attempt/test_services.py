"""The message store of a run: its commands, its errors and what its loss means."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path

import pytest
import redis
import synthetic

from cooperflow.attempt import attempt, services
from cooperflow.attempt.attempt import Attempt
from cooperflow.attempt.services import COMMANDS, RedisServer
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import StoreError
from cooperflow.outcomes.judgement import AgentEnd, Evidence, Verdict, judge_run


def test_the_list_has_every_command_of_upstreams_clients() -> None:
    """Read from cooperbench's own source: a method called on a client of redis-py."""
    spec = importlib.util.find_spec("cooperbench")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    call = re.compile(r"(?:\bclient|\b_client|\b_r)\.([a-z]+)\(")
    names = {"delete": "del"}
    methods = set()
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "redis" in text and "openhands-sdk" not in str(path):
            methods |= {names.get(word, word) for word in call.findall(text)}
    other_methods = {"list", "close", "create", "run"}  # methods of other clients
    commands = {
        word for word in methods if hasattr(redis.Redis, word) or word == "del"
    } - other_methods
    assert commands <= set(COMMANDS), commands - set(COMMANDS)
    assert {"rpush", "lpop", "blpop", "hset", "smembers"} <= commands


def test_an_address_of_another_machine_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """As with a rootless engine, whose bridges are in another namespace."""
    with pytest.raises(StoreError, match=r"cannot listen on 192\.0\.2\.77.*rootless.*redis\.url"):
        RedisServer(tmp_path, tmp_path / "log", "192.0.2.77", "secret")


def test_a_store_needs_a_network_with_a_gateway(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    planned = Attempt(plan, plan.runs[0], tmp_path, Labels("r", "run", "t", "o"))
    with contextlib.ExitStack() as stack, pytest.raises(StoreError, match="has no gateway"):
        attempt.start_store(planned, tmp_path, stack, containers.Network("own", None))


@pytest.mark.parametrize(
    "words",
    [
        "could not find an available, non-overlapping IPv4 address pool among the defaults to "
        "assign to the network",
        "all predefined address pools have been fully subnetted",
    ],
)
def test_an_engine_without_address_ranges_gets_advice(words: str) -> None:
    assert containers.explain_shortage(words).startswith(words)
    assert "default-address-pools" in containers.explain_shortage(words)
    assert containers.explain_shortage("permission denied") == "permission denied"


SUBMITTED = (
    AgentEnd("agent1", "Submitted", "", 1, 0.0),
    AgentEnd("agent2", "Submitted", "", 1, 0.0),
)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (
            Evidence(document=False, store_unavailable=True, detail="x"),
            Verdict("infra_error", "redis_unavailable", again=True),
        ),
        (
            Evidence(True, agents=SUBMITTED, redis_died=True, store_ended_by_agent=True),
            Verdict(None),
        ),
        (
            Evidence(
                True,
                agents=(SUBMITTED[0], AgentEnd("agent2", "Error", "Connection refused", 1, 0.0)),
                redis_died=True,
                store_ended_by_agent=True,
            ),
            Verdict(None, "store_ended"),
        ),
        (
            Evidence(False, redis_died=True, store_ended_by_agent=True),
            Verdict("fail", "store_ended"),
        ),
    ],
)
def test_outcome_of_a_run_with_a_lost_store(evidence: Evidence, verdict: Verdict) -> None:
    assert judge_run(evidence) == verdict


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1", ("host.docker.internal", 6379)),
        ("redis://:x@localhost:7/0", ("host.docker.internal", 7)),
        ("rediss://:x@redis.example.org:6380#run:a", ("redis.example.org", 6380)),
        ("redis://172.18.0.1:5", ("172.18.0.1", 5)),
    ],
)
def test_address_of_a_store_inside_containers(url: str, expected: tuple[str, int]) -> None:
    assert services.parse_store_url(url) == expected


def test_a_client_of_the_gateway_decides_neither_server_nor_price() -> None:
    """The key would follow `api_base` to a server of the agent's own."""
    kept = {"messages": [], "tools": [], "temperature": 0, "max_completion_tokens": 5}
    refused = {
        **dict.fromkeys(("api_base", "base_url", "api_key", "api_version"), "http://10.0.0.2"),
        **dict.fromkeys(("organization", "default_headers", "extra_headers", "extra_body"), "x"),
        **dict.fromkeys(("model", "deployment_id", "service_tier", "web_search_options"), "x"),
        **dict.fromkeys(("n", "max_retries", "num_retries", "timeout", "request_timeout"), 9),
        **dict.fromkeys(("stream", "store", "mock_response", "fallbacks"), True),
        "top_p": None,
    }
    assert services.call_parameters(kept | refused) == kept
