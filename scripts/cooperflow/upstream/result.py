"""Tokens of upstream's result.json, with one meaning for all agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cooperflow.upstream.trajectory import Tokens

# Anthropic's usage: input_tokens without what was read from or written to the cache.
INPUT_WITHOUT_CACHE = frozenset({"claude_code"})


def tokens(document: Mapping[str, Any]) -> Tokens:
    """Return the tokens of all agents; cached tokens are part of the input."""
    ends = document.get("agents") or {"solo": document.get("agent") or {}}
    total = {"input": 0, "output": 0, "read": 0, "written": 0}
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    for end in ends.values():
        for key, name in zip(total, names, strict=True):
            total[key] += int(end.get(name) or 0)
    separate = document.get("agent_framework") in INPUT_WITHOUT_CACHE
    if separate or total["read"] > total["input"]:
        total["input"] += total["read"] + total["written"]
    return Tokens(total["input"], total["output"], total["read"])
