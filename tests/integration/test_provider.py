"""Real answers of providers: accounting and outcomes, for every wire format."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recorded_calls
from replay_client import DEMO, Server, billed, server

from cooperflow.experiment import config, plan
from cooperflow.outcomes import usage
from cooperflow.session import model_check
from replay.shapes import SHAPES, THOUGHT

sys.path.insert(0, str(DEMO))


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("provider")) as running:
        yield running


# Wire format, shape of the answer, how the call ended. None: the recording as it is.
CASES = [("cohere", None), ("openai", None), ("anthropic", None)]
CASES += [(wire, name) for name, shape in SHAPES.items() for wire in sorted(shape.wires)]
ENDS = {
    "finish_error": usage.API_UNAVAILABLE,
    "finish_timeout": usage.API_TIMEOUT,
    "empty_choices": usage.API_UNAVAILABLE,
    "choice_error": usage.API_UNAVAILABLE,
}


@pytest.mark.parametrize(("wire", "shape"), CASES)
def test_cost_is_the_ledgers(replay: Server, tmp_path: Path, wire: str, shape: str | None) -> None:
    """Cost, tokens and ending of every shape, against the server's own ledger."""
    replay.faults(*([{"action": shape}] if shape else []))
    exchange = recorded_calls.ask(replay, tmp_path / "calls", wire)
    recorded, line = exchange.usage, exchange.ledger
    assert exchange.end["kind"] == ENDS.get(shape or "", usage.ANSWERED), exchange.error
    assert (exchange.error is None) == (exchange.end["kind"] == usage.ANSWERED)
    assert line["answered"]
    assert line["wire"] == wire
    if not line["usage_sent"]:
        assert (recorded.cost_complete, recorded.input_tokens) == (False, 0)
        assert recorded.cost_bound_usd is not None
        assert recorded.cost_bound_usd >= billed(line)
        return
    assert recorded.cost_complete
    assert recorded.cost_usd == pytest.approx(billed(line), abs=1e-9)
    assert recorded.cost_bound_usd == pytest.approx(recorded.cost_usd)
    assert exchange.records[0]["cost_bound"] >= billed(line)
    expected = [line[f"{kind}_tokens"] for kind in ("cached", "cache_write", "reasoning")]
    assert [
        recorded.cached_tokens,
        recorded.cache_write_tokens,
        recorded.reasoning_tokens,
    ] == expected
    if shape != "billed_only":
        tokens = (recorded.input_tokens, recorded.output_tokens)
        assert tokens == (line["input_tokens"], line["output_tokens"])


@pytest.mark.parametrize("wire", ["cohere", "openai", "anthropic"])
def test_an_answer_without_usage_reaches_the_agent(
    replay: Server, tmp_path: Path, wire: str
) -> None:
    """The agent gets its command, one call is made, and upstream can compute a positive cost."""
    replay.faults({"action": "no_usage"})
    before = len(replay.ledger())
    exchange = recorded_calls.ask(replay, tmp_path / "calls", wire)
    assert len(replay.ledger()) == before + 1
    assert exchange.answer.choices[0].message.tool_calls
    assert exchange.answer.usage.prompt_tokens > 0
    assert exchange.answer.usage.completion_tokens > 0
    assert exchange.end["usage_reported"] is False


def test_billed_units_alone_count_for_the_agents_own_limits(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "billed_only"})
    exchange = recorded_calls.ask(replay, tmp_path / "calls", "cohere")
    assert exchange.answer.usage.prompt_tokens == exchange.ledger["billed_input_tokens"]


@pytest.mark.parametrize(
    ("wire", "shape", "thought"),
    [
        ("cohere", None, "look"),
        ("cohere", "text_beside_tools", THOUGHT),
        ("cohere", "thinking", THOUGHT),
        ("openai", "thinking", THOUGHT),
        ("anthropic", "thinking", THOUGHT),
    ],
)
def test_thoughts_are_in_the_call_log(
    replay: Server, tmp_path: Path, wire: str, shape: str | None, thought: str
) -> None:
    replay.faults(*([{"action": shape}] if shape else []))
    end = recorded_calls.ask(replay, tmp_path / "calls", wire).end
    assert thought in end["thought"]


