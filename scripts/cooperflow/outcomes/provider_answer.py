"""A provider's raw answer: its usage, its finish reason and its cost, for every wire format. Pure.

litellm passes on a common subset. The raw document also holds billed units, cache writes, the
reason why an answer ended, and the model's reasoning.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COHERE = "cohere"
OPENAI = "openai"
RESPONSES = "responses"  # OpenAI's newer API; litellm uses it for some models
ANTHROPIC = "anthropic"
GEMINI = "gemini"
BEDROCK = "bedrock"

# Finish reasons of an answer with HTTP 200 that is a failure of the provider, by kind.
FAILED = "failed"
TIMED_OUT = "timed_out"
_FAILURES = {"error": FAILED, "timeout": TIMED_OUT}
# Finish reasons of an answer that was cut at the limit of output tokens.
_OUTPUT_LIMITS = frozenset({"max_tokens", "length", "max_output_tokens"})
# Service tiers with different prices.
_TIERS = ("flex", "priority", "batch")
# Upper bound of a cache write whose price is unknown, relative to the input price. The dearest
# published price is Anthropic's for one hour: twice the input.
DEAREST_WRITE = 2.0


@dataclass(frozen=True)
class Answer:
    """One raw answer. Tokens are None where the provider reported none.

    Args:
        input_tokens: all input, cache reads and cache writes included.
        cache_write_tokens: all of them; those kept for one hour are cache_write_1h_tokens.
        reasoning_tokens: part of the output.
        reported_cost: USD, as the provider itself computed it.
        failure: ``failed`` or ``timed_out`` where the answer is an error in disguise.
        thought: plans and reasoning beside the answer's text.
    """

    wire: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    billed_input_tokens: int | None = None
    billed_output_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    finish_reason: str = ""
    request_id: str = ""
    reported_cost: float | None = None
    service_tier: str = ""
    failure: str = ""
    thought: str = ""
    text: str = ""
    refusal: str = ""

    @property
    def has_usage(self) -> bool:
        return self.input_tokens is not None

    @property
    def has_billed_units(self) -> bool:
        return self.billed_input_tokens is not None


def parse_retry_after(header: str | None, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date (RFC 9110).

    None without a header, or if its value is neither.
    """
    with contextlib.suppress(ValueError):
        seconds = float(header or "")
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        moment = email.utils.parsedate_to_datetime(header or "")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return max(moment.timestamp() - (time.time() if now is None else now), 0.0)
    return None


def hit_output_limit(finish_reason: str) -> bool:
    return finish_reason.lower() in _OUTPUT_LIMITS


def read_answer(document: object) -> Answer | None:
    """Return what a provider's answer reports; None where its format is unknown or an error's."""
    if not isinstance(document, Mapping):
        return None
    if isinstance(document.get("choices"), list):
        return _openai(document)
    if document.get("type") == "message" or "stop_reason" in document:
        return _anthropic(document)
    if "finish_reason" in document and ("message" in document or "usage" in document):
        return _cohere(document)
    if "candidates" in document or "usageMetadata" in document:
        return _gemini(document)
    if "stopReason" in document:
        return _bedrock(document)
    if document.get("object") == "response":
        return _responses(document)
    return None


def _cohere(document: Mapping[str, Any]) -> Answer:
    usage = _mapping(document.get("usage"))
    tokens, billed = _mapping(usage.get("tokens")), _mapping(usage.get("billed_units"))
    message = _mapping(document.get("message"))
    finish = str(document.get("finish_reason") or "")
    parts = _parts(message.get("content"))
    has_text = bool(message.get("tool_calls")) and _texts(parts)
    thought = _joined(
        [str(message.get("tool_plan") or ""), *_thinking(parts), *(has_text or [])],
    )
    counted = tokens if "input_tokens" in tokens else billed
    return Answer(
        COHERE,
        input_tokens=_count(counted, "input_tokens"),
        output_tokens=_count(counted, "output_tokens"),
        billed_input_tokens=_count(billed, "input_tokens"),
        billed_output_tokens=_count(billed, "output_tokens"),
        cached_tokens=_count(usage, "cached_tokens") or 0,
        finish_reason=finish,
        request_id=str(document.get("id") or ""),
        failure=_FAILURES.get(finish.lower(), ""),
        thought=thought,
        text=_joined(_texts(parts)),
    )


