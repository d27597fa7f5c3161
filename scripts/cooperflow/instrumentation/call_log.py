"""The call log: a litellm callback that writes a line when a call starts and when it ends."""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litellm
import tenacity
from litellm.integrations.custom_logger import CustomLogger

from cooperflow.atomic_io import append_line
from cooperflow.instrumentation.raw_answers import HttpAnswer, RawAnswers
from cooperflow.outcomes import judgement, provider_answer, usage
from cooperflow.outcomes.provider_answer import Answer, Cost, Prices, parse_retry_after
from cooperflow.redaction import Redactor
from cooperflow.session_state import RateLimit

# Assumed maximum output of a model whose limit is unknown, tokens.
LONGEST_ANSWER = 16_384


def _thread() -> str:
    return str(threading.get_ident())


class CallLog(CustomLogger):
    """Callback that appends two lines per call to a file, at its start and at its end.

    The file survives the process, so the calls of a killed run remain known.
    """

    def __init__(
        self,
        path: Path,
        key: str | None,
        rate_limit: RateLimit | None = None,
        agent_of_thread: Callable[[], str] = _thread,
        answers: RawAnswers | None = None,
    ) -> None:
        super().__init__()
        self._answers = answers or RawAnswers()
        self._bounds: dict[str, float | None] = {}
        self._agent_of_thread = agent_of_thread
        self._path = path
        self._redactor = Redactor.for_calls(key, os.environ)
        self._rate_limit = rate_limit
        # litellm reports an answer from a worker thread, so the caller's agent is remembered.
        self._threads: dict[str, str] = {}
        self._lock = threading.Lock()

    def log_pre_api_call(self, model: str, messages: Any, kwargs: dict[str, Any]) -> None:
        call = str(kwargs.get("litellm_call_id"))
        self._threads[call] = self._agent_of_thread()
        sent = json.dumps(messages, default=str, ensure_ascii=False)
        tools = json.dumps(kwargs.get("optional_params") or {}, default=str)
        size = len(sent.encode("utf-8", errors="replace")) + len(tools)
        self._bounds[call] = _bound(kwargs, model, size)
        self._answers.start_call(call)
        self._wait_for_turn(call)  # last, so that the call is sent immediately after its wait
        self._write(
            event="start",
            id=call,
            thread=self._threads[call],
            model=model,
            input_bytes=size,
            agent=_agent(messages),
            cost_bound=self._bounds[call],
        )

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        call = str(kwargs.get("litellm_call_id"))
        http_answer = self._answers.take(call)
        answer = http_answer.answer if http_answer else None
        computed = kwargs.get("response_cost")
        if answer is None:
            answer = _passed_on(response_obj, http_answer is None)
        self._write(
            event="end",
            id=call,
            thread=self._threads.get(call, ""),
            started=_seconds(start_time),
            kind=usage.ANSWERED,
            response_id=getattr(response_obj, "id", None),
            message=_message(response_obj),
            **_reported(answer),
            **self._cost(call, answer, kwargs, computed),
            priced=computed is not None,
        )

    def log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        call = str(kwargs.get("litellm_call_id"))
        error = kwargs.get("exception")
        http_answer = self._answers.take(call)
        kind, status, wait = failure_of(error, http_answer)
        causes = causes_of(error)
        answer = http_answer.answer if http_answer else None
        if answer is not None:
            # Served and billed, even if the answer was unusable.
            cost = self._cost(call, answer, kwargs, None)
            reported = _reported(answer)
        else:
            billed = not usage.is_surely_unbilled(kind, status, causes)
            cost = {"billed": billed}
            reported = {}
        self._write(
            event="end",
            id=call,
            thread=self._threads.get(call, self._agent_of_thread()),
            started=_seconds(start_time),
            kind=kind,
            status=status,
            error_class=type(error).__name__,
            causes=causes,
            error=self._redactor.text(str(error))[:2000],  # a cut key would not be recognized
            retry_after=wait,
            **reported,
            **cost,
        )

    def _cost(
        self, call: str, answer: Answer, kwargs: dict[str, Any], computed: float | None
    ) -> dict[str, Any]:
        cost = provider_answer.cost_of(answer, prices_of(kwargs), computed, self._bounds.get(call))
        return _as_record(cost)

    def _wait_for_turn(self, call: str) -> None:
        """Wait for this call's turn and log the wait, which the run's time limit excludes."""
        seconds = self._rate_limit.reserve() if self._rate_limit else 0.0
        if seconds > 0:
            self._write(
                event="held", id=call, thread=self._threads[call], seconds=round(seconds, 3)
            )
            time.sleep(seconds)

    def _write(self, **record: Any) -> None:
        line = json.dumps({"schema": usage.SCHEMA, "time": time.time(), **record}, default=str)
        try:
            with self._lock:
                append_line(self._path, self._redactor.text(line))
        except OSError as error:
            # Every call must be recorded, and litellm would swallow an exception. The start of a
            # call is logged before the call is sent, so this call is not made.
            print(f"{self._path} cannot be written: {error}", flush=True)
            os._exit(judgement.UNRECORDED)


