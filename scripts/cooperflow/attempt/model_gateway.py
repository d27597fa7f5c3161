"""A run's own way to its model: OpenAI's chat completions on one address, litellm behind it.

Containers that call the model themselves get its address and a token that is good for this run
alone. The provider's key stays in this process, which writes every call down as it begins and
as it ends, and dies with the run.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cooperflow import processes
from cooperflow.attempt import child_process
from cooperflow.instrumentation.rate_limit import RateLimit
from cooperflow.outcomes import usage

PATH = "/v1/chat/completions"
# A longer request is no conversation, bytes.
LONGEST = 64 << 20
_NAME = re.compile(r"[\w-]{1,40}")


@dataclass(frozen=True)
class Upstream:
    """The model behind a gateway and what goes with every call."""

    model: str
    key: str | None
    kwargs: Mapping[str, Any]  # laid over what a client asks for: api_base, timeout, ...
    tries: int  # so many failures of an agent in a row, and it is told to give up
    calls: Path  # where calls are recorded
    pace: RateLimit | None = None  # each call waits for its turn
    return_tool_plan: bool = False  # send Cohere's tool_plan back with its tool calls


class Gateway:
    """A gateway that listens on ``address`` and serves whoever has ``token``.

    What follows a slash behind the token names the agent; without it its address does.
    """

    def __init__(self, address: str, token: str, upstream: Upstream, log: Path) -> None:
        """Fork it.

        Raises:
            OSError: ``address`` is none of this machine's.
        """
        listener = socket.create_server((address, 0), backlog=64)
        self.url = f"http://{address}:{listener.getsockname()[1]}/v1"
        self.process = child_process.fork(log, lambda: _serve(listener, token, upstream), _leave)
        self._ended = False
        listener.close()

    @property
    def died(self) -> bool:
        if not self._ended:
            self._ended = os.waitpid(self.process, os.WNOHANG)[0] != 0
        return self._ended

    def end(self, seconds: float = 10.0) -> None:
        """End it: asked first, so that the last answer is written down, then killed."""
        if not self.died:
            processes.end_fork(self.process, seconds)
            self._ended = True


def _leave(number: int, frame: object) -> None:
    raise SystemExit(0)


def _serve(listener: socket.socket, token: str, upstream: Upstream) -> int:
    child_process.prepare_environment()
    from cooperflow.instrumentation import call_log

    # A handler's thread has the name of the agent that it serves.
    call_log.install(
        upstream.calls,
        upstream.key,
        upstream.pace,
        lambda: threading.current_thread().name,
        upstream.return_tool_plan,
    )
    server = _Server(listener.getsockname()[:2], _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.token, server.model = token, _Model(upstream)
    server.serve_forever()
    return 0


@dataclass
class _Model:
    upstream: Upstream
    failures: Counter[str] = field(default_factory=Counter)  # in a row, by agent

    def complete(self, agent: str, asked: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and the document of an answer."""
        import litellm

        known = set(litellm.OPENAI_CHAT_COMPLETION_PARAMS) | {"messages"}
        kept = {k: v for k, v in asked.items() if k in known and v is not None}
        for ours in ("model", "stream", "stream_options", "api_key", "base_url", "extra_headers"):
            kept.pop(ours, None)
        own = self.upstream
        try:
            answer = litellm.completion(
                model=own.model, api_key=own.key, drop_params=True, **{**kept, **own.kwargs}
            )
        except Exception as error:
            self.failures[agent] += 1
            return self._refusal(agent, error)
        self.failures[agent] = 0
        document: dict[str, Any] = answer.model_dump()
        return 200, document

    def _refusal(self, agent: str, error: Exception) -> tuple[int, dict[str, Any]]:
        from cooperflow.instrumentation import call_log

        status, message = call_log.status_of(error) or 500, str(error)
        kind = call_log.failure_of(error, None)[0]
        if kind in usage.WAITING and status != 429 and status < 500:
            status = 503  # 425, 499 and the like are not tried again by every client
        # A client tries again after a 429 or 5xx; where that is in vain it is told a 403.
        if kind == usage.QUOTA or self.failures[agent] >= self.upstream.tries:
            status = 403
        return status, _error(type(error).__name__, message)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    token: str
    model: _Model


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        given, _, name = given.partition("/")
        agent = name if _NAME.fullmatch(name) else str(self.client_address[0])
        threading.current_thread().name = agent
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST:
            self.close_connection = True
            return self._send(413, _error("too_large", f"more than {LONGEST} bytes"))
        body = self.rfile.read(length)
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            return self._send(401, _error("token", "this run's token is another one"))
        if self.path != PATH:
            return self._send(404, _error("path", f"only {PATH} is served, not {self.path}"))
        try:
            asked = json.loads(body)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return self._send(400, _error("body", "it is no JSON object"))
        if asked.get("stream"):
            return self._send(400, _error("stream", "answers are not streamed here"))
        return self._send(*self.server.model.complete(agent, asked))

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        data = json.dumps(document, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status != 200:
            # The agent's own tries are enough; the client's below them would multiply them.
            self.send_header("x-should-retry", "false")
        self.end_headers()
        self.wfile.write(data)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
