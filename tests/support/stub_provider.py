"""A minimal provider that records calls and gives prepared answers."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COHERE = {
    "id": "answer",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
    "usage": {
        "billed_units": {"input_tokens": 1, "output_tokens": 1},
        "tokens": {"input_tokens": 1, "output_tokens": 1},
    },
}
OPENAI = {
    "id": "answer",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
ANTHROPIC = {
    "id": "answer",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


@dataclass
class Stub:
    """The received requests, and the statuses of the next answers, after which all are 200."""

    name: str
    port: int = 0
    paths: list[str] = field(
        default_factory=list
    )  # path of each request; for a proxy with the host
    keys: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    retry_after: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def stub(name: str = "provider") -> Iterator[Stub]:
    """Run a stub until the end of the block."""
    this = Stub(name)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            this.paths.append(self.path)
            key = self.headers.get("Authorization") or self.headers.get("x-api-key") or ""
            this.keys.append(key.removeprefix("Bearer "))
            status = this.statuses.pop(0) if this.statuses else 200
            self._answer(status, _document(self.path) if status == 200 else _error(key))

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            this.paths.append(self.path)
            self._answer(200, {})

        def do_CONNECT(self) -> None:
            this.paths.append(f"CONNECT {self.path}")
            self._answer(502, {})

        def _answer(self, status: int, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if this.retry_after:
                self.send_header("Retry-After", this.retry_after)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    this.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield this
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _document(path: str) -> dict[str, Any]:
    if path.endswith("/messages"):
        return ANTHROPIC
    return OPENAI if path.endswith("/completions") else COHERE


def _error(key: str) -> dict[str, Any]:
    """Return an error that quotes the key, as some providers do."""
    message = f"invalid api token: {key}"
    return {"message": message, "error": {"message": message, "type": "invalid"}}
