"""The HTTP server: answers requests, with delays, faults and ledger lines."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .conversation import Conversation, InvalidRequest, conversation_id, parse_conversation
from .delays import Delay
from .faults import STATUS_ACTIONS, Faults, Rule
from .judge import Judge
from .ledger import Entry, Ledger
from .players import Player, UnknownConversation, summary_of, turn_at
from .recordings import Role, Turn
from .shapes import SHAPES
from .wire import Answer, Anthropic, Cohere, OpenAI, Request, Usage, Wire, count, read_request

NO_USAGE = Usage(0, 0, 0, 0)
MAX_REQUEST_BYTES = 64 * 1024 * 1024
HUGE_BYTES = 5 * 1024 * 1024
# Longest wait of an answer for earlier turns of other agents in the recording, seconds.
PATIENCE = 120


@dataclass
class Call:
    """A call in progress, with the data for its ledger line."""

    http: web.Request
    wire: Wire
    request: Request | None = None
    conversation: Conversation | None = None
    role: Role | None = None
    name: str | None = None
    fault: str | None = None
    error: str | None = None
    usage_sent: bool = True

    def entry(self, status: int, usage: Usage, answered: bool) -> Entry:
        """Return the ledger line of this call."""
        role, conversation = self.role, self.conversation
        return Entry(
            time=round(time.time(), 6),
            conversation=self.name,
            repo=role.repo if role else None,
            task=role.task if role else None,
            features=role.features if role else (),
            kind=role.kind if role else None,
            agent=role.agent if role else None,
            step=conversation.step if conversation else None,
            purpose="summary" if conversation and conversation.summary else "turn",
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            billed_input_tokens=usage.billed_input_tokens,
            billed_output_tokens=usage.billed_output_tokens,
            status=status,
            model=self.request.model if self.request else "",
            wire=self.wire.name,
            fault=self.fault,
            answered=answered,
            error=self.error,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            reported_cost=usage.reported_cost,
            usage_sent=self.usage_sent,
        )


@dataclass
class Replay:
    """The server's state: player, delay, active faults and ledger."""

    player: Player
    ledger: Ledger
    delay: Delay = field(default_factory=Delay)
    faults: Faults = field(default_factory=lambda: Faults([]))
    judge: Judge = field(default_factory=Judge)
    waiting_calls: int = 0
    # Number of turns that each agent of a pair has requested.
    requested: dict[tuple[str, int, str, str], int] = field(default_factory=dict)

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post("/v2/chat", self._chat(Cohere()))
        app.router.add_post("/v1/chat/completions", self._chat(OpenAI()))
        app.router.add_post("/v1/messages", self._chat(Anthropic()))
        app.router.add_put("/_control/faults", self._put_faults)
        app.router.add_get("/_control/faults", self._get_faults)
        app.router.add_get("/_control/ledger", self._get_ledger)
        app.router.add_get("/_control/stats", self._get_stats)
        return app

    # Requests for a model

    def _chat(self, wire: Wire) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def chat(http: web.Request) -> web.StreamResponse:
            self.waiting_calls += 1
            try:
                return await self._answer(Call(http, wire))
            finally:
                self.waiting_calls -= 1

        return chat

    async def _answer(self, call: Call) -> web.StreamResponse:
        key = call.http.headers.get("x-api-key") or call.http.headers.get("Authorization", "")
        if not key.removeprefix("Bearer").strip():
            return await self._error(call, 401, "no api key supplied")
        try:
            document = json.loads(await call.http.text())
            call.request = request = read_request(document)
            if document.get("max_tokens") == 1:
                return await self._probe(call, request)
            if verdict := self.judge.turn(request.messages):
                return await self._judge(call, request, verdict)
            call.conversation = conversation = parse_conversation(request.messages)
            role, turns = self.player.find(conversation)
        except (InvalidRequest, ValueError) as error:
            return await self._error(call, 400, f"replay: {error}")
        except UnknownConversation as error:
            return await self._error(call, 404, f"replay: {error}")
        call.role, call.name = role, conversation_id(role)

        rule = self.faults.next_rule(role, call.name, conversation.step)
        call.fault = rule.action if rule else None
        if rule and rule.action == "refuse":
            return self._cut(call)
        if rule and rule.action == "hang":
            return await self._hang(call)
        await asyncio.sleep(self.delay.seconds(call.name, conversation.step))
        if rule and rule.action in STATUS_ACTIONS:
            return await self._status(call, rule)
        if not conversation.summary:
            self._record_request(role, conversation.step)
            await self._order(role, turn_at(turns, conversation.step))
        if conversation.summary:
            turn = summary_of(conversation, turns)
        elif rule and rule.action == "override":
            turn = rule.override(conversation.step)
        else:
            turn = turn_at(turns, conversation.step)
        if turn.full:
            return await self._error(call, *STATUS_ACTIONS["context_length"])
        return await self._turn(call, turn, rule)

    def _record_request(self, role: Role, step: int) -> None:
        key = (role.repo, role.task, role.kind, role.agent)
        self.requested[key] = max(self.requested.get(key, 0), step + 1)

    async def _order(self, role: Role, turn: Turn) -> None:
        """Delay a turn until the other agents have progressed as far as in the recording.

        An agent then finds the same messages and pushed branches as in the recording.
        """
        deadline = time.monotonic() + PATIENCE
        for agent, turns in turn.after:
            key = (role.repo, role.task, role.kind, agent)
            while self.requested.get(key, 0) < turns and time.monotonic() < deadline:
                await asyncio.sleep(0.01)

    async def _probe(self, call: Call, request: Request) -> web.StreamResponse:
        """Answer a call of one token, by which a client tests its key, without a recording."""
        rule = self.faults.next_probe_rule()
        call.fault = rule.action if rule else None
        if rule and rule.action in STATUS_ACTIONS:
            return await self._status(call, rule)
        turn = Turn("Hello", ())
        answer = Answer("probe", turn, count(request, turn), request.model, request.tool or "bash")
        answer, document = _shaped(call, answer)
        return await self._send(call, _json(document), answer.usage)

    async def _judge(self, call: Call, request: Request, turn: Turn) -> web.StreamResponse:
        """Answer a request of the judge, which does not belong to a recorded conversation."""
        rule = self.faults.next_probe_rule()
        call.fault = rule.action if rule else None
        if rule and rule.action in STATUS_ACTIONS:
            return await self._status(call, rule)
        answer = Answer("judge", turn, count(request, turn), request.model, request.tool or "bash")
        answer, document = _shaped(call, answer)
        return await self._send(call, _json(document), answer.usage)

    async def _turn(self, call: Call, turn: Turn, rule: Rule | None) -> web.StreamResponse:
        """Send the turn, with the fault of a rule if there is one."""
        assert call.request is not None and call.conversation is not None
        answer = Answer(
            id=_answer_id(call),
            turn=turn,
            usage=count(call.request, turn),
            model=call.request.model,
            tool=call.request.tool or "bash",
        )
        action = rule.action if rule else ""
        parameters = rule.parameters if rule else {}
        if action == "bad_arguments":
            answer = dataclasses.replace(answer, arguments='{"command": "ls')
        elif action == "huge":
            answer = dataclasses.replace(answer, turn=_padded(turn, parameters))
        answer, document = _shaped(call, answer)
        body = _json(document)
        if action == "truncated":
            return await self._send(call, body[: len(body) // 2], NO_USAGE)
        if action == "empty":
            return await self._send(call, b"", NO_USAGE, status=parameters.get("status", 200))
        if action == "html":
            page = b"<html><head><title>502 Bad Gateway</title></head></html>"
            status = parameters.get("status", 502)
            return await self._send(call, page, NO_USAGE, status=status, content_type="text/html")
        if action == "hang_mid":
            return await self._hang(call, body)
        drip = float(parameters.get("seconds", 0.05)) if action == "drip" else None
        return await self._send(call, body, answer.usage, drip=drip)

    async def _status(self, call: Call, rule: Rule) -> web.StreamResponse:
        """Send an error status, with the provider's message unless the rule has one."""
        assert call.request is not None
        status, words = STATUS_ACTIONS[rule.action]
        words = str(rule.parameters.get("message", words)).replace("{model}", call.request.model)
        headers = {}
        if "retry_after" in rule.parameters:
            headers["Retry-After"] = str(rule.parameters["retry_after"])
        return await self._error(call, int(rule.parameters.get("status", status)), words, headers)

    async def _error(
        self, call: Call, status: int, message: str, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        call.error = message
        body = _json(call.wire.error(status, message))
        return await self._send(call, body, NO_USAGE, status=status, headers=headers)

    async def _send(
        self,
        call: Call,
        body: bytes,
        usage: Usage,
        status: int = 200,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
        drip: float | None = None,
    ) -> web.StreamResponse:
        """Send the body, with its last byte only after the ledger line is on disk.

        drip: pause before each byte of the body, seconds.
        """
        response = web.StreamResponse(status=status, headers=headers)
        response.content_type = content_type
        response.content_length = len(body)
        complete = usage is not NO_USAGE
        is_written = False
        try:
            await response.prepare(call.http)
            if drip is None:
                await response.write(body[:-1])
            else:
                for at in range(len(body) - 1):
                    await response.write(body[at : at + 1])
                    await asyncio.sleep(drip)
            if _gone(call.http):
                raise ConnectionResetError("the client has gone")
            self.ledger.write(call.entry(status, usage, complete))
            is_written = True
            await response.write(body[-1:])
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError) as error:
            if not is_written:
                call.error = call.error or f"not delivered: {error or 'the server ends'}"
                self.ledger.write(call.entry(status, NO_USAGE, False))
            if isinstance(error, asyncio.CancelledError):
                raise
        return response

    def _cut(self, call: Call) -> web.StreamResponse:
        """Close the connection without an answer."""
        self.ledger.write(call.entry(0, NO_USAGE, False))
        if call.http.transport is not None:
            call.http.transport.abort()
        return web.Response()

    async def _hang(self, call: Call, body: bytes = b"") -> web.StreamResponse:
        """Send half of the body, or nothing, and then wait until the client disconnects."""
        response = web.StreamResponse()
        if body:
            response.content_type = "application/json"
            response.content_length = len(body)
            await response.prepare(call.http)
            await response.write(body[: len(body) // 2])
        self.ledger.write(call.entry(200 if body else 0, NO_USAGE, False))
        while not _gone(call.http):
            await asyncio.sleep(0.5)
        return response

    # Control by tests

    async def _put_faults(self, http: web.Request) -> web.Response:
        try:
            self.faults = Faults.from_json(json.loads(await http.text()))
        except ValueError as error:
            return web.json_response({"message": str(error)}, status=400)
        return web.json_response(self.faults.to_json())

    async def _get_faults(self, http: web.Request) -> web.Response:
        return web.json_response(self.faults.to_json())

    async def _get_ledger(self, http: web.Request) -> web.Response:
        return web.json_response([Ledger.line(entry) for entry in self.ledger.entries])

    async def _get_stats(self, http: web.Request) -> web.Response:
        return web.json_response({**self.ledger.stats(), "waiting": self.waiting_calls})


def _shaped(call: Call, answer: Answer) -> tuple[Answer, dict[str, Any]]:
    """Return the answer and its document, in the shape that the fault demands if any."""
    shape = SHAPES.get(call.fault or "")
    if shape is None or call.wire.name not in shape.wires:
        return answer, call.wire.answer(answer)
    answer = dataclasses.replace(answer, usage=shape.usage(answer.usage))
    document = call.wire.answer(answer)
    shape.document(document)
    call.usage_sent = shape.usage_sent
    return answer, document


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _answer_id(call: Call) -> str:
    """Return an answer id that depends only on the conversation and the step."""
    assert call.conversation is not None
    purpose = "summary" if call.conversation.summary else "turn"
    text = f"{call.name}|{call.conversation.step}|{purpose}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _padded(turn: Turn, parameters: dict[str, Any]) -> Turn:
    """Return the turn with a huge text or last command, which the token count ignores."""
    filling = "x" * int(parameters.get("bytes", HUGE_BYTES))
    if parameters.get("where") == "command" and turn.commands:
        return Turn(turn.text, (*turn.commands[:-1], f"{turn.commands[-1]} # {filling}"))
    return Turn(turn.text + filling, turn.commands)


def _gone(http: web.Request) -> bool:
    """Return whether the client has closed the connection."""
    return http.transport is None or http.transport.is_closing()
