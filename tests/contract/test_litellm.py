"""Facts of litellm: its callback's fields, its exceptions, its names and prices of models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recorded_calls
from replay_client import Server
from replay_client import server as serving

from cooperflow.attempt import child
from cooperflow.outcomes import usage

child.prepare_environment()

import litellm  # noqa: E402

MODEL = "command-a-03-2025"


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


def ask(server: Server, book: Path) -> list[dict[str, Any]]:
    """Make one call as upstream does, and return what the callback wrote of it."""
    return recorded_calls.ask(server, book, "cohere").records


def test_an_end_point_is_the_whole_url(replay: Server, tmp_path: Path) -> None:
    ask(replay, tmp_path / "calls")
    assert [line["wire"] for line in replay.ledger()] == ["cohere"]


def test_a_call_is_told_before_it_is_sent_and_when_it_is_answered(
    replay: Server, tmp_path: Path
) -> None:
    start, end = ask(replay, tmp_path / "calls")
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["id"] == end["id"]
    assert start["thread"] == end["thread"]
    assert start["time"] <= end["time"]


def test_an_answer_is_told_with_tokens_cost_and_tool_calls(replay: Server, tmp_path: Path) -> None:
    _, end = ask(replay, tmp_path / "calls")
    (line,) = replay.ledger()
    assert (end["input_tokens"], end["output_tokens"]) == (
        line["input_tokens"],
        line["output_tokens"],
    )
    assert end["cost"] > 0
    assert end["priced"] is True
    assert end["response_id"]
    (called, *_) = end["message"]["tool_calls"]
    assert "command" in json.loads(called["function"]["arguments"])


def test_a_client_that_is_to_try_once_does(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "unavailable"})
    ask(replay, tmp_path / "calls")
    assert len(replay.ledger()) == 1


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("rate_limited", "RateLimitError"),
        ("server_error", "InternalServerError"),
        ("unavailable", "ServiceUnavailableError"),
        ("unauthorized", "AuthenticationError"),
        ("forbidden", "PermissionDeniedError"),
        ("model_not_found", "NotFoundError"),
        ("context_length", "ContextWindowExceededError"),
        ("empty", "APIConnectionError"),
        ("html", "BadGatewayError"),
    ],
)
def test_class_of_a_failed_call(replay: Server, tmp_path: Path, action: str, name: str) -> None:
    replay.faults({"action": action})
    end = ask(replay, tmp_path / "calls")[-1]
    assert (end["event"], end["error_class"]) == ("end", name)
    assert name in usage._CLASSES


def test_a_refusals_pause_can_be_read(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "rate_limited", "retry_after": 7})
    assert ask(replay, tmp_path / "calls")[-1]["retry_after"] == 7.0


def test_name_and_price_of_the_shipped_model() -> None:
    _, provider, _, _ = litellm.get_llm_provider(MODEL)
    assert provider == "cohere_chat"
    info = litellm.get_model_info(MODEL)
    assert (info["input_cost_per_token"], info["output_cost_per_token"]) == (2.5e-6, 1e-5)


def test_prices_come_from_the_package_and_not_from_the_network() -> None:
    from litellm.litellm_core_utils import get_model_cost_map

    text = Path(get_model_cost_map.__file__).read_text(encoding="utf-8")
    assert "LITELLM_LOCAL_MODEL_COST_MAP" in text
