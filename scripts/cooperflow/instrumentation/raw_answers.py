"""Wrapper of httpx that records, completes and corrects the raw answers of models.

litellm drops unknown fields, and fails on a paid answer without usage. All its synchronous
providers use ``httpx.Client.send``, so wrapping this function gives access to every raw answer. The
rules are in `outcomes/provider_answer.py`.
"""

from __future__ import annotations

import functools
import json
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from cooperflow.outcomes import provider_answer
from cooperflow.outcomes.provider_answer import Answer, parse_retry_after

# Assumed bytes per token of an answer without usage, so that an agent's limits still work.
BYTES_PER_TOKEN = 4
# Status that replaces 200 if the answer reports a failure of the provider.
_STATUS = {provider_answer.FAILED: 500, provider_answer.TIMED_OUT: 504}


@dataclass(frozen=True)
class HttpAnswer:
    """One HTTP answer: its status, and its content if the wire format is known."""

    status: int
    answer: Answer | None = None
    retry_after: float | None = None


@dataclass
class RawAnswers:
    """The HTTP answers to this process's calls, by litellm's call id.

    Args:
        return_tool_plan: send Cohere's ``tool_plan`` back with its tool calls.
    """

    return_tool_plan: bool = False
    _current: threading.local = field(default_factory=threading.local)
    _http_answers: dict[str, HttpAnswer] = field(default_factory=dict)
    _plans: dict[str, str] = field(default_factory=dict)  # plan by tool call id

    def start_call(self, call: str) -> None:
        """Record this thread's next answers under ``call``."""
        self._current.call = call

    def take(self, call: str) -> HttpAnswer | None:
        """Remove and return the answer to a call; None without an answer."""
        return self._http_answers.pop(call, None)

    def install(self) -> None:
        """Wrap ``httpx.Client.send`` in this process."""
        send = httpx.Client.send

        @functools.wraps(send)
        def noted_send(client: Any, request: Any, **options: Any) -> Any:
            call = getattr(self._current, "call", None)
            if call is None or options.get("stream") or request.method != "POST":
                return send(client, request, **options)
            response = send(client, self._with_plans(request), **options)
            try:
                return self._read(call, request, response)
            except Exception:  # a paid answer must reach litellm
                traceback.print_exc()
                return response

        httpx.Client.send = noted_send  # type: ignore[method-assign, assignment]

    def _read(self, call: str, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        try:
            document = response.json()
        except (ValueError, UnicodeDecodeError):
            document = None
        answer = provider_answer.read_answer(document) if response.is_success else None
        if answer is not None and (tier := response.headers.get("x-gemini-service-tier")):
            answer = replace(answer, service_tier=tier.lower())
        if answer is None and response.is_success:
            self._http_answers.pop(call, None)  # of an earlier try of the client library
        if answer is not None or response.is_error:
            wait = parse_retry_after(response.headers.get("retry-after"))
            self._http_answers[call] = HttpAnswer(response.status_code, answer, wait)
        if answer is None or not isinstance(document, dict):
            return response
        self._remember_plan(document)
        if answer.failure:
            message = f"the answer's finish_reason is {answer.finish_reason or 'missing'}"
            if not answer.finish_reason and not document.get("choices"):
                message = "the answer has no choices"
            error = {"message": message, "error": {"message": message, "type": "server_error"}}
            return _replaced(response, _STATUS[answer.failure], error)
        completed = _with_usage(document, answer, len(request.content), len(response.content))
        return response if completed is None else _replaced(response, 200, completed)

    def _remember_plan(self, document: Mapping[str, Any]) -> None:
        message = document.get("message")
        if not self.return_tool_plan or not isinstance(message, dict):
            return
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            if message.get("tool_plan") and isinstance(call, dict):
                self._plans[str(call.get("id"))] = str(message["tool_plan"])

    def _with_plans(self, request: httpx.Request) -> httpx.Request:
        """Return the request with the plans of earlier tool calls added to their messages."""
        if not self._plans:
            return request
        try:
            document = json.loads(request.content)
            messages = document["messages"]
        except (ValueError, KeyError, TypeError):
            return request
        changed = False
        for message in messages:
            calls = (message.get("tool_calls") or [{}]) if isinstance(message, dict) else [{}]
            plan = self._plans.get(str(calls[0].get("id")))
            if plan and not message.get("tool_plan"):
                message["tool_plan"], changed = plan, True
        if not changed:
            return request
        return httpx.Request(
            request.method,
            request.url,
            headers=_without_length(request.headers),
            content=json.dumps(document).encode(),
            extensions=request.extensions,
        )


def _with_usage(
    document: dict[str, Any], answer: Answer, request_bytes: int, answer_bytes: int
) -> dict[str, Any] | None:
    """Return the document with the usage that litellm needs added; None if it has usage.

    Only litellm and the agent see the estimate. The call log records that usage was missing.
    """
    billed = answer.billed_input_tokens, answer.billed_output_tokens
    reported = document.get("usage")
    reported = reported if isinstance(reported, dict) else {}
    if answer.wire == provider_answer.COHERE:
        if reported.get("tokens") and answer.has_usage:
            return None
    elif answer.has_usage:
        return None
    if answer.has_billed_units:
        input_tokens, output_tokens = billed
    else:
        input_tokens = max(request_bytes // BYTES_PER_TOKEN, 1)
        output_tokens = max(answer_bytes // BYTES_PER_TOKEN, 1)
    names = {
        provider_answer.COHERE: ("input_tokens", "output_tokens"),
        provider_answer.OPENAI: ("prompt_tokens", "completion_tokens"),
        provider_answer.RESPONSES: ("input_tokens", "output_tokens"),
        provider_answer.ANTHROPIC: ("input_tokens", "output_tokens"),
        provider_answer.GEMINI: ("promptTokenCount", "candidatesTokenCount"),
        provider_answer.BEDROCK: ("inputTokens", "outputTokens"),
    }[answer.wire]
    totals = {
        provider_answer.OPENAI: "total_tokens",
        provider_answer.RESPONSES: "total_tokens",
        provider_answer.GEMINI: "totalTokenCount",
        provider_answer.BEDROCK: "totalTokens",
    }
    usage: dict[str, Any] = {names[0]: input_tokens, names[1]: output_tokens}
    if answer.wire in totals:
        usage[totals[answer.wire]] = (input_tokens or 0) + (output_tokens or 0)
    key = "usageMetadata" if answer.wire == provider_answer.GEMINI else "usage"
    if answer.wire == provider_answer.COHERE:
        usage = {**reported, "tokens": usage}
    return {**document, key: usage}


def _replaced(response: httpx.Response, status: int, document: Mapping[str, Any]) -> httpx.Response:
    replacement = httpx.Response(
        status,
        headers=_without_length(response.headers),
        content=json.dumps(document).encode(),
        request=response.request,
        history=response.history,
        extensions={k: v for k, v in response.extensions.items() if k != "reason_phrase"},
    )
    replacement.elapsed = response.elapsed
    return replacement


def _without_length(headers: httpx.Headers) -> dict[str, str]:
    body_headers = ("content-length", "content-encoding", "transfer-encoding")
    return {name: value for name, value in headers.items() if name.lower() not in body_headers}
