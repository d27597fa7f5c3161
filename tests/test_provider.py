"""Real answers of providers: accounting and outcomes, for every wire format."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recorded_calls
from replay_client import DEMO, Server, billed, server

from cooperflow import atomic_io
from cooperflow.analysis import story
from cooperflow.experiment import config, fingerprint, plan
from cooperflow.jobs import eval_job
from cooperflow.layout import RunFolder
from cooperflow.outcomes import usage
from cooperflow.outcomes.judgement import Verdict
from cooperflow.outcomes.provider_answer import Prices, cost_of, read_answer
from cooperflow.session import model_check
from cooperflow.session.finding import NOTE
from cooperflow.upstream import trajectory as upstream
from cooperflow.upstream.trajectory import Entry, Trajectory

sys.path.insert(0, str(DEMO))

from replay.shapes import SHAPES, THOUGHT


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
    asked = recorded_calls.ask(replay, tmp_path / "calls", wire)
    books, line = asked.books, asked.ledger
    assert asked.end["kind"] == ENDS.get(shape or "", usage.ANSWERED), asked.error
    assert (asked.error is None) == (asked.end["kind"] == usage.ANSWERED)
    assert line["answered"]
    assert line["wire"] == wire
    if not line["usage_sent"]:
        assert (books.cost_complete, books.input_tokens) == (False, 0)
        assert books.cost_bound_usd is not None
        assert books.cost_bound_usd >= billed(line)
        return
    assert books.cost_complete
    assert books.cost_usd == pytest.approx(billed(line), abs=1e-9)
    assert books.cost_bound_usd == pytest.approx(books.cost_usd)
    assert asked.records[0]["cost_bound"] >= billed(line)
    expected = [line[f"{kind}_tokens"] for kind in ("cached", "cache_write", "reasoning")]
    assert [books.cached_tokens, books.cache_write_tokens, books.reasoning_tokens] == expected
    if shape != "billed_only":
        told = (books.input_tokens, books.output_tokens)
        assert told == (line["input_tokens"], line["output_tokens"])


@pytest.mark.parametrize("wire", ["cohere", "openai", "anthropic"])
def test_an_answer_without_usage_reaches_the_agent(
    replay: Server, tmp_path: Path, wire: str
) -> None:
    """The agent gets its command, one call is made, and upstream can compute a positive cost."""
    replay.faults({"action": "no_usage"})
    before = len(replay.ledger())
    asked = recorded_calls.ask(replay, tmp_path / "calls", wire)
    assert len(replay.ledger()) == before + 1
    assert asked.answer.choices[0].message.tool_calls
    assert asked.answer.usage.prompt_tokens > 0
    assert asked.answer.usage.completion_tokens > 0
    assert asked.end["usage_reported"] is False


def test_billed_units_alone_count_for_the_agents_own_limits(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "billed_only"})
    asked = recorded_calls.ask(replay, tmp_path / "calls", "cohere")
    assert asked.answer.usage.prompt_tokens == asked.ledger["billed_input_tokens"]


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
    asked = recorded_calls.ask(replay, tmp_path / "calls", wire)
    assert asked.end["finish_reason"] == reason
    assert asked.end["request_id"]
    assert [call.hit_output_limit for call in usage.calls(asked.records)] == [cut]


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
def test_kind_of_a_refused_call(
    replay: Server, tmp_path: Path, wire: str, rule: dict[str, Any], kind: str, sure: bool
) -> None:
    replay.faults(rule)
    asked = recorded_calls.ask(replay, tmp_path / "calls", wire)
    assert asked.end["kind"] == kind
    assert asked.end["retry_after"] == rule.get("retry_after")
    assert asked.books.cost_complete is sure
    if not sure:
        assert asked.books.cost_bound_usd == asked.records[0]["cost_bound"]


def test_litellm_cannot_hide_anthropics_status(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "overloaded"})
    assert recorded_calls.ask(replay, tmp_path / "calls", "anthropic").end["status"] == 529


FULL = Prices(input=1.0, output=10.0, cache_read=0.1, cache_write=1.25, cache_write_1h=2.0)


@pytest.mark.parametrize(
    ("prices", "known", "complete", "bound"),
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
def test_cost_by_prices(prices: Prices, known: float, complete: bool, bound: float | None) -> None:
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
        pytest.approx(known),
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
        answer.was_cut,
        answer.request_id,
    ) == expected


@pytest.mark.parametrize(
    "document", [None, [], "x", {}, {"error": {"message": "x"}}, {"message": "no api key"}]
)
def test_what_is_no_answer_is_not_read(document: object) -> None:
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


def test_call_logs_of_older_versions_are_read() -> None:
    """Lines as commit b9ce344 wrote them: an unpriced answer, a failure, an open call."""
    records: list[dict[str, Any]] = [
        {"event": "start", "id": "a", "time": 1, "thread": "1", "cost_bound": 0.5},
        {"event": "end", "id": "a", "time": 2, "kind": "answered", "input_tokens": 10}
        | {"output_tokens": 2, "cached_tokens": 1, "cost": 0.001, "priced": True},
        {"event": "start", "id": "b", "time": 3, "thread": "1", "cost_bound": 0.5},
        {"event": "end", "id": "b", "time": 4, "kind": "api_timeout", "billed": True},
    ]
    books = usage.total(usage.calls(records))
    assert (books.cost_usd, books.cost_bound_usd, books.cost_complete) == (0.001, 0.501, False)
    assert (books.cache_write_tokens, books.reasoning_tokens) == (0, 0)
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


@pytest.mark.parametrize(("who", "status", "words", "what"), BODIES)
def test_kind_of_a_real_error_body(who: str, status: int, words: str, what: str) -> None:
    """litellm chooses its class by words as well: both that it may raise give the same kind."""
    names = {
        429: ["RateLimitError"],
        500: ["InternalServerError"],
        503: ["ServiceUnavailableError"],
    }
    in_400s = ["BadRequestError", "APIError"]
    if what in ("bad", "context"):
        in_400s.append("ContextWindowExceededError")
    for name in names.get(status, in_400s):
        assert usage.kind_of_error(name, status, words, (name, "HTTPStatusError")) == KINDS[what]
    assert usage.is_output_setting(words) is (what == "bad")


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        (
            "Could not finish the message because max_tokens or model output limit was reached."
            " Please try again with higher max_tokens.",
            True,
        ),
        (
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but"
            " got 1 instead.",
            True,
        ),
        ("max_tokens must be greater than or equal to 2", True),
        ("max_tokens is too large: 99999. This model supports at most 16384", False),
        ("model 'x' not found", False),
        ("invalid api token", False),
    ],
)
def test_what_proves_that_a_model_exists(words: str, accepted: bool) -> None:
    assert usage.proves_model(words) is accepted


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


@pytest.mark.parametrize(
    ("key", "limit", "longest", "hinted"),
    [
        ("max_tokens", 99999, 8000, True),
        ("max_completion_tokens", 8001, 8000, True),
        ("max_tokens", 8000, 8000, False),
        ("max_tokens", 99999, None, False),
        ("temperature", 99999, 8000, False),
    ],
)
def test_preflight_compares_the_output_limit_with_the_models(
    key: str, limit: int, longest: int | None, hinted: bool
) -> None:
    """The one-token call cannot test the limit. A hint, since litellm's list may be wrong."""
    agent = {"config": {"model": {"model_kwargs": {key: limit}}}}
    models = {"m": {"model": "command-a-03-2025"}}
    experiment = first_experiment({"models": models, "agent": agent})
    answer = {"known": True, "kind": usage.ANSWERED, "longest_output": longest}
    lines = list(model_check.explain_answer(experiment, answer))
    hints = [line for line in lines if f"model_kwargs.{key}" in line.text]
    assert [line.state for line in hints] == ([NOTE] if hinted else [])


