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
    total = usage.total(calls)
    assert (total.calls, total.input_tokens, total.output_tokens) == (2, 10, 2)
    assert not total.cost_complete
    assert total.cost_usd == pytest.approx(0.001)
    assert total.cost_bound_usd == pytest.approx(0.501)


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
    assert usage.waiting_seconds(thread, until=100) == 30 + 20 + 30
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
    total = usage.total(calls)
    assert total.input_tokens == sum(a for a, _ in tokens)
    assert total.output_tokens == sum(b for _, b in tokens)
    assert total.cost_complete


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


def test_call_logs_of_older_versions_are_read() -> None:
    """Lines as commit b9ce344 wrote them: an unpriced answer, a failure, an open call."""
    records: list[dict[str, Any]] = [
        {"event": "start", "id": "a", "time": 1, "thread": "1", "cost_bound": 0.5},
        {"event": "end", "id": "a", "time": 2, "kind": "answered", "input_tokens": 10}
        | {"output_tokens": 2, "cached_tokens": 1, "cost": 0.001, "priced": True},
        {"event": "start", "id": "b", "time": 3, "thread": "1", "cost_bound": 0.5},
        {"event": "end", "id": "b", "time": 4, "kind": "api_timeout", "billed": True},
    ]
    total = usage.total(usage.calls(records))
    assert (total.cost_usd, total.cost_bound_usd, total.cost_complete) == (0.001, 0.501, False)
    assert (total.cache_write_tokens, total.reasoning_tokens) == (0, 0)
    assert usage.total(usage.calls(records[:2])).cost_complete


# Error bodies as the providers word them, paraphrased: who, status, words, what it is.
BODIES = [
    # The config asks for more output than the model can write.
    ("cohere", 400, "max tokens must be less than or equal to 8000 - received 99999.", "bad"),
    (
        "cohere",
        400,
        "invalid request: max_tokens must be less than or equal to 4096, the maximum output for"
        " this model - received 5000.",
        "bad",
    ),
    (
        "openai",
        400,
        "max_tokens is too large: 99999. This model supports at most 16384 completion tokens,"
        " whereas you provided 99999.",
        "bad",
    ),
    (
        "anthropic",
        400,
        "max_tokens: 99999 > 64000, which is the maximum allowed number of output tokens for the"
        " model",
        "bad",
    ),
    (
        "vllm",
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 9000 output"
        " tokens and your prompt contains at least 200 input tokens, for a total of 9200 tokens.",
        "bad",
    ),
    (
        "vllm",
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 99999. This model's maximum context"
        " length is 8192 tokens and your request has 100 input tokens (99999 > 8192 - 100).",
        "bad",
    ),
    (
        "gemini",
        400,
        "Unable to submit request because it has a maxOutputTokens value of 99999 but the"
        " supported range is from 1 (inclusive) to 65537 (exclusive). Update the value.",
        "bad",
    ),
    ("mistral", 422, "max_tokens: Input should be less than or equal to 32768", "bad"),
    (
        "bedrock",
        400,
        "The maximum tokens you requested exceeds the model limit of 4096. Try again with a"
        " maximum tokens value that is lower than 4096.",
        "bad",
    ),
    # Other mistakes of a request.
    ("cohere", 400, "invalid request: tool call id not found in previous tool calls", "other"),
    ("openai", 400, "Invalid schema for function 'bash': schema must be an object", "other"),
    # The conversation does not fit into the window.
    (
        "cohere",
        400,
        "too many tokens: total number of tokens in the prompt cannot exceed 256000 - received"
        " 256412. Try using a shorter prompt, or enabling prompt truncating.",
        "context",
    ),
    (
        "cohere",
        400,
        "too many tokens: size limit exceeded by 1200 tokens. Try using shorter or fewer inputs,"
        " or setting prompt_truncation='AUTO'.",
        "context",
    ),
    (
        "openai",
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 9192 tokens"
        " (8192 in the messages, 1000 in the completion). Please reduce the length.",
        "context",
    ),
    ("openai", 400, "Your input exceeds the context window of this model.", "context"),
    (
        "openai",
        400,
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in"
        " 281234 tokens. Please reduce the length of the messages.",
        "context",
    ),
    ("anthropic", 400, "prompt is too long: 208310 tokens > 200000 maximum", "context"),
    (
        "anthropic",
        400,
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease"
        " input length or `max_tokens` and try again",
        "context",
    ),
    (
        "vllm",
        400,
        "This model's maximum context length is 8192 tokens. However, your prompt contains 9001"
        " input tokens. Please reduce the length of the input prompt.",
        "context",
    ),
    (
        "vllm",
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context"
        " length is 8192 tokens and your request has 7900 input tokens (1024 > 8192 - 7900).",
        "context",
    ),
    (
        "gemini",
        400,
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).",
        "context",
    ),
    (
        "mistral",
        400,
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum"
        " context length",
        "context",
    ),
    ("bedrock", 400, "Input is too long for requested model.", "context"),
    # The provider's own failures, and a model that is not ready.
    ("cohere", 422, "no valid tool call or response generated", "unavailable"),
    ("cohere", 499, "request cancelled by the client or the server", "unavailable"),
    ("anthropic", 529, "Overloaded", "busy"),
    ("vllm", 503, "The model is currently loading, please retry", "busy"),
    ("huggingface", 503, "Model my-org/my-model is currently loading", "busy"),
    ("mistral", 500, "Service tier capacity exceeded: the model is overloaded.", "busy"),
    ("gemini", 503, "The model is overloaded. Please try again later.", "busy"),
    ("any", 425, "Too early", "busy"),
    ("bedrock", 429, "Too many tokens, please wait before trying again.", "busy"),
]
KINDS = {
    "bad": usage.BAD_REQUEST,
    "other": usage.BAD_REQUEST,
    "context": usage.CONTEXT,
    "unavailable": usage.API_UNAVAILABLE,
    "busy": usage.RATE_LIMITED,
}


