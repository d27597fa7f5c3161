"""Answers of providers: tokens and cost of every wire format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest

from cooperflow.outcomes.provider_answer import (
    FAILED,
    Prices,
    cost_of,
    has_reached_output_limit,
    is_withheld,
    parse_retry_after,
    read_answer,
)

FULL = Prices(input=1.0, output=10.0, cache_read=0.1, cache_write=1.25, cache_write_1h=2.0)


@pytest.mark.parametrize(
    ("prices", "known_cost", "complete", "bound"),
    [
        (FULL, 50 + 2.0 + 12.5 + 40.0 + 100, True, 204.5),
        # A separate price for reasoning.
        (Prices(1.0, 10.0, 0.1, 1.25, 2.0, reasoning=20.0), 204.5 + 40, True, 244.5),
        # Unknown prices of the cache: known cost without them, and the dearest as the bound.
        (Prices(1.0, 10.0, None, 1.25, 2.0), 202.5, False, 222.5),
        (Prices(1.0, 10.0, 0.1, None, 2.0), 192.0, False, 212.0),
        (Prices(1.0, 10.0, 0.1, 1.25, None), 164.5, False, 204.5),
        # A missing price is not a price of 0.
        (Prices(), 0.0, False, None),
        (Prices(0.0, 0.0, 0.0, 0.0, 0.0), 0.0, True, 0.0),
    ],
)
def test_cost_by_prices(
    prices: Prices, known_cost: float, complete: bool, bound: float | None
) -> None:
    answer = read_answer(
        {
            "type": "message",
            "stop_reason": "end_turn",
            "content": [],
            "usage": {
                "input_tokens": 50,
                "cache_read_input_tokens": 20,
                "cache_creation_input_tokens": 30,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 20,
                },
                "output_tokens": 10,
            },
        }
    )
    assert answer is not None
    assert answer.input_tokens == 100
    if prices.reasoning:
        answer = dataclasses.replace(answer, reasoning_tokens=4)
    cost = cost_of(answer, prices, None, 999.0)
    assert (cost.known, cost.complete, cost.bound) == (
        pytest.approx(known_cost),
        complete,
        None if bound is None else pytest.approx(bound),
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {
                "candidates": [{"finishReason": "MAX_TOKENS", "content": {"parts": []}}],
                "usageMetadata": {
                    "promptTokenCount": 100,
                    "candidatesTokenCount": 5,
                    "thoughtsTokenCount": 7,
                    "cachedContentTokenCount": 60,
                },
                "responseId": "g",
            },
            ("gemini", 100, 12, 60, 0, 7, True, "g"),
        ),
        (
            {
                "output": {"message": {"content": [{"text": "hi"}]}},
                "stopReason": "max_tokens",
                "usage": {
                    "inputTokens": 10,
                    "outputTokens": 5,
                    "cacheReadInputTokens": 20,
                    "cacheWriteInputTokens": 30,
                },
            },
            ("bedrock", 60, 5, 20, 30, 0, True, ""),
        ),
        (
            {
                "id": "resp_1",
                "object": "response",
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "output": [],
                "usage": {
                    "input_tokens": 40,
                    "input_tokens_details": {"cached_tokens": 30},
                    "output_tokens": 20,
                    "output_tokens_details": {"reasoning_tokens": 15},
                },
            },
            ("responses", 40, 20, 30, 0, 15, True, "resp_1"),
        ),
    ],
)
def test_other_wire_formats_are_read(document: dict[str, Any], expected: tuple[Any, ...]) -> None:
    answer = read_answer(document)
    assert answer is not None
    assert (
        answer.wire,
        answer.input_tokens,
        answer.output_tokens,
        answer.cached_tokens,
        answer.cache_write_tokens,
        answer.reasoning_tokens,
        has_reached_output_limit(answer.finish_reason),
        answer.request_id,
    ) == expected


@pytest.mark.parametrize(
    "document",
    [
        *(None, [], "x", {}),
        *({"error": {"message": "x"}}, {"message": "no api key"}),
        # Llama on Bedrock, whose usage litellm reads itself.
        {"generation": "Hi", "prompt_token_count": 5, "stop_reason": "stop"},
    ],
)
def test_other_documents_are_not_answers(document: object) -> None:
    assert read_answer(document) is None


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [None], "usage": 3},
        {"choices": [{"message": "x"}], "usage": {"prompt_tokens": "many"}},
        {"finish_reason": None, "message": [], "usage": []},
        {"stop_reason": None, "content": 7, "usage": None},
        {"candidates": [{"content": None}]},
        {"stopReason": 1, "output": [], "usage": {"inputTokens": True}},
        {"choices": [{}], "usage": {"prompt_tokens": math.nan, "completion_tokens": math.inf}},
        {"choices": [{}], "usage": {"prompt_tokens": -5, "completion_tokens": 10**400}},
        {"candidates": 7, "promptFeedback": [], "usageMetadata": "x"},
    ],
)
def test_a_malformed_answer_has_no_usage(document: dict[str, Any]) -> None:
    answer = read_answer(document)
    assert answer is not None
    assert not answer.has_usage


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        ("1.5", 1.5),
        ("Sat, 28 Nov 2026 01:00:30 GMT", 30.0),
        ("Saturday, 28-Nov-26 01:00:30 GMT", 30.0),
        ("Sat Nov 28 01:00:30 2026", 30.0),
        ("Sat, 28 Nov 2026 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("nan", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, seconds: float | None) -> None:
    now = 1795827600.0  # 2026-11-28 01:00:00 UTC
    assert parse_retry_after(header, now) == seconds


def chat(finish: str = "stop", **usage: Any) -> dict[str, Any]:
    """Return an answer in OpenAI's format."""
    message = {"role": "assistant", "content": "Hi"}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        # xAI: reasoning is beside completion_tokens and in the total.
        (
            {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 340}
            | {"completion_tokens_details": {"reasoning_tokens": 300}},
            (30, 310, 0, 300),
        ),
        # OpenAI: reasoning is part of completion_tokens.
        (
            {"prompt_tokens": 30, "completion_tokens": 310, "total_tokens": 340}
            | {"completion_tokens_details": {"reasoning_tokens": 300}},
            (30, 310, 0, 300),
        ),
        # Gemini's OpenAI-compatible API: thoughts are in the total alone.
        ({"prompt_tokens": 7, "completion_tokens": 12, "total_tokens": 831}, (7, 824, 0, 0)),
        # Moonshot.
        ({"prompt_tokens": 50, "completion_tokens": 5, "cached_tokens": 40}, (50, 5, 40, 0)),
        # A total that has the cached input once more is not output.
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 105}
            | {"prompt_tokens_details": {"cached_tokens": 90}},
            (10, 5, 90, 0),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 0}, (10, 5, 0, 0)),
    ],
)
def test_tokens_of_openai_compatible_apis(
    usage: dict[str, Any], tokens: tuple[int, int, int, int]
) -> None:
    answer = read_answer(chat(**usage))
    assert answer is not None
    assert (
        answer.input_tokens,
        answer.output_tokens,
        answer.cached_tokens,
        answer.reasoning_tokens,
    ) == tokens


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 4}, (9, 9)),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 4}
            | {"totalTokenCount": 18},
            (9, 9),
        ),
        # The candidates' tokens contain the thoughts.
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 9, "thoughtsTokenCount": 4}
            | {"totalTokenCount": 18},
            (9, 9),
        ),
        (
            {"promptTokenCount": 9, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 5}
            | {"totalTokenCount": 17},
            (12, 5),
        ),
    ],
)
def test_tokens_of_gemini(usage: dict[str, int], tokens: tuple[int, int]) -> None:
    answer = read_answer({"candidates": [{}], "usageMetadata": usage})
    assert answer is not None
    assert (answer.input_tokens, answer.output_tokens) == tokens