@pytest.mark.parametrize(
    ("wire", "shape", "reason", "cut"),
    [
        ("cohere", None, "TOOL_CALL", False),
        ("cohere", "finish_max_tokens", "MAX_TOKENS", True),
        ("openai", "length", "length", True),
        ("openai", "content_filter", "content_filter", False),
        ("anthropic", "stop_max_tokens", "max_tokens", True),
    ],
)
def test_the_finish_reason_is_the_providers(
    replay: Server, tmp_path: Path, wire: str, shape: str | None, reason: str, cut: bool
) -> None:
    replay.faults(*([{"action": shape}] if shape else []))
    exchange = recorded_calls.ask(replay, tmp_path / "calls", wire)
    assert exchange.end["finish_reason"] == reason
    assert exchange.end["request_id"]
    assert [call.has_reached_output_limit for call in usage.calls(exchange.records)] == [cut]


def test_a_refusal_is_recorded(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "refusal"})
    assert "cannot help" in recorded_calls.ask(replay, tmp_path / "calls", "openai").end["refusal"]


@pytest.mark.parametrize(
    ("wire", "rule", "kind", "sure"),
    [
        ("cohere", {"action": "unusable_output"}, usage.API_UNAVAILABLE, False),
        ("cohere", {"action": "cancelled"}, usage.API_UNAVAILABLE, False),
        ("cohere", {"action": "output_limit"}, usage.BAD_REQUEST, True),
        ("cohere", {"action": "not_ready"}, usage.RATE_LIMITED, True),
        ("cohere", {"action": "overloaded"}, usage.RATE_LIMITED, True),
        ("anthropic", {"action": "overloaded"}, usage.RATE_LIMITED, True),
        ("openai", {"action": "loading"}, usage.RATE_LIMITED, True),
        ("openai", {"action": "unavailable", "retry_after": 9}, usage.RATE_LIMITED, True),
        ("openai", {"action": "unavailable"}, usage.API_UNAVAILABLE, True),
        ("anthropic", {"action": "unavailable", "retry_after": 9}, usage.RATE_LIMITED, True),
    ],
)
def test_error_kind_of_a_refused_call(
    replay: Server, tmp_path: Path, wire: str, rule: dict[str, Any], kind: str, sure: bool
) -> None:
    replay.faults(rule)
    exchange = recorded_calls.ask(replay, tmp_path / "calls", wire)
    assert exchange.end["kind"] == kind
    assert exchange.end["retry_after"] == rule.get("retry_after")
    assert exchange.usage.cost_complete is sure
    if not sure:
        assert exchange.usage.cost_bound_usd == exchange.records[0]["cost_bound"]


def test_litellm_cannot_hide_anthropics_status(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "overloaded"})
    assert recorded_calls.ask(replay, tmp_path / "calls", "anthropic").end["status"] == 529


def first_experiment(raw: dict[str, Any]) -> plan.Experiment:
    settings = {"solo": ["--setting", "solo"]}
    base: dict[str, Any] = {"dataset": {"subset": "flash"}, "settings": settings}
    return plan.make(config.parse({**base, **raw})).experiments[0]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"action": "no_usage"}, "at an unknown price"),
        (
            {
                "action": "context_length",
                "message": "Could not finish the message because max_tokens or model output limit"
                " was reached.",
            },
            "at an unknown price",
        ),
    ],
)
def test_preflight_accepts_what_proves_the_model(
    replay: Server, rule: dict[str, Any], words: str
) -> None:
    """The probe's one token: no usage, or too few tokens to finish, both prove key and model."""
    replay.faults({**rule, "match": {"probe": True}})
    base = {"api_base": f"{replay.url}/v2/chat"}
    answer = model_check.probe("command-a-03-2025", "x", base, call=True)
    assert answer["kind"] == usage.ANSWERED, answer
    experiment = first_experiment({"models": {"m": {"model": "command-a-03-2025", **base}}})
    lines = [line.text for line in model_check.explain_answer(experiment, answer)]
    assert any(words in line for line in lines)