def install(
    path: Path,
    key: str | None,
    rate_limit: RateLimit | None = None,
    agent_of_thread: Callable[[], str] = _thread,
    return_tool_plan: bool = False,
) -> None:
    """Record all litellm calls of this process in ``path``, with ``key`` redacted.

    Args:
        rate_limit: each call waits for its turn.
        agent_of_thread: returns the agent for which the calling thread makes a call.
        return_tool_plan: send Cohere's tool_plan back with its tool calls.
    """
    register_prices()
    answers = RawAnswers(return_tool_plan)
    answers.install()
    litellm.callbacks = [CallLog(path, key, rate_limit, agent_of_thread, answers)]


def stop_at_refused_output_limit() -> None:
    """Make mini_swe_agent_v2 end at the first answer that refuses its limit of output tokens.

    Upstream would retry such a call up to ``call_tries`` times, although each try sends the same
    limit. Only the condition for retries is narrowed; the error itself is unchanged.
    """
    from cooperbench.agents.mini_swe_agent_v2.models import litellm_model

    retry = litellm_model.retry

    @functools.wraps(retry)
    def narrowed(**options: Any) -> tenacity.Retrying:
        retrying = retry(**options)
        may_pass = tenacity.retry_if_exception(lambda error: not _refuses_output_limit(error))
        return retrying.copy(retry=tenacity.retry_all(retrying.retry, may_pass))

    litellm_model.retry = narrowed


def _refuses_output_limit(error: BaseException) -> bool:
    kind, _, _ = failure_of(error, None)
    return kind == usage.BAD_REQUEST and usage.is_output_setting(str(error))


def register_prices() -> None:
    """Register prices from a file in litellm's format, as upstream does for its own agent."""
    path = os.environ.get("LITELLM_MODEL_REGISTRY_PATH")
    if path and Path(path).is_file():
        litellm.register_model(json.loads(Path(path).read_text(encoding="utf-8")))


def prices_of(kwargs: dict[str, Any]) -> Prices:
    """Return the prices of the called model; all are unknown if litellm has no entry."""
    return _prices(_price_entry(str(kwargs.get("model") or ""), kwargs.get("custom_llm_provider")))


def _prices(entry: dict[str, Any]) -> Prices:
    thresholds = [
        int(match[1]) * 1000
        for key in entry
        if (match := re.fullmatch(r"input_cost_per_token_above_(\d+)k_tokens", key))
    ]
    return Prices(
        input=entry.get("input_cost_per_token"),
        output=entry.get("output_cost_per_token"),
        cache_read=entry.get("cache_read_input_token_cost"),
        cache_write=entry.get("cache_creation_input_token_cost"),
        cache_write_1h=entry.get("cache_creation_input_token_cost_above_1hr"),
        reasoning=entry.get("output_cost_per_reasoning_token"),
        tier=min(thresholds, default=None),
        varies="off_peak_pricing" in entry,
    )


def _price_entry(model: str, provider: str | None) -> dict[str, Any]:
    """Return litellm's entry of a model; get_model_info() would report an unknown price as 0."""
    bare = model.removeprefix(f"{provider}/")
    for name in (f"{provider}/{bare}", bare):
        entry = dict(litellm.model_cost.get(name) or {})
        owner = str(entry.get("litellm_provider") or provider or "")
        # A model of the same name has another price at another provider.
        if entry and (provider is None or owner.startswith(provider) or provider.startswith(owner)):
            return entry
    try:
        key = litellm.get_model_info(model, custom_llm_provider=provider)["key"]
    except Exception:  # litellm raises plain Exception for an unknown model
        return {}
    return dict(litellm.model_cost.get(str(key)) or {})


def _passed_on(response: Any, is_usage_known: bool) -> Answer:
    """Return the fields that litellm provides of an answer in an unknown wire format."""
    tokens: Any = getattr(response, "usage", None)
    prompt_details = getattr(tokens, "prompt_tokens_details", None)
    completion_details = getattr(tokens, "completion_tokens_details", None)
    has_usage = is_usage_known and bool(getattr(tokens, "total_tokens", 0))
    return Answer(
        "",
        input_tokens=int(tokens.prompt_tokens or 0) if has_usage else None,
        output_tokens=int(tokens.completion_tokens or 0) if has_usage else None,
        cached_tokens=int(getattr(prompt_details, "cached_tokens", 0) or 0),
        cache_write_tokens=int(getattr(prompt_details, "cache_creation_tokens", 0) or 0),
        reasoning_tokens=int(getattr(completion_details, "reasoning_tokens", 0) or 0),
        finish_reason=_finish_reason(response),
    )


def _finish_reason(response: Any) -> str:
    try:
        return str(response.choices[0].finish_reason or "")
    except (AttributeError, IndexError, TypeError):
        return ""


