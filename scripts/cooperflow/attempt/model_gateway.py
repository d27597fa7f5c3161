"""Model gateway of one run: serves OpenAI's chat completions and calls the model by litellm.

Containers that call the model themselves get the gateway's address and a token that is valid for
this run only. The provider's key stays in the gateway's process, which records every call when it
starts and when it ends, and ends with the run.
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

from cooperflow import environment, processes
from cooperflow.attempt import child_process
from cooperflow.outcomes import usage
from cooperflow.session_state import RateLimit

PATH = "/v1/chat/completions"
# The longest request that is accepted, bytes.
MAX_REQUEST_BYTES = 64 << 20
_NAME = re.compile(r"[\w-]{1,40}")


@dataclass(frozen=True)
class Upstream:
    """The model behind a gateway and the parameters of every call."""

    model: str
    key: str | None
    kwargs: Mapping[str, Any]  # merged over the client's request: api_base, timeout, ...
    tries: int  # consecutive failures after which an agent's calls are refused
    calls: Path  # the call log
    pace: RateLimit | None = None  # the rate limit of calls
    return_tool_plan: bool = False  # send Cohere's tool_plan back with its tool calls


class Gateway:
    """A gateway that listens on ``address`` and serves clients that have ``token``.

    A client may append a slash and its agent's name to the token; the default is its address.
    """

    def __init__(self, address: str, token: str, upstream: Upstream, log: Path) -> None:
        """Fork the gateway's process.

        Raises:
            OSError: ``address`` does not belong to this machine.
        """
        listener = socket.create_server((address, 0), backlog=64)
        self.url = f"http://{address}:{listener.getsockname()[1]}/v1"
        self.process = child_process.fork(log, lambda: _serve(listener, token, upstream), _exit)
        self._has_ended = False
        listener.close()

    @property
    def died(self) -> bool:
        """True if the process has ended."""
        if not self._has_ended:
            self._has_ended = os.waitpid(self.process, os.WNOHANG)[0] != 0
        return self._has_ended

    def end(self, seconds: float = 10.0) -> None:
        """Stop the process: SIGTERM, so that the last answer is recorded, then SIGKILL."""
        if not self.died:
            processes.end_fork(self.process, seconds)
            self._has_ended = True


def _exit(number: int, frame: object) -> None:
    raise SystemExit(0)


def _serve(listener: socket.socket, token: str, upstream: Upstream) -> int:
    child_process.prepare_environment()
    if not upstream.key:
        environment.remove_keys(os.environ, upstream.model)
    from cooperflow.instrumentation import call_log

    # A handler's thread has the name of its agent.
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

    def complete(self, agent: str, request: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Call the model; return the status and the document of the answer."""
        import litellm

        names = set(litellm.OPENAI_CHAT_COMPLETION_PARAMS) | {"messages"}
        parameters = {k: v for k, v in request.items() if k in names and v is not None}
        for name in ("model", "stream", "stream_options", "api_key", "base_url", "extra_headers"):
            parameters.pop(name, None)
        upstream = self.upstream
        try:
            answer = litellm.completion(
                model=upstream.model,
                api_key=upstream.key,
                drop_params=True,
                **{**parameters, **upstream.kwargs},
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
            status = 503  # not every client retries after 425, 499 and similar
        # Clients retry after 429 and 5xx, but not after 403.
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
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        token, _, name = token.partition("/")
        agent = name if _NAME.fullmatch(name) else str(self.client_address[0])
        threading.current_thread().name = agent
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_REQUEST_BYTES:
            self.close_connection = True
            return self._send(413, _error("too_large", f"more than {MAX_REQUEST_BYTES} bytes"))
        body = self.rfile.read(length)
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._send(401, _error("token", "not the token of this run"))
        if self.path != PATH:
            return self._send(
                404, _error("path", f"unknown path {self.path}; only {PATH} is served")
            )
        try:
            request = json.loads(body)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return self._send(400, _error("body", "not a JSON object"))
        if request.get("stream"):
            return self._send(400, _error("stream", "streaming is not supported"))
        return self._send(*self.server.model.complete(agent, request))

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        data = json.dumps(document, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status != 200:
            # The agent retries; retries of its client would multiply that.
            self.send_header("x-should-retry", "false")
        self.end_headers()
        self.wfile.write(data)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
