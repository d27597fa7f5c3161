"""Raw answers of providers: usage, finish reason and cost, for each wire format.

litellm passes on only a common subset of fields. The raw answer also contains billed units, cache
writes, the original finish reason and the model's reasoning. All functions are pure.
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

# Finish reasons that make an answer with HTTP 200 a failure of the provider, by kind.
FAILED = "failed"
TIMED_OUT = "timed_out"
_FAILURES = {
    "error": FAILED,
    "timeout": TIMED_OUT,
    "abort": FAILED,  # vLLM and SGLang, for a request that their engine dropped
    "insufficient_system_resource": FAILED,  # DeepSeek
    "network_error": FAILED,  # Zhipu
}
# Finish reasons of an answer that was cut at the limit of output tokens.
_OUTPUT_LIMITS = frozenset({"max_tokens", "length", "max_output_tokens", "model_length"})
# Finish reasons of an answer that the provider's content filter withheld, in lower case.
_WITHHELD = frozenset(
    {"content_filter", "sensitive", "refusal"}  # OpenAI and Azure, Zhipu, Anthropic
    | {"content_filtered", "guardrail_intervened"}  # Bedrock
    | {"safety", "recitation", "blocklist", "prohibited_content", "spii"}  # Gemini
    | {"image_safety", "model_armor", "jailbreak", "blocked"}
)
# Service tiers at the usual prices; litellm has the prices of other tiers.
_USUAL_TIERS = ("", "default", "standard", "auto", "scale", "on_demand")
# Service tiers in Gemini's words.
_TRAFFIC = {
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "FLEX": "flex",
    "BATCH": "batch",
}
# Upper bound of a cache write whose price is unknown, relative to the input price. The dearest
# published price is Anthropic's for one hour: twice the input.
DEAREST_WRITE = 2.0


@dataclass(frozen=True)
class Answer:
    """One raw answer. Numbers of tokens are None if the provider did not report them.

    Args:
        input_tokens: all input, cache reads and cache writes included.
        cache_write_tokens: all cache writes; cache_write_1h_tokens are those kept for one hour.
        reasoning_tokens: part of the output.
        has_extras: the call used audio, images or searches, which have other prices than text.
        service_tier: ``fast`` and ``regional`` are Anthropic's surcharges for speed and region.
        reported_cost: USD, as the provider itself computed it.
        failure: ``failed`` or ``timed_out`` if the answer reports an error, otherwise empty.
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
    has_extras: bool = False
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

    The result is None without a valid header.
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


def has_reached_output_limit(finish_reason: str) -> bool:
    return finish_reason.lower() in _OUTPUT_LIMITS


def is_withheld(finish_reason: str) -> bool:
    """Return whether the provider's content filter withheld the answer."""
    return finish_reason.lower() in _WITHHELD


def read_answer(document: object) -> Answer | None:
    """Return the contents of a provider's answer; None for an error or an unknown format."""
    if not isinstance(document, Mapping):
        return None
    if isinstance(document.get("choices"), list):
        return _openai(document)
    # Other models on Bedrock also have a stop_reason.
    if document.get("type") == "message" or {"stop_reason", "content"} <= document.keys():
        return _anthropic(document)
    if "finish_reason" in document and ("message" in document or "usage" in document):
        return _cohere(document)
    if {"candidates", "usageMetadata", "promptFeedback"} & document.keys():
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
    cost = _amount(usage.get("cost"))
    # With a user's own provider key, OpenRouter's `cost` is its fee without the provider's price.
    # If one of them is missing, the price list decides.
    own_key = _amount(_mapping(usage.get("cost_details")).get("upstream_inference_cost"))
    if usage.get("is_byok"):
        cost = None if cost is None or own_key is None else cost + own_key
    # The fields of DeepSeek and Moonshot, if the common field is missing.
    cached = (
        _count(input_details, "cached_tokens")
        or _count(usage, "prompt_cache_hit_tokens")
        or _count(usage, "cached_tokens")
        or 0
    )
    return Answer(
        OPENAI,
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_openai_output(usage, cached),
        cached_tokens=cached,
        cache_write_tokens=_count(input_details, "cache_write_tokens")
        or _count(input_details, "cache_creation_tokens")
        or 0,
        reasoning_tokens=_count(output_details, "reasoning_tokens") or 0,
        finish_reason=finish,
        request_id=str(document.get("id") or ""),
        reported_cost=cost,
        service_tier=str(document.get("service_tier") or ""),
        has_extras=any(
            _count(details, f"{kind}_tokens")
            for details in (input_details, output_details)
            for kind in ("audio", "image")
        ),
        failure=failure,
        thought=_joined([thought, *_thinking(parts)]),
        text=_joined(_texts(parts)),
        refusal=str(message.get("refusal") or ""),
    )