@pytest.mark.parametrize(
    "document",
    [
        chat("abort"),
        chat("insufficient_system_resource"),
        chat("network_error"),
        {"candidates": [], "usageMetadata": {"promptTokenCount": 9}},
        {"modelVersion": "gemini-3-pro", "usageMetadata": {"promptTokenCount": 9}},
        {"object": "response", "status": "cancelled", "output": []},
    ],
)
def test_failures_in_an_answer_with_status_200(document: dict[str, Any]) -> None:
    answer = read_answer(document)
    assert answer is not None
    assert answer.failure == FAILED


@pytest.mark.parametrize(
    "document",
    [
        chat("content_filter"),
        {"promptFeedback": {"blockReason": "OTHER"}, "modelVersion": "g", "usageMetadata": {}},
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
        {"candidates": [{"finishReason": "SAFETY"}], "usageMetadata": {}},
        {"type": "message", "stop_reason": "refusal", "content": []},
        {"stopReason": "guardrail_intervened", "output": {}, "usage": {}},
    ],
)
def test_withheld_answers_are_no_failures(document: dict[str, Any]) -> None:
    answer = read_answer(document)
    assert answer is not None
    assert is_withheld(answer.finish_reason)
    assert not answer.failure


@pytest.mark.parametrize(
    ("usage", "reported"),
    [
        ({"cost": 0.02}, 0.02),
        ({"cost": 0.0}, 0.0),
        ({"cost": -1}, None),
        ({"cost": math.nan}, None),
        ({"cost": {"total_cost": 0.02}}, None),
        # With the user's provider key: the fee and the provider's price, or else the price list.
        (
            {"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}},
            0.021,
        ),
        ({"cost": 0.001, "is_byok": True}, None),
    ],
)
def test_reported_costs(usage: dict[str, Any], reported: float | None) -> None:
    answer = read_answer(chat(prompt_tokens=1, completion_tokens=1, **usage))
    assert answer is not None
    assert answer.reported_cost == (None if reported is None else pytest.approx(reported))


@pytest.mark.parametrize(
    ("document", "prices", "is_computed"),
    [
        (chat(prompt_tokens=1, completion_tokens=1), FULL, False),
        (chat(prompt_tokens=1, completion_tokens=1) | {"service_tier": "default"}, FULL, False),
        (chat(prompt_tokens=1, completion_tokens=1) | {"service_tier": "flex"}, FULL, True),
        (chat(prompt_tokens=1, completion_tokens=1) | {"service_tier": "ultrafast"}, FULL, True),
        (chat(prompt_tokens=9, completion_tokens=1), dataclasses.replace(FULL, tier=8), True),
        (chat(prompt_tokens=8, completion_tokens=1), dataclasses.replace(FULL, tier=8), False),
        (
            chat(prompt_tokens=1, completion_tokens=1),
            dataclasses.replace(FULL, varies=True),
            True,
        ),
        *(
            (
                chat(prompt_tokens=5, completion_tokens=1, prompt_tokens_details=details),
                FULL,
                is_computed,
            )
            for details, is_computed in (
                ({"audio_tokens": 2}, True),
                ({"image_tokens": 2}, True),
                ({"audio_tokens": 0, "text_tokens": 5}, False),
            )
        ),
        (
            {
                "candidates": [{}],
                "usageMetadata": {
                    "promptTokenCount": 1,
                    "promptTokensDetails": [{"modality": "TEXT"}, {"modality": "IMAGE"}],
                },
            },
            FULL,
            True,
        ),
        (
            {
                "type": "message",
                "usage": {"input_tokens": 1, "server_tool_use": {"web_search_requests": 1}},
            },
            FULL,
            True,
        ),
        (
            {"type": "message", "usage": {"input_tokens": 1, "speed": "fast"}},
            FULL,
            True,
        ),
        (
            {"type": "message", "usage": {"input_tokens": 1, "inference_geo": "us"}},
            FULL,
            True,
        ),
        (
            {"type": "message", "usage": {"input_tokens": 1, "inference_geo": "not_available"}},
            FULL,
            False,
        ),
        (
            {
                "candidates": [{}],
                "usageMetadata": {"promptTokenCount": 1, "trafficType": "ON_DEMAND_PRIORITY"},
            },
            FULL,
            True,
        ),
    ],
)
def test_prices_that_litellm_alone_knows(
    document: dict[str, Any], prices: Prices, is_computed: bool
) -> None:
    answer = read_answer(document)
    assert answer is not None
    assert (cost_of(answer, prices, 77.0, None).known == 77.0) is is_computed


ANSWERS: list[dict[str, Any]] = [
    chat(prompt_tokens=1, prompt_tokens_details={"cached_tokens": 1}, cost=0.1),
    {
        "type": "message",
        "stop_reason": "end_turn",
        "content": [{"type": "thinking", "thinking": "x"}],
        "usage": {"input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 1}},
    },
    {
        "finish_reason": "COMPLETE",
        "message": {"content": [{"type": "text", "text": "Hi"}], "tool_plan": "x"},
        "usage": {"tokens": {"input_tokens": 1}, "billed_units": {"input_tokens": 1}},
    },
    {
        "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
        "promptFeedback": {"blockReason": "x"},
        "usageMetadata": {"promptTokenCount": 1, "totalTokenCount": 1},
    },
    {
        "stopReason": "end_turn",
        "output": {"message": {"content": [{"reasoningContent": {"reasoningText": {}}}]}},
        "serviceTier": {"type": "default"},
        "usage": {"inputTokens": 1},
    },
    {
        "object": "response",
        "status": "completed",
        "output": [{"type": "reasoning", "summary": [{"text": "x"}], "content": []}],
        "usage": {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 1}},
    },
]
STRANGE = (None, True, -1, 10**400, math.nan, math.inf, "x", [], ["x"], [None], [[]], {}, {"x": 1})


def _replaced(value: Any) -> Iterator[Any]:
    """Return copies of a document with one part of it replaced by each strange value."""
    yield from STRANGE
    if not isinstance(value, dict | list):
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        for replacement in _replaced(part):
            copy = value.copy()
            copy[key] = replacement
            yield copy


@pytest.mark.parametrize("document", ANSWERS)
def test_no_answer_is_too_strange(document: dict[str, Any]) -> None:
    """A reader that fails would lose an answer that is paid for."""
    for strange in _replaced(document):
        answer = read_answer(strange)
        if answer is not None:
            cost = cost_of(answer, FULL, None, 1.0)
            assert cost.known >= 0
            assert math.isfinite(cost.known)