BODIES += [
    # Servers of open models, and providers with words of their own.
    (
        "llama.cpp",
        400,
        "the request exceeds the available context size, try increasing it",
        "context",
    ),
    (
        "tgi",
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"
        " `inputs` tokens and 512 `max_new_tokens`",
        "context",
    ),
    (
        "tgi",
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 50"
        " `inputs` tokens and 9000 `max_new_tokens`",
        "bad",
    ),
    (
        "xai",
        400,
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        "context",
    ),
    (
        "moonshot",
        400,
        "Invalid request: Your request exceeded model token limit: 131072",
        "context",
    ),
    ("zhipu", 400, "Prompt exceeds max length", "context"),
    ("dashscope", 400, "Range of input length should be [1, 129024]", "context"),
    (
        "groq",
        400,
        "Please reduce the length of the messages or completion.",
        "context",
    ),
]


@pytest.mark.parametrize(("provider", "status", "text", "cause"), BODIES)
def test_kind_of_a_real_error_body(provider: str, status: int, text: str, cause: str) -> None:
    """litellm chooses its class by words as well: both that it may raise give the same kind."""
    names = {
        429: ["RateLimitError"],
        500: ["InternalServerError"],
        503: ["ServiceUnavailableError"],
    }
    in_400s = ["BadRequestError", "APIError"]
    if cause in ("bad", "context"):
        in_400s.append("ContextWindowExceededError")
    if status == 422 and cause != "unavailable":
        in_400s = ["UnprocessableEntityError", *in_400s[:1]]
    for name in names.get(status, in_400s):
        assert usage.kind_of_error(name, status, text, (name, "HTTPStatusError")) == KINDS[cause]
    assert usage.is_output_setting(text) is (cause == "bad")


