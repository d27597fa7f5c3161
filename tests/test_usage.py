"""Usage: sums, bounds, kinds of errors, and time spent waiting."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cooperflow.outcomes import usage
from cooperflow.outcomes.usage import Call


def start(call: str, time: float, thread: str = "1", bound: float = 0.5) -> dict[str, Any]:
    return {"event": "start", "id": call, "time": time, "thread": thread, "cost_bound": bound}


def answer(call: str, time: float, tokens: tuple[int, int] = (10, 2)) -> dict[str, Any]:
    return {
        "event": "end",
        "id": call,
        "time": time,
        "kind": "answered",
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "cost": 0.001,
    }


def failure(call: str, time: float, kind: str, billed: bool = False) -> dict[str, Any]:
    return {"event": "end", "id": call, "time": time, "kind": kind, "billed": billed}


def test_a_call_without_an_end_makes_the_cost_incomplete_and_bounds_it() -> None:
    calls = usage.calls([start("a", 1), answer("a", 2), start("b", 3)])
    books = usage.total(calls)
    assert (books.calls, books.input_tokens, books.output_tokens) == (2, 10, 2)
    assert not books.cost_complete
    assert books.cost_usd == pytest.approx(0.001)
    assert books.cost_bound_usd == pytest.approx(0.501)


def test_a_refused_call_costs_nothing() -> None:
    calls = usage.calls([start("a", 1), failure("a", 2, usage.RATE_LIMITED)])
    assert usage.total(calls).cost_complete
    assert usage.total(calls).cost_bound_usd == 0


def test_the_end_may_be_recorded_before_the_start_is_read() -> None:
    assert usage.calls([answer("a", 2), start("a", 1)]) == usage.calls(
        [start("a", 1), answer("a", 2)]
    )


def test_waiting_counts_a_failed_call_with_the_pause_after_it() -> None:
    thread = usage.calls(
        [
            start("a", 0),
            answer("a", 5),
            start("b", 10),
            failure("b", 11, usage.RATE_LIMITED),
            start("c", 40),
            failure("c", 41, usage.API_UNAVAILABLE),
            start("d", 60),
            answer("d", 65),
            start("e", 70),
        ]
    )
    assert usage.waited(thread, until=100) == 30 + 20 + 30
    assert usage.model_seconds(thread) == 10


def test_the_order_of_calls_does_not_change_their_cost() -> None:
    """Two agents' calls end in any order; a sum at the edge of a rounding must not differ."""
    calls = [Call(str(cost), "1", 0, 1, usage.ANSWERED, cost=cost) for cost in (0.1, 0.2, 0.3)]
    assert usage.total(calls).cost_usd == usage.total(calls[::-1]).cost_usd == 0.6
    assert usage.total(calls).cost_bound_usd == usage.total(calls[::-1]).cost_bound_usd == 0.6


def test_threads_are_agents() -> None:
    calls = usage.calls([start("a", 0, "1"), start("b", 1, "2"), start("c", 2, "1")])
    assert [[c.id for c in thread] for thread in usage.threads(calls)] == [["a", "c"], ["b"]]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5))))
def test_sums_are_sums(tokens: list[tuple[int, int]]) -> None:
    calls = [Call(str(i), "1", i, i + 1.0, usage.ANSWERED, a, b) for i, (a, b) in enumerate(tokens)]
    books = usage.total(calls)
    assert books.input_tokens == sum(a for a, _ in tokens)
    assert books.output_tokens == sum(b for _, b in tokens)
    assert books.cost_complete


@pytest.mark.parametrize(
    ("name", "status", "message", "causes", "kind"),
    [
        ("AuthenticationError", 401, "invalid api token", (), "auth"),
        ("PermissionDeniedError", 403, "no permission", (), "auth"),
        ("NotFoundError", 404, "model 'x' not found", (), "model_not_found"),
        ("RateLimitError", 429, "past the per minute limit", (), "rate_limited"),
        ("RateLimitError", 429, "limited to 40 API calls / minute", (), "rate_limited"),
        ("RateLimitError", 429, "limited to 1000 API calls / month", (), "quota"),
        ("RateLimitError", 429, "code: insufficient_quota", (), "quota"),
        ("APIError", 402, "Please add or update your payment method", (), "quota"),
        ("Timeout", 408, "timed out", (), "api_timeout"),
        ("ServiceUnavailableError", 503, "", (), "api_unavailable"),
        ("InternalServerError", 500, "", (), "api_unavailable"),
        ("APIConnectionError", 500, "x", ("APIConnectionError", "ConnectError"), "api_unavailable"),
        ("APIConnectionError", 500, "x", ("APIConnectionError", "ReadTimeout"), "api_timeout"),
        ("ContextWindowExceededError", 400, "", (), "context"),
        ("BadRequestError", 400, "too many tokens: total number of tokens", (), "context"),
        ("BadRequestError", 400, "invalid tool call", (), "bad_request"),
        ("SomethingNew", None, "", (), "api_unavailable"),
    ],
)
def test_kind_of_error(
    name: str, status: int | None, message: str, causes: tuple[str, ...], kind: str
) -> None:
    assert usage.kind_of_error(name, status, message, causes) == kind