def _openai_output(usage: Mapping[str, Any], cached: int) -> int | None:
    """Return the output tokens, with reasoning that a provider counts only in the total.

    xAI, and Gemini's OpenAI-compatible API, leave it out of completion_tokens but charge for it.
    """
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens")
    # With more cached tokens than input, the total may contain the cached input once more.
    if read is None or written is None or total is None or cached > read:
        return written
    return max(written, total - read)


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
        service_tier=_anthropic_tier(usage),
        has_extras=bool(_count(_mapping(usage.get("server_tool_use")), "web_search_requests")),
        thought=_joined(_thinking(parts)),
        text=_joined(_texts(parts)),
    )


def _anthropic_tier(usage: Mapping[str, Any]) -> str:
    if usage.get("speed") == "fast":
        return "fast"
    place = str(usage.get("inference_geo") or "global").lower()
    is_anywhere = place in ("global", "not_available")
    return str(usage.get("service_tier") or "") if is_anywhere else "regional"


def _gemini(document: Mapping[str, Any]) -> Answer:
    usage = _mapping(document.get("usageMetadata"))
    candidates = _parts(document.get("candidates"))
    candidate = candidates[0] if candidates else {}
    parts = _parts(_mapping(candidate.get("content")).get("parts"))
    thinking = _count(usage, "thoughtsTokenCount") or 0
    written = _count(usage, "candidatesTokenCount") or 0
    read = _count(usage, "promptTokenCount")
    if read is not None:
        read += _count(usage, "toolUsePromptTokenCount") or 0
        # Some models count their thoughts among the candidates' tokens as well.
        written += 0 if _count(usage, "totalTokenCount") == read + written else thinking
    blocked = str(_mapping(document.get("promptFeedback")).get("blockReason") or "")
    if blocked and not is_withheld(blocked):
        blocked = "BLOCKED"  # "OTHER" is also a reason of answers that are not withheld
    is_generated = "candidates" in document or "modelVersion" in document
    return Answer(
        GEMINI,
        input_tokens=read,
        output_tokens=None if read is None else written,
        cached_tokens=_count(usage, "cachedContentTokenCount") or 0,
        reasoning_tokens=thinking,
        finish_reason=blocked or str(candidate.get("finishReason") or ""),
        request_id=str(document.get("responseId") or ""),
        service_tier=_TRAFFIC.get(str(usage.get("trafficType") or ""), ""),
        has_extras=any(
            part.get("modality", "TEXT") != "TEXT"
            for key in ("promptTokensDetails", "candidatesTokensDetails")
            for part in _parts(usage.get(key))
        ),
        failure=FAILED if is_generated and not candidates and not blocked else "",
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
        service_tier=str(_mapping(document.get("serviceTier")).get("type") or ""),
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
        failure=FAILED if status in ("failed", "cancelled") else "",
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
    tier: int | None = None  # number of input tokens above which other prices apply
    varies: bool = False  # other prices apply at some times of the day


@dataclass(frozen=True)
class Cost:
    """Known cost of a call and an upper bound, USD. bound None: unbounded."""

    known: float
    complete: bool
    bound: float | None


def cost_of(answer: Answer, prices: Prices, computed: float | None, request: float | None) -> Cost:
    """Return the cost of an answer.

    Args:
        computed: cost according to litellm, for prices that depend on more than the token type.
        request: upper bound of the call, computed from its size before it was sent.
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
    is_usual = answer.service_tier.lower() in _USUAL_TIERS
    is_usual = is_usual and not (tiered or prices.varies or answer.has_extras)
    if computed is not None and not is_usual:
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


def _amount(value: object) -> float | None:
    """Return a number of at least 0; None for anything else, such as NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with contextlib.suppress(OverflowError):  # an integer beyond the range of a float
        return float(value) if math.isfinite(value) and value >= 0 else None
    return None


def _count(holder: Mapping[str, Any], key: str) -> int | None:
    number = _amount(holder.get(key))
    return None if number is None else int(number)
