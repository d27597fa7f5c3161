"""Model calls through litellm as upstream makes them, with the resulting call log."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_client import BASH, Server, first_messages

from cooperflow import atomic_io
from cooperflow.attempt import child_process
from cooperflow.instrumentation.raw_answers import RawAnswers
from cooperflow.outcomes.usage import Usage, calls, total

child_process.prepare_environment()

import litellm  # noqa: E402

from cooperflow.instrumentation import call_log  # noqa: E402

MESSAGES = first_messages("demo_textkit_task", 2, [1, 2], "solo", "solo")
# Model and end point by wire format.
WIRES = {
    "cohere": ("command-a-03-2025", "/v2/chat"),
    "openai": ("openai/gpt-4o", "/v1"),
    "anthropic": ("anthropic/claude-sonnet-4-5", ""),
}
# A process has one call log and one patch, because litellm keeps the first callback of a class.
ANSWERS = RawAnswers()
ANSWERS.install()
RECORDER = call_log.CallLog(Path(os.devnull), None, answers=ANSWERS)


@dataclass(frozen=True)
class Exchange:
    """One call: litellm's answer or error, the log's records, and the ledger's line."""

    answer: Any
    error: Exception | None
    records: list[dict[str, Any]]
    ledger: dict[str, Any]

    @property
    def end(self) -> dict[str, Any]:
        return self.records[-1]

    @property
    def usage(self) -> Usage:
        return total(calls(self.records))


def ask(server: Server | None, log: Path, wire: str, **options: Any) -> Exchange:
    """Make one call and wait for its end in ``log``, which another thread writes."""
    RECORDER._path = log
    before = len(atomic_io.read_lines(log))
    litellm.callbacks = [RECORDER]
    litellm.suppress_debug_info = True
    model, path = WIRES[wire]
    answer, error = None, None
    try:
        answer = litellm.completion(
            **{
                "model": model,
                "messages": MESSAGES,
                "tools": [BASH],
                "api_base": f"{server.url}{path}" if server else None,
                "api_key": "x",
                "timeout": 20,
                "max_retries": 0,
                **options,
            }
        )
    except Exception as raised:
        error = raised
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        records = atomic_io.read_lines(log)[before:]
        if any(record["event"] == "end" for record in records):
            break
        time.sleep(0.02)
    ledger = server.ledger() if server else []
    return Exchange(answer, error, records, ledger[-1] if ledger else {})


@contextmanager
def return_tool_plans() -> Iterator[None]:
    """Enable the return of Cohere's tool_plan in the body."""
    ANSWERS.return_tool_plan = True
    try:
        yield
    finally:
        ANSWERS.return_tool_plan = False
        ANSWERS._plans.clear()