def _openai(document: Mapping[str, Any]) -> Answer:
    usage = _mapping(document.get("usage"))
    input_details = _mapping(usage.get("prompt_tokens_details"))
    output_details = _mapping(usage.get("completion_tokens_details"))
    choices = [c for c in document["choices"] if isinstance(c, Mapping)]
    choice = choices[0] if choices else {}
    message = _mapping(choice.get("message"))
    finish = str(choice.get("finish_reason") or "")
    failure = FAILED if not choices or choice.get("error") else _FAILURES.get(finish.lower(), "")
    parts = _parts(message.get("content"))
    thought = str(message.get("reasoning_content") or message.get("reasoning") or "")
    cost = _number(usage.get("cost"))
    # With the user's provider key, OpenRouter's `cost` is its fee, without the provider's price.
    own_key = _number(_mapping(usage.get("cost_details")).get("upstream_inference_cost"))
    extra = own_key if usage.get("is_byok") and own_key else 0.0
    return Answer(
        OPENAI,
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        # DeepSeek's field, if the common field is missing.
        cached_tokens=_count(input_details, "cached_tokens")
        or _count(usage, "prompt_cache_hit_tokens")
        or 0,
        cache_write_tokens=_count(input_details, "cache_write_tokens")
        or _count(input_details, "cache_creation_tokens")
        or 0,
        reasoning_tokens=_count(output_details, "reasoning_tokens") or 0,
        finish_reason=finish,
        request_id=str(document.get("id") or ""),
        reported_cost=None if cost is None else cost + extra,
        service_tier=str(document.get("service_tier") or ""),
        failure=failure,
        thought=_joined([thought, *_thinking(parts)]),
        text=_joined(_texts(parts)),
        refusal=str(message.get("refusal") or ""),
    )


def _anthropic(document: Mapping[str, Any]) -> Answer:
    usage = _mapping(document.get("usage"))
    fresh = _count(usage, "input_tokens")
    reads = _count(usage, "cache_read_input_tokens") or 0
    cache_writes = _mapping(usage.get("cache_creation"))
    hour = _count(cache_writes, "ephemeral_1h_input_tokens") or 0
    minutes = _count(cache_writes, "ephemeral_5m_input_tokens") or 0
    writes = max(_count(usage, "cache_creation_input_tokens") or 0, hour + minutes)
    parts = _parts(document.get("content"))
    return Answer(
        ANTHROPIC,
        input_tokens=None if fresh is None else fresh + reads + writes,
        output_tokens=_count(usage, "output_tokens") or (None if fresh is None else 0),
        cached_tokens=reads,
        cache_write_tokens=writes,
        cache_write_1h_tokens=hour,
        finish_reason=str(document.get("stop_reason") or ""),
        request_id=str(document.get("id") or ""),
        service_tier=str(usage.get("service_tier") or ""),
        thought=_joined(_thinking(parts)),
        text=_joined(_texts(parts)),
    )


def _gemini(document: Mapping[str, Any]) -> Answer:
    usage = _mapping(document.get("usageMetadata"))
    candidates = [c for c in document.get("candidates") or [] if isinstance(c, Mapping)]
    candidate = candidates[0] if candidates else {}
    parts = _parts(_mapping(candidate.get("content")).get("parts"))
    thinking = _count(usage, "thoughtsTokenCount") or 0
    read = _count(usage, "promptTokenCount")
    return Answer(
        GEMINI,
        input_tokens=read,
        output_tokens=None
        if read is None
        else (_count(usage, "candidatesTokenCount") or 0) + thinking,
        cached_tokens=_count(usage, "cachedContentTokenCount") or 0,
        reasoning_tokens=thinking,
        finish_reason=str(candidate.get("finishReason") or ""),
        request_id=str(document.get("responseId") or ""),
        thought=_joined([str(p.get("text") or "") for p in parts if p.get("thought")]),
        text=_joined([str(p.get("text") or "") for p in parts if not p.get("thought")]),
    )


def _bedrock(document: Mapping[str, Any]) -> Answer:
    usage = _mapping(document.get("usage"))
    fresh = _count(usage, "inputTokens")
    reads = _count(usage, "cacheReadInputTokens") or 0
    writes = _count(usage, "cacheWriteInputTokens") or 0
    message = _mapping(_mapping(document.get("output")).get("message"))
    parts = _parts(message.get("content"))
    reasons = [_mapping(_mapping(p.get("reasoningContent")).get("reasoningText")) for p in parts]
    return Answer(
        BEDROCK,
        input_tokens=None if fresh is None else fresh + reads + writes,
        output_tokens=_count(usage, "outputTokens"),
        cached_tokens=reads,
        cache_write_tokens=writes,
        finish_reason=str(document.get("stopReason") or ""),
        thought=_joined([str(r.get("text") or "") for r in reasons]),
        text=_joined([str(p.get("text") or "") for p in parts]),
    )