def _reported(answer: Answer) -> dict[str, Any]:
    """Return the fields of an answer for the call log, without its cost."""
    return {
        "wire": answer.wire,
        "usage_reported": answer.has_usage,
        "input_tokens": answer.input_tokens or 0,
        "output_tokens": answer.output_tokens or 0,
        "billed_input_tokens": answer.billed_input_tokens,
        "billed_output_tokens": answer.billed_output_tokens,
        "cached_tokens": answer.cached_tokens,
        "cache_write_tokens": answer.cache_write_tokens,
        "cache_write_1h_tokens": answer.cache_write_1h_tokens,
        "reasoning_tokens": answer.reasoning_tokens,
        "finish_reason": answer.finish_reason,
        "request_id": answer.request_id,
        "reported_cost": answer.reported_cost,
        "thought": answer.thought,
        "refusal": answer.refusal,
    }


def _as_record(cost: Cost) -> dict[str, Any]:
    return {"cost": cost.known, "cost_complete": cost.complete, "cost_bound": cost.bound}


def failure_of(error: Any, http_answer: HttpAnswer | None) -> tuple[str, int | None, float | None]:
    """Return the kind of failure of a call, its HTTP status, and the requested pause in seconds.

    litellm replaces some statuses (Anthropic's 529 by 500), so the raw status is used.
    """
    failed = (
        http_answer if http_answer and (http_answer.status >= 400 or http_answer.answer) else None
    )
    status = failed.status if failed and failed.answer is None else status_of(error)
    wait = _retry_after(error)
    if wait is None and failed:
        wait = failed.retry_after
    causes = causes_of(error)
    if failed and failed.answer and failed.answer.failure == provider_answer.TIMED_OUT:
        return usage.API_TIMEOUT, status, wait
    if failed and failed.answer:
        return usage.API_UNAVAILABLE, status, wait
    kind = usage.kind_of_error(type(error).__name__, status, str(error), causes, wait)
    return kind, status, wait


# The agent's name in upstream's prompts for several agents.
_AGENT = re.compile(r"You are \*\*(agent\d+)\*\*")


def _agent(messages: Any) -> str:
    """Return the calling agent according to its prompt; empty if the prompt names none (solo)."""
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        if message.get("role") == "user" and isinstance(content, str):
            match = _AGENT.search(content)
            return match[1] if match else ""
    return ""


def _message(response: Any) -> Any:
    try:
        message = response.choices[0].message
        return message.model_dump(include={"content", "tool_calls"})
    except (AttributeError, IndexError, TypeError):
        return None


def _bound(kwargs: dict[str, Any], model: str, size: int) -> float | None:
    """Return an upper bound of a call's cost, USD: a token is at least one byte of the request."""
    entry = _price_entry(str(kwargs.get("model") or model), kwargs.get("custom_llm_provider"))
    prices = _prices(entry)
    if prices.input is None or prices.output is None:
        return None
    options = kwargs.get("optional_params") or {}
    tier = str(options.get("service_tier") or "")
    input_price = _dearest(entry, ("input_cost_per_token", "cache_creation_input"), size, tier)
    output_price = _dearest(
        entry, ("output_cost_per_token", "output_cost_per_reasoning"), size, tier
    )
    limits = [options.get("max_tokens"), options.get("max_completion_tokens")]
    longest = [limit for limit in limits if isinstance(limit, int)]
    answer = entry.get("max_output_tokens") or max([LONGEST_ANSWER, *longest])
    return float(size * input_price + answer * output_price)


def _dearest(entry: dict[str, Any], starts: tuple[str, ...], size: int, tier: str) -> float:
    """Return the highest prices that may apply to a call of ``size`` bytes, USD per token.

    Prices above a number of tokens count if the request may have as many, those of a service tier
    if it was requested.
    """
    prices = [0.0]
    for key, price in entry.items():
        if not key.startswith(starts) or not isinstance(price, int | float):
            continue
        above = re.search(r"_above_(\d+)k_tokens", key)
        is_below = above is not None and size <= int(above[1]) * 1000
        suffix = re.search(r"_(priority|flex|batches|fast|ultrafast|balanced|decisions)$", key)
        is_other_tier = suffix is not None and suffix[1] != tier.lower()
        if not is_below and not is_other_tier:
            prices.append(float(price))
    return max(prices)


def status_of(error: object) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def causes_of(error: BaseException | None) -> list[str]:
    return [type(cause).__name__ for cause in _chain(error)]


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and its causes, outermost first."""
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors


def _retry_after(error: BaseException | None) -> float | None:
    """Return the pause that the provider requests, seconds.

    For some providers (Cohere), only a cause of litellm's exception has the answer's headers.
    """
    for cause in _chain(error):
        for holder in (getattr(cause, "response", None), cause):
            for name in ("headers", "litellm_response_headers"):
                value = (getattr(holder, name, None) or {}).get("retry-after")
                if value is not None:
                    return parse_retry_after(str(value))
    return None


def _seconds(moment: Any) -> float | None:
    return moment.timestamp() if hasattr(moment, "timestamp") else moment