def test_a_caveat_of_the_run_is_that_of_its_evaluation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    atomic_io.write_json(folder.result, {"workflow": {"cut_answers": 2}})
    verdict = Verdict("pass", caveat="lead_alone")
    assert eval_job._merge_caveats(folder, verdict, ()) == "lead_alone;output_limit"
    atomic_io.write_json(folder.result, {"workflow": {}})  # as commit b9ce344 wrote it
    assert eval_job._merge_caveats(folder, Verdict("fail"), ()) == ""


def test_thoughts_are_on_the_run_page() -> None:
    """By the answer's id in the trajectory; in a run without one, from the call log alone."""
    records = [
        {"event": "end", "id": "a", "thread": "1", "time": 5.0, "kind": "answered"}
        | {"response_id": "r1", "message": {"content": None}, "thought": "I will look first."}
        | {"finish_reason": "MAX_TOKENS", "refusal": "No."},
        # As commit b9ce344 wrote it.
        {"event": "end", "id": "b", "thread": "1", "time": 6.0, "kind": "answered"}
        | {"response_id": "r2", "message": {"content": "Done."}},
    ]
    read = Trajectory(
        "solo",
        entries=tuple(
            Entry(upstream.TURN, text, float(n), answer_id=f"r{n}")
            for n, text in enumerate(["", "Done."], start=1)
        ),
    )
    of_trajectory = story.of_trajectories({"solo": read}, [])
    for version in (
        story.with_raw_answers(of_trajectory, records),
        story.of_calls(records, ["solo"]),
    ):
        first, second = version.events
        assert (first.thought, first.refusal, first.cut) == ("I will look first.", "No.", True)
        assert (second.thought, second.text, second.cut) == ("", "Done.", False)


def test_returning_the_plan_is_in_the_fingerprint() -> None:
    """Documents written before the key existed stay as they are; a change of it is refused."""
    raw: dict[str, Any] = {
        "dataset": {"subset": "flash"},
        "models": {"a": {"model": "command-a-03-2025"}},
        "settings": {"solo": ["--setting", "solo"]},
    }
    asked = []
    for value in (False, True):
        raw["models"]["a"]["return_tool_plan"] = value
        made = plan.make(config.parse(raw))
        asked.append(fingerprint.asked(made.experiments[0], made))
    assert "return_tool_plan" not in asked[0]
    documents = [{"asked": one, "resolved": {}} for one in asked]
    assert fingerprint.fingerprint(documents[0]) != fingerprint.fingerprint(documents[1])
    for before, now in (documents, documents[::-1]):
        assert any("return_tool_plan" in text for text in fingerprint.differences(before, now))
    assert fingerprint.differences(documents[0], documents[0]) == []
