"""Shapes of answers: variants that real providers send and recordings lack.

Each changes the usage (so that the ledger has the billed usage) and the document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .wire import Usage

Document = dict[str, Any]
# Number of a request's tokens that each cache reports.
CACHED, WRITTEN, WRITTEN_1H, REASONED = 40, 24, 8, 20
REPORTED_COST = 0.0123
THOUGHT = "The failing test names the file to look at."


def _same(usage: Usage) -> Usage:
    return usage


@dataclass(frozen=True)
class Shape:
    """One shape: its wire formats, and its changes of the usage and the document.

    usage_sent: whether the client can read the usage.
    """

    wires: frozenset[str]
    document: Callable[[Document], None] = lambda document: None
    usage: Callable[[Usage], Usage] = _same
    usage_sent: bool = True


def _billed_units(usage: Usage) -> Usage:
    billed = usage.input_tokens // 2, usage.output_tokens + 7
    return dataclasses.replace(usage, billed_input_tokens=billed[0], billed_output_tokens=billed[1])


def _cached(usage: Usage) -> Usage:
    return dataclasses.replace(usage, cached_tokens=CACHED)


def _written(usage: Usage) -> Usage:
    return dataclasses.replace(
        usage,
        cached_tokens=CACHED,
        cache_write_tokens=WRITTEN + WRITTEN_1H,
        cache_write_1h_tokens=WRITTEN_1H,
    )


def _reasoned(usage: Usage) -> Usage:
    output = usage.output_tokens + REASONED
    return dataclasses.replace(usage, output_tokens=output, reasoning_tokens=REASONED)


def _reported(usage: Usage) -> Usage:
    return dataclasses.replace(usage, reported_cost=REPORTED_COST)


def _without_usage(document: Document) -> None:
    document.pop("usage")


def _without_tokens(document: Document) -> None:
    document["usage"].pop("tokens")


def _finish(reason: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        if "choices" in document:
            document["choices"][0]["finish_reason"] = reason
        elif "stop_reason" in document:
            document["stop_reason"] = reason
        else:
            document["finish_reason"] = reason

    return change


def _failed(reason: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        _finish(reason)(document)
        if "choices" in document:
            document["choices"][0]["message"] = {"role": "assistant", "content": ""}
        else:
            document["message"] = {"role": "assistant", "content": []}

    return change


def _no_choices(document: Document) -> None:
    document["choices"] = []


def _filtered(document: Document) -> None:
    _failed("content_filter")(document)


def _refused(document: Document) -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    document["choices"][0] |= {"message": message, "finish_reason": "stop"}


def _text_beside_tools(document: Document) -> None:
    document["message"]["content"] = [{"type": "text", "text": THOUGHT}]


def _thinking(document: Document) -> None:
    block = {"type": "thinking", "thinking": THOUGHT}
    if document.get("type") == "message":
        document["content"].insert(0, {**block, "signature": "c2lnbmF0dXJl"})
    elif "choices" in document:
        document["choices"][0]["message"]["reasoning_content"] = THOUGHT
    else:
        message = document["message"]
        message["content"] = [block, *(message.get("content") or [])]


_C, _O, _A = frozenset({"cohere"}), frozenset({"openai"}), frozenset({"anthropic"})
SHAPES: dict[str, Shape] = {
    "billed_units": Shape(_C, usage=_billed_units),
    "billed_only": Shape(_C, _without_tokens, _billed_units),
    "no_usage": Shape(_C | _O | _A, _without_usage, usage_sent=False),
    "finish_error": Shape(_C, _failed("ERROR")),
    "finish_timeout": Shape(_C, _failed("TIMEOUT")),
    "finish_max_tokens": Shape(_C, _finish("MAX_TOKENS")),
    "text_beside_tools": Shape(_C, _text_beside_tools),
    "thinking": Shape(_C | _O | _A, _thinking),
    "cached": Shape(_O, usage=_cached),
    "reasoning": Shape(_O, usage=_reasoned),
    "reported_cost": Shape(_O, usage=_reported),
    "empty_choices": Shape(_O, _no_choices),
    "choice_error": Shape(_O, _failed("error")),
    "content_filter": Shape(_O, _filtered),
    "refusal": Shape(_O, _refused),
    "length": Shape(_O, _finish("length")),
    "cache_writes": Shape(_A, usage=_written),
    "stop_max_tokens": Shape(_A, _finish("max_tokens")),
}