def _responses(document: Mapping[str, Any]) -> Answer:
    usage = _mapping(document.get("usage"))
    incomplete_reason = str(_mapping(document.get("incomplete_details")).get("reason") or "")
    items = _parts(document.get("output"))
    summaries = [p for i in items if i.get("type") == "reasoning" for p in _parts(i.get("summary"))]
    status = str(document.get("status") or "")
    return Answer(
        RESPONSES,
        input_tokens=_count(usage, "input_tokens"),
        output_tokens=_count(usage, "output_tokens"),
        cached_tokens=_count(_mapping(usage.get("input_tokens_details")), "cached_tokens") or 0,
        reasoning_tokens=_count(_mapping(usage.get("output_tokens_details")), "reasoning_tokens")
        or 0,
        finish_reason=incomplete_reason or status,
        request_id=str(document.get("id") or ""),
        service_tier=str(document.get("service_tier") or ""),
        failure=FAILED if status == "failed" else "",
        thought=_joined([str(p.get("text") or "") for p in summaries]),
        text=_joined(
            [str(p.get("text") or "") for i in items for p in _parts(i.get("content"))],
        ),
    )


@dataclass(frozen=True)
class Prices:
    """Prices of a model, USD per token; None: unknown."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None  # None: as other output
    tier: int | None = None  # above this number of input tokens other prices hold

    @property
    def dearest_input(self) -> float | None:
        """The most that one token of input can cost."""
        if self.input is None:
            return None
        writes = [self.cache_write, self.cache_write_1h]
        return max([self.input, *(price for price in writes if price is not None)])

    @property
    def dearest_output(self) -> float | None:
        return None if self.output is None else max(self.output, self.reasoning or 0.0)


@dataclass(frozen=True)
class Cost:
    """Known cost and its upper bound, USD; bound None: unbounded. complete: nothing is missing."""

    known: float
    complete: bool
    bound: float | None


def cost_of(answer: Answer, prices: Prices, computed: float | None, request: float | None) -> Cost:
    """Return what an answer cost.

    Args:
        computed: litellm's figure, for prices that depend on more than the kind of token.
        request: upper bound of the call, from its size before it was sent.
    """
    if answer.reported_cost is not None:
        return Cost(answer.reported_cost, True, answer.reported_cost)
    if not answer.has_usage or answer.output_tokens is None:
        return Cost(0.0, False, request)
    if computed and (prices.input is None or prices.output is None):
        return Cost(computed, True, computed)  # litellm has a price that `prices` lacks
    if answer.has_billed_units:
        return _plain(prices, answer.billed_input_tokens or 0, answer.billed_output_tokens or 0)
    assert answer.input_tokens is not None
    tiered = prices.tier is not None and answer.input_tokens > prices.tier
    if computed is not None and (tiered or answer.service_tier in _TIERS):
        return Cost(computed, True, computed)
    reads, hour = answer.cached_tokens, answer.cache_write_1h_tokens
    minutes = answer.cache_write_tokens - hour
    fresh = max(answer.input_tokens - reads - answer.cache_write_tokens, 0)
    thinking = answer.reasoning_tokens if prices.reasoning is not None else 0
    parts = [
        _Part(fresh, prices.input, None),
        _Part(reads, prices.cache_read, prices.input),
        _Part(minutes, prices.cache_write, _times(prices.input, DEAREST_WRITE)),
        _Part(hour, prices.cache_write_1h, _times(prices.input, DEAREST_WRITE)),
        _Part(answer.output_tokens - thinking, prices.output, None),
        _Part(thinking, prices.reasoning, None),
    ]
    return _sum(parts)


@dataclass(frozen=True)
class _Part:
    tokens: int
    price: float | None
    at_most: float | None  # where the price is unknown


def _plain(prices: Prices, input_tokens: int, output_tokens: int) -> Cost:
    return _sum(
        [_Part(input_tokens, prices.input, None), _Part(output_tokens, prices.output, None)]
    )


def _sum(parts: Sequence[_Part]) -> Cost:
    billed_parts = [part for part in parts if part.tokens > 0]
    known = sum(part.tokens * part.price for part in billed_parts if part.price is not None)
    most = [part.at_most if part.price is None else part.price for part in billed_parts]
    bound: float | None = 0.0
    for part, price in zip(billed_parts, most, strict=True):
        bound = None if bound is None or price is None else bound + part.tokens * price
    return Cost(float(known), all(part.price is not None for part in billed_parts), bound)


def _times(price: float | None, factor: float) -> float | None:
    return None if price is None else price * factor


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parts(content: object) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [p for p in content if isinstance(p, Mapping)] if isinstance(content, list) else []


def _texts(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(part.get("text") or "") for part in parts if part.get("type", "text") == "text"]


def _thinking(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the thinking blocks; Mistral nests a list of parts in each."""
    texts = []
    for part in parts:
        inner = part.get("thinking")
        if isinstance(inner, list):
            texts += _texts(_parts(inner))
        elif inner:
            texts.append(str(inner))
    return texts


def _joined(texts: Sequence[str]) -> str:
    return "\n\n".join(text for text in texts if text.strip())


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _count(holder: Mapping[str, Any], key: str) -> int | None:
    number = _number(holder.get(key))
    return None if number is None else max(int(number), 0)