@pytest.mark.parametrize(
    ("name", "status", "text", "kind"),
    [
        # Quotas that do not pass with time, with the status of other errors.
        ("BadRequestError", 400, "Your credit balance is too low to access the API.", "quota"),
        ("BadRequestError", 400, "code: billing_hard_limit_reached", "quota"),
        ("PermissionDeniedError", 403, "Your team has used all available credits", "quota"),
        ("RateLimitError", 429, "type: exceeded_current_quota_error", "quota"),
        ("RateLimitError", 429, "Insufficient balance or no resource package.", "quota"),
        ("APIError", 402, "This request requires more credits, or fewer max_tokens.", "quota"),
        # Google's limits per minute and per day have the same words.
        (
            "RateLimitError",
            429,
            "You exceeded your current quota, please check your plan and billing details. Quota"
            " exceeded for metric: generate_content_paid_tier_input_token_count, limit: 1000000."
            " Please retry in 15.6s. quotaId: GenerateContentInputTokensPerModelPerMinute",
            "rate_limited",
        ),
        (
            "RateLimitError",
            429,
            "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model"
            " with base model: anthropic-claude. Please submit a quota increase request.",
            "rate_limited",
        ),
        (
            "RateLimitError",
            429,
            "You exceeded your current quota. Quota exceeded for metric: generate_requests, limit:"
            " 250. Please retry in 15.6s. quotaId: GenerateRequestsPerDayPerProjectPerModel",
            "quota",
        ),
        # A refused key with status 400, and a refused prompt with status 403.
        ("BadRequestError", 400, "API key expired. Please renew the API key.", "auth"),
        (
            "PermissionDeniedError",
            403,
            "Your chosen model requires moderation and your input was flagged",
            "bad_request",
        ),
        ("RateLimitError", 413, "Request too large on tokens per minute (TPM)", "rate_limited"),
        ("RateLimitError", 429, "suspended, please check your plan and billing details", "quota"),
        # litellm raises BadRequestError for `invalid_request_error`, whatever the status is.
        *(
            ("BadRequestError", status, "type: invalid_request_error", kind)
            for status, kind in (
                (400, "bad_request"),
                (402, "quota"),
                (403, "auth"),
                (404, "model_not_found"),
                (408, "api_timeout"),
                (409, "api_unavailable"),
                (410, "model_not_found"),
                (413, "bad_request"),
                (424, "api_unavailable"),
                (498, "auth"),
            )
        ),
    ],
)
def test_refusals_that_halt_and_refusals_that_pass(
    name: str, status: int, text: str, kind: str
) -> None:
    assert usage.kind_of_error(name, status, text, (name, "HTTPStatusError")) == kind


@pytest.mark.parametrize(
    "cause", ["ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout", "LocalProtocolError"]
)
def test_a_request_that_was_never_sent_costs_nothing(cause: str) -> None:
    causes = ("InternalServerError", "APIConnectionError", cause)
    assert usage.is_surely_unbilled(usage.API_UNAVAILABLE, None, causes)
    assert not usage.is_surely_unbilled(usage.API_UNAVAILABLE, None, (*causes[:2], "ReadError"))


def test_an_answer_that_is_no_json_is_not_a_refusal() -> None:
    """litellm raises BadRequestError with status 422 for such an answer of Gemini or Bedrock."""
    causes = ("BadRequestError", "VertexAIError", "JSONDecodeError")
    assert usage.kind_of_error("BadRequestError", 422, "Expecting value", causes) == (
        usage.API_UNAVAILABLE
    )


def test_an_answer_after_a_failure_of_the_same_call_counts() -> None:
    """A client library that tries again by itself reports both under one id."""
    records = [start("a", 1), failure("a", 2, usage.API_UNAVAILABLE), answer("a", 3)]
    for order in (records, [*records, answer("a", 4)], [records[0], records[2], records[1]]):
        total = usage.total(usage.calls(order))
        assert (total.calls, total.input_tokens, total.cost_usd) == (1, 10, 0.001)


@pytest.mark.parametrize(
    ("reason", "message", "withheld"),
    [
        ("content_filter", {"content": ""}, True),
        ("SAFETY", {"content": None, "tool_calls": None}, True),
        ("refusal", None, True),
        ("guardrail_intervened", {"content": "Sorry"}, True),
        ("refusal", {"tool_calls": [{"id": "1"}]}, False),
        ("stop", {"content": ""}, False),
        ("length", {"content": ""}, False),
        ("", {"content": ""}, False),
    ],
)
def test_withheld_answers(reason: str, message: Any, withheld: bool) -> None:
    end = {**answer("a", 2), "finish_reason": reason, "message": message}
    (call,) = usage.calls([start("a", 1), end])
    assert call.is_withheld is withheld


@pytest.mark.parametrize(
    ("arguments", "unreadable"),
    [
        ('{"command": "ls"}', False),
        ('"{\\"command\\": \\"ls\\"}"', True),
        ("null", True),
        ("5", True),
        ('["command"]', True),
        # Upstream reports these to the model.
        ("", False),
        ("{broken", False),
        (None, False),
    ],
)
def test_tool_calls_that_end_an_agent(arguments: str | None, unreadable: bool) -> None:
    function = {"name": "bash", "arguments": arguments}
    end = {**answer("a", 2), "message": {"tool_calls": [{"id": "1", "function": function}]}}
    (call,) = usage.calls([start("a", 1), end])
    assert call.has_unreadable_command is unreadable
