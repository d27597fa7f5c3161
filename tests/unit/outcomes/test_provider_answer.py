"""Answers of providers: tokens and cost of every wire format."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cooperflow.outcomes.provider_answer import (
    Prices,
    cost_of,
    hit_output_limit,
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
        hit_output_limit(answer.finish_reason),
        answer.request_id,
    ) == expected


@pytest.mark.parametrize(
    "document", [None, [], "x", {}, {"error": {"message": "x"}}, {"message": "no api key"}]
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
