"""The three wire formats: parsing of requests, formatting of answers, counting of tokens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

from .conversation import InvalidRequest, Message
from .recordings import Turn

CHARS_PER_TOKEN = 4
# Tokens that a provider adds to every message, so that tokens and billed units differ.
TOKENS_AROUND_MESSAGE = 3
OPENAI_CONTEXT_ERROR = "This model's maximum context length is 4081 tokens."


@dataclass(frozen=True)
class Usage:
    """Tokens of one call, counted from the text. Billed units exclude a message's extra tokens.

    Cache reads and writes are part of the input, reasoning is part of the output.
    """

    input_tokens: int
    output_tokens: int
    billed_input_tokens: int
    billed_output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    reported_cost: float | None = None


@dataclass(frozen=True)
class Request:
    """The contents of a request in any format. tool: name of the tool that runs commands."""

    model: str
    messages: list[Message]
    tool: str | None
    chars: int


@dataclass(frozen=True)
class Answer:
    """Content of an answer: a turn, its id, and its usage.

    arguments: if set, replaces the JSON text of the tool calls' arguments, to break it.
    """

    id: str
    turn: Turn
    usage: Usage
    model: str
    tool: str = "bash"
    arguments: str | None = None

    def calls(self) -> list[dict[str, Any]]:
        """Return the tool calls in the form of Cohere and OpenAI."""
        commands = [
            (self.tool, json.dumps({"command": command}, ensure_ascii=False))
            for command in self.turn.commands
        ]
        return [
            {
                "id": f"call_{self.id}_{number}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": self.arguments if self.arguments is not None else arguments,
                },
            }
            for number, (name, arguments) in enumerate([*commands, *self.turn.tools])
        ]


class Wire(Protocol):
    """A wire format."""

    name: str

    def answer(self, answer: Answer) -> dict[str, Any]:
        """Return the document of an answer."""

    def error(self, status: int, message: str) -> dict[str, Any]:
        """Return the document of an error."""


class Cohere:
    """Cohere's v2 chat, as litellm's provider cohere_chat sends and reads it."""

    name = "cohere"

    def answer(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant"}
        if answer.turn.commands or answer.turn.tools:
            message["tool_plan"] = answer.turn.text
            message["tool_calls"] = answer.calls()
        else:
            message["content"] = [{"type": "text", "text": answer.turn.text}]
        usage = answer.usage
        cached = {"cached_tokens": usage.cached_tokens} if usage.cached_tokens else {}
        return {
            "id": answer.id,
            "finish_reason": "TOOL_CALL" if "tool_calls" in message else "COMPLETE",
            "message": message,
            "usage": {
                **cached,
                "billed_units": {
                    "input_tokens": usage.billed_input_tokens,
                    "output_tokens": usage.billed_output_tokens,
                },
                "tokens": {
                    "input_tokens": usage.input_tokens,
                    "output_tokens": usage.output_tokens,
                },
            },
        }

    def error(self, status: int, message: str) -> dict[str, Any]:
        return {"id": _short_hash(f"{status} {message}"), "message": message}


class OpenAI:
    """OpenAI's chat completions."""

    name = "openai"

    def answer(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.turn.text or None}
        if answer.turn.commands or answer.turn.tools:
            message["tool_calls"] = answer.calls()
        usage = answer.usage
        return {
            "id": f"chatcmpl-{answer.id}",
            "object": "chat.completion",
            "created": 0,
            "model": answer.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                **_openai_details(usage),
            },
        }

    def error(self, status: int, message: str) -> dict[str, Any]:
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        codes = {401: "invalid_api_key", 404: "model_not_found"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        code = codes.get(status)
        if "too many tokens" in message:
            message, code = f"{OPENAI_CONTEXT_ERROR} ({message})", "context_length_exceeded"
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Anthropic:
    """Anthropic's messages."""

    name = "anthropic"

    def answer(self, answer: Answer) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if answer.turn.text:
            content.append({"type": "text", "text": answer.turn.text})
        for call in answer.calls():
            called = call["function"]
            content.append(
                {
                    "type": "tool_use",
                    "id": call["id"],
                    "name": called["name"],
                    "input": {} if answer.arguments else json.loads(called["arguments"]),
                }
            )
        usage = answer.usage
        hour = usage.cache_write_1h_tokens
        return {
            "id": f"msg_{answer.id}",
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": content,
            "stop_reason": "tool_use" if answer.calls() else "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
                "output_tokens": usage.output_tokens,
                "cache_read_input_tokens": usage.cached_tokens,
                "cache_creation_input_tokens": usage.cache_write_tokens,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": usage.cache_write_tokens - hour,
                    "ephemeral_1h_input_tokens": hour,
                },
            },
        }

    def error(self, status: int, message: str) -> dict[str, Any]:
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kinds |= {429: "rate_limit_error", 529: "overloaded_error"}
        kind = kinds.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}


def _openai_details(usage: Usage) -> dict[str, Any]:
    """Return the optional parts of OpenAI's usage."""
    document: dict[str, Any] = {}
    if usage.cached_tokens:
        document["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens:
        document["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.reported_cost is not None:
        document["cost"] = usage.reported_cost
    return document


def read_request(data: Any) -> Request:
    """Parse the document of a request, which is similar in all formats.

    InvalidRequest if it has no model or no messages, or requests a stream.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("the body is not a JSON object")
    model, messages = data.get("model"), data.get("messages")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' is missing")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' is missing or empty")
    if data.get("stream"):
        raise InvalidRequest("streaming ('stream': true) is not supported")
    if not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("a message is not an object")
    parsed = [Message(_role(message), _text(message.get("content"))) for message in messages]
    if data.get("system"):  # Anthropic's
        parsed.insert(0, Message("system", _text(data["system"])))
    document = json.dumps([messages, data.get("tools")], ensure_ascii=False, sort_keys=True)
    return Request(model, parsed, _tool(data.get("tools")), len(document))


def count(request: Request, turn: Turn) -> Usage:
    """Return the usage of an answer with the turn, with four characters per token.

    If the turn was recorded with tokens, these are used.
    """
    if turn.tokens is not None:
        return Usage(*turn.tokens[:2], *(turn.tokens[2:] or turn.tokens))
    billed_in = -(-request.chars // CHARS_PER_TOKEN)
    text = turn.text + "".join(turn.commands) + "".join(f"{n}{a}" for n, a in turn.tools)
    billed_out = max(1, -(-len(text) // CHARS_PER_TOKEN))
    return Usage(
        input_tokens=billed_in + TOKENS_AROUND_MESSAGE * len(request.messages),
        output_tokens=billed_out + TOKENS_AROUND_MESSAGE,
        billed_input_tokens=billed_in,
        billed_output_tokens=billed_out,
    )


def _role(message: dict[str, Any]) -> str:
    """Return the role of a message; Anthropic's tool results are in messages of the user."""
    content = message.get("content")
    parts = (
        [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    )
    results = any(part.get("type") == "tool_result" for part in parts)
    return "tool" if results else str(message.get("role"))


def _text(content: Any) -> str:
    """Return the text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def _tool(tools: Any) -> str | None:
    """Return the tool for shell commands: bash or terminal, or else one with such a parameter."""
    names: list[str] = []
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        schema = function.get("parameters") or function.get("input_schema") or {}
        properties = schema.get("properties") or {}
        if "command" in properties:
            names.append(str(function.get("name")))
    shells = [name for name in ("bash", "terminal") if name in names]
    return next(iter([*shells, *names]), None)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
