"""A litellm callback that writes every model call down as it begins and as it ends."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger

from cooperflow.atomic import append_line
from cooperflow.attempt import secrecy
from cooperflow.attempt.pace import Pace
from cooperflow.outcomes import usage

# Where a model's own limit is not known, an answer is taken to be no longer than this, tokens.
LONGEST_ANSWER = 16_384
# Exit code of a process that could not keep its books (EX_IOERR).
UNRECORDED = 74


def _thread() -> str:
    return str(threading.get_ident())


class CallRecorder(CustomLogger):
    """Appends two lines per call to a file: at its start, and at its answer or error.

    The file outlives the process, so that a killed run's calls stay in the books.
    """

    def __init__(
        self,
        path: Path,
        key: str | None,
        pace: Pace | None = None,
        asker: Callable[[], str] = _thread,
    ) -> None:
        super().__init__()
        self._asker = asker
        self._path = path
        self._key = key
        self._pace = pace
        # litellm reports an answer from a worker thread: remember who asked.
        self._asked: dict[str, str] = {}
        self._lock = threading.Lock()

    def log_pre_api_call(self, model: str, messages: Any, kwargs: dict[str, Any]) -> None:
        call = str(kwargs.get("litellm_call_id"))
        self._asked[call] = self._asker()
        self._hold(call)
        sent = json.dumps(messages, default=str, ensure_ascii=False)
        tools = json.dumps(kwargs.get("optional_params") or {}, default=str)
        size = len(sent.encode("utf-8", errors="replace")) + len(tools)
        self._write(
            event="start",
            id=call,
            thread=self._asked[call],
            model=model,
            input_bytes=size,
            agent=_agent(messages),
            cost_bound=_bound(str(kwargs.get("model") or model), size),
        )

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        call = str(kwargs.get("litellm_call_id"))
        tokens = getattr(response_obj, "usage", None)
        details = getattr(tokens, "prompt_tokens_details", None)
        self._write(
            event="end",
            id=call,
            thread=self._asked.get(call, ""),
            started=_seconds(start_time),
            kind=usage.ANSWERED,
            response_id=getattr(response_obj, "id", None),
            message=_message(response_obj),
            input_tokens=getattr(tokens, "prompt_tokens", 0) or 0,
            output_tokens=getattr(tokens, "completion_tokens", 0) or 0,
            cached_tokens=getattr(details, "cached_tokens", 0) or 0,
            cost=kwargs.get("response_cost") or 0.0,
            priced=kwargs.get("response_cost") is not None,
        )

    def log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        call = str(kwargs.get("litellm_call_id"))
        error = kwargs.get("exception")
        causes = causes_of(error)
        status = status_of(error)
        message = str(error)
        kind = usage.kind_of_error(type(error).__name__, status, message, causes)
        self._write(
            event="end",
            id=call,
            thread=self._asked.get(call, self._asker()),
            started=_seconds(start_time),
            kind=kind,
            status=status,
            error_class=type(error).__name__,
            causes=causes,
            error=message[:2000],
            retry_after=_retry_after(error),
            billed=not usage.surely_unbilled(kind, status, causes),
        )

    def _hold(self, call: str) -> None:
        """Wait for this call's turn. Told beforehand: the run's time limit leaves it out."""
        seconds = self._pace.reserve() if self._pace else 0.0
        if seconds > 0:
            self._write(event="held", id=call, thread=self._asked[call], seconds=round(seconds, 3))
            time.sleep(seconds)

    def _write(self, **record: Any) -> None:
        line = json.dumps({"schema": usage.SCHEMA, "time": time.time(), **record}, default=str)
        try:
            with self._lock:
                append_line(self._path, secrecy.hidden(line, self._key))
        except OSError as error:
            # No call may go unrecorded. litellm would swallow an exception of ours; and the start
            # of a call is told before it is sent, so it is not made.
            print(f"{self._path} cannot be written: {error}", flush=True)
            os._exit(UNRECORDED)


def install(
    path: Path, key: str | None, pace: Pace | None = None, asker: Callable[[], str] = _thread
) -> None:
    """Record all calls that this process makes through litellm into ``path``, ``key`` left out.

    Args:
        pace: each call waits for its turn.
        asker: names the agent that the calling thread calls for.
    """
    litellm.callbacks = [CallRecorder(path, key, pace, asker)]


# How upstream's prompts tell an agent among several who it is.
_AGENT = re.compile(r"You are \*\*(agent\d+)\*\*")


def _agent(messages: Any) -> str:
    """Return which agent asks, by its prompt; empty where that names none (as in solo)."""
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        if message.get("role") == "user" and isinstance(content, str):
            found = _AGENT.search(content)
            return found[1] if found else ""
    return ""


def _message(response: Any) -> Any:
    try:
        message = response.choices[0].message
        return message.model_dump(include={"content", "tool_calls"})
    except (AttributeError, IndexError, TypeError):
        return None


def _bound(model: str, size: int) -> float | None:
    """Return what a call can cost at most, USD: a token is at least one byte of the request."""
    try:
        info = litellm.get_model_info(model)
    except Exception:  # litellm raises plain Exception for a model it does not know
        return None
    answer = info.get("max_output_tokens") or LONGEST_ANSWER
    price_in = info.get("input_cost_per_token") or 0.0
    return float(size * price_in + answer * (info.get("output_cost_per_token") or 0.0))


def status_of(error: object) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def causes_of(error: BaseException | None) -> list[str]:
    return [type(one).__name__ for one in _chain(error)]


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and those behind it, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _retry_after(error: BaseException | None) -> float | None:
    """Return the seconds for which the provider asked to be left alone.

    litellm keeps the headers of some providers' answers (Cohere's) in a cause alone.
    """
    for one in _chain(error):
        for holder in (getattr(one, "response", None), one):
            for name in ("headers", "litellm_response_headers"):
                value = (getattr(holder, name, None) or {}).get("retry-after")
                if value is not None:
                    try:
                        return float(value)
                    except ValueError:
                        return None
    return None


def _seconds(moment: Any) -> float | None:
    return moment.timestamp() if hasattr(moment, "timestamp") else moment
