"""The two wire formats: how a request is read and an answer written, and what counts as a token."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

from .conversation import Message, NotUnderstood
from .recordings import Turn

CHARS_PER_TOKEN = 4
# What a provider adds around every message, so that tokens and billed units differ.
TOKENS_AROUND_MESSAGE = 3
OPENAI_CONTEXT_ERROR = "This model's maximum context length is 4081 tokens."


@dataclass(frozen=True)
class Usage:
    """Tokens of one call, counted from the text; billed units leave out the wrapping."""

    input_tokens: int
    output_tokens: int
    billed_input_tokens: int
    billed_output_tokens: int


@dataclass(frozen=True)
class Request:
    """One request, whatever its format. tool is the name of the tool that runs commands."""

    model: str
    messages: list[Message]
    tool: str | None
    chars: int


@dataclass(frozen=True)
class Answer:
    """What is to be sent: a turn or plain text, its id, and its usage.

    arguments, when set, stands for the JSON text of the tool calls' arguments (to break it).
    """

    id: str
    turn: Turn
    usage: Usage
    model: str
    tool: str = "bash"
    arguments: str | None = None

    def calls(self) -> list[dict[str, Any]]:
        """The tool calls; both formats write them alike."""
        asked = [
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
            for number, (name, arguments) in enumerate([*asked, *self.turn.tools])
        ]


class Wire(Protocol):
    """A wire format."""

    name: str

    def answer(self, answer: Answer) -> dict[str, Any]:
        """The document of an answer."""

    def error(self, status: int, message: str) -> dict[str, Any]:
        """The document of an error."""


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
        return {
            "id": answer.id,
            "finish_reason": "TOOL_CALL" if "tool_calls" in message else "COMPLETE",
            "message": message,
            "usage": {
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


def read_request(data: Any) -> Request:
    """A request from its document; both formats write it nearly alike.

    NotUnderstood when it has no model or no messages, or wants a stream.
    """
    if not isinstance(data, dict):
        raise NotUnderstood("the body is no JSON object")
    model, messages = data.get("model"), data.get("messages")
    if not isinstance(model, str) or not model:
        raise NotUnderstood("'model' is missing")
    if not isinstance(messages, list) or not messages:
        raise NotUnderstood("'messages' is missing or empty")
    if data.get("stream"):
        raise NotUnderstood("streaming ('stream': true) is not spoken here")
    if not all(isinstance(message, dict) for message in messages):
        raise NotUnderstood("a message is no object")
    read = [
        Message(str(message.get("role")), _text(message.get("content"))) for message in messages
    ]
    told = json.dumps([messages, data.get("tools")], ensure_ascii=False, sort_keys=True)
    return Request(model, read, _tool(data.get("tools")), len(told))


def count(request: Request, turn: Turn) -> Usage:
    """The usage of answering the request with the turn: four characters are a token.

    A turn that was recorded with its tokens has these.
    """
    if turn.tokens is not None:
        return Usage(*turn.tokens, *turn.tokens)
    billed_in = -(-request.chars // CHARS_PER_TOKEN)
    said = turn.text + "".join(turn.commands) + "".join(f"{n}{a}" for n, a in turn.tools)
    billed_out = max(1, -(-len(said) // CHARS_PER_TOKEN))
    return Usage(
        input_tokens=billed_in + TOKENS_AROUND_MESSAGE * len(request.messages),
        output_tokens=billed_out + TOKENS_AROUND_MESSAGE,
        billed_input_tokens=billed_in,
        billed_output_tokens=billed_out,
    )


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def _tool(tools: Any) -> str | None:
    """The tool that takes a shell command: bash or terminal, else one with such a parameter."""
    names: list[str] = []
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function", {}) if isinstance(tool, dict) else {}
        properties = (function.get("parameters") or {}).get("properties") or {}
        if "command" in properties:
            names.append(str(function.get("name")))
    known = [name for name in ("bash", "terminal") if name in names]
    return next(iter([*known, *names]), None)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
