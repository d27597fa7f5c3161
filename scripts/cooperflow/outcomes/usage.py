"""Usage computed from a call log: tokens, cost, kinds of errors, and waiting time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cooperflow.outcomes import provider_answer

SCHEMA = 1

# Kinds of a call's end, which include the provider-related reasons of `infra_error`.
ANSWERED = "answered"
OPEN = "open"  # started, but its end is not recorded: the process was killed
RATE_LIMITED = "rate_limited"
API_UNAVAILABLE = "api_unavailable"
API_TIMEOUT = "api_timeout"
AUTH = "auth"
MODEL_NOT_FOUND = "model_not_found"
QUOTA = "quota"
CONTEXT = "context"
BAD_REQUEST = "bad_request"

# Failures of the provider: time spent on these is waiting time, not work.
WAITING = frozenset({RATE_LIMITED, API_UNAVAILABLE, API_TIMEOUT, OPEN})

_CLASSES = {
    "AuthenticationError": AUTH,
    "PermissionDeniedError": AUTH,
    "NotFoundError": MODEL_NOT_FOUND,
    "RateLimitError": RATE_LIMITED,
    "Timeout": API_TIMEOUT,
    "APITimeoutError": API_TIMEOUT,
    "ContextWindowExceededError": CONTEXT,
    "APIConnectionError": API_UNAVAILABLE,
    "InternalServerError": API_UNAVAILABLE,
    "ServiceUnavailableError": API_UNAVAILABLE,
    "BadGatewayError": API_UNAVAILABLE,
    "APIError": API_UNAVAILABLE,
    "APIResponseValidationError": API_UNAVAILABLE,
    "JSONDecodeError": API_UNAVAILABLE,
    "BadRequestError": BAD_REQUEST,
    "UnprocessableEntityError": BAD_REQUEST,
    "UnsupportedParamsError": BAD_REQUEST,
}
# Classes that litellm also uses for unclassified errors, so the status is more precise.
_VAGUE = ("APIConnectionError", "APIError")
_STATUS = {
    400: BAD_REQUEST,
    401: AUTH,
    402: QUOTA,
    403: AUTH,
    404: MODEL_NOT_FOUND,
    408: API_TIMEOUT,
    409: API_UNAVAILABLE,
    410: MODEL_NOT_FOUND,
    422: BAD_REQUEST,
    424: API_UNAVAILABLE,  # the model behind an end point failed (Bedrock)
    429: RATE_LIMITED,
    498: AUTH,
    504: API_TIMEOUT,
}
# Wording in providers' error bodies of a refusal that is permanent.
_QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|credits|funds)|exceeded[_ ](?:your[_ ])?current[_ ]quota"
    r"|quota (?:exceeded|exhausted|used up)|limited to \d+ API calls / month"
    r"|billing[_ ](?:limit|hard[_ ]limit)|credit balance|payment required|out of credits"
    r"|used all available credits|spending limit|requires more credits|key limit exceeded"
    r"|doesn't have any credits|check your plan and billing",
    re.IGNORECASE,
)
# The same with status 400: phrases that a quoted prompt is unlikely to contain.
_QUOTA_IN_400 = re.compile(
    r"credit balance is too low|billing_hard_limit_reached|billing hard limit has been reached",
    re.IGNORECASE,
)
# Google calls its limits per minute a quota as well.
_PASSING_QUOTA = re.compile(
    r"retry in \d|RetryInfo|per ?minute|per_minute|quota exceeded for (?:quota )?metric"
    r"|quota exceeded for aiplatform",
    re.IGNORECASE,
)
_DAILY_QUOTA = re.compile(r"per[_ ]?(?:day|month)", re.IGNORECASE)
# Wording of a refused key with status 400 (Gemini).
_KEY_IN_400 = re.compile(r"API key (?:not valid|expired)|API_KEY_INVALID")
# Wording of a refused prompt with status 403 (OpenRouter).
_MODERATED = re.compile(r"requires moderation|input was flagged", re.IGNORECASE)
# Wording of a prompt that does not fit into the model's context window.
_TOO_LONG = re.compile(
    r"context(?:[ _]length|[ _]window|[ _]limit|[ _]size)|maximum context|model'?s context"
    r"|too many (?:input )?tokens|number of tokens .{0,40}exceed|prompt is too long"
    r"|input is too long|input token count .{0,40}exceeds|input tokens exceed|prompt contains \d+"
    r"|`inputs` tokens|maximum (?:prompt|input) length|prompt exceeds max"
    r"|exceeded model token limit|range of input length|prompt token count .{0,40}exceeds"
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
# Wording of an output limit that exceeds the model's maximum.
_TOO_MUCH_OUTPUT = re.compile(
    r"max[_ ]?(?:completion[_ ]|output[_ ]|new[_ ])?tokens.{0,80}?"
    r"(?:less than or equal|too large|at most|must be|supported range|> \d+, which is the maximum"
    r"|exceeds? the (?:model|maximum)|maximum allowed)"
    r"|maxOutputTokens.{0,80}(?:supported range|must be|invalid)"
    r"|maximum tokens you requested exceeds|supports at most \d+ completion tokens",
    re.IGNORECASE | re.DOTALL,
)
# The window and the requested output in the wording of vLLM, TGI, OpenAI and Anthropic.
_WINDOW = re.compile(
    r"(?:maximum context length is|context limit: \d+ \+ \d+ >|max_model_len of"
    r"|`max_new_tokens` must be <=) (\d+)",
    re.IGNORECASE,
)
_ASKED_OUTPUT = re.compile(
    r"(\d+) in the completion|requested (\d+) output tokens|is too large: (\d+)"
    r"|context limit: \d+ \+ (\d+) >|(\d+) `max_new_tokens`",
    re.IGNORECASE,
)
# Wording of a model that is not ready; some providers use unusual statuses for it.
_OVERLOADED = re.compile(
    r"overloaded|model is (?:currently |still )?loading|(?:is|are) at capacity|currently loading"
    r"|model .{0,80}(?:is starting|warming up|not ready)|server is busy|engine is currently busy",
    re.IGNORECASE,
)
# Wording of an unusable output of the model.
_UNUSABLE_OUTPUT = re.compile(r"no valid (?:tool call|response)", re.IGNORECASE)
CANCELLED = 499
# Wording of a valid call that needs more output tokens than it allows.
_TOO_FEW_TOKENS = re.compile(
    r"could not finish the message because max_tokens|model output limit was reached"
    r"|max_(?:output_|completion_)?tokens'?\W.{0,60}(?:below minimum|>= ?\d+|at least \d+"
    r"|greater than or equal)",
    re.IGNORECASE,
)


def proves_model(message: str) -> bool:
    """Return whether the error of a one-token call proves that key and model are accepted."""
    return _TOO_FEW_TOKENS.search(message) is not None


def is_output_setting(message: str) -> bool:
    """Return whether an error refuses the configured limit of output tokens.

    A conversation that outgrew the window does not count, because its limit was accepted before.
    """
    window, requested = _WINDOW.search(message), _ASKED_OUTPUT.search(message)
    if window and requested:
        return int(next(group for group in requested.groups() if group)) >= int(window[1])
    overflow = _TOO_LONG.search(message)
    return overflow is None and _TOO_MUCH_OUTPUT.search(message) is not None


def kind_of_error(
    name: str,
    status: int | None,
    message: str,
    causes: Sequence[str] = (),
    retry_after: float | None = None,
) -> str:
    """Return the kind of a failed call's end.

    Args:
        name: class name of the exception that litellm raised.
        status: HTTP status of the answer, None where there was none.
        message: the provider's error body, from the exception.
        causes: classes of the exceptions behind it, outermost first.
        retry_after: seconds after which the provider asks to be called again.
    """
    if name in _CLASSES and _is_busy(status, message, retry_after):
        return RATE_LIMITED
    if status == CANCELLED or (status == 422 and _UNUSABLE_OUTPUT.search(message)):
        return API_UNAVAILABLE
    timed_out = any("Timeout" in cause for cause in causes) and "ConnectTimeout" not in causes
    answered = any("HTTPStatusError" in cause for cause in causes)
    if answered and status is not None and (status == 429 or status >= 500):
        # litellm derives some classes from words in the answer; the status is more reliable.
        kind: str | None = _STATUS.get(status, API_UNAVAILABLE)
    elif status is None or (name in _CLASSES and name not in _VAGUE):
        kind = _CLASSES.get(name)
    else:
        kind = _STATUS.get(status) or (API_UNAVAILABLE if status >= 500 else None)
    kind = kind or _CLASSES.get(name, API_UNAVAILABLE)
    if kind == BAD_REQUEST:
        # litellm raises this class because of a word in the body, or if the body is not JSON.
        unreadable = "JSONDecodeError" in causes
        kind = API_UNAVAILABLE if unreadable else _STATUS.get(status or 400, BAD_REQUEST)
    if kind == AUTH and _MODERATED.search(message):
        return BAD_REQUEST
    if kind in (RATE_LIMITED, AUTH) and _QUOTA.search(message) and not _is_passing_quota(message):
        return QUOTA
    if kind == BAD_REQUEST and _QUOTA_IN_400.search(message):
        return QUOTA
    if kind == BAD_REQUEST and _KEY_IN_400.search(message):
        return AUTH
    if kind in (BAD_REQUEST, CONTEXT) and is_output_setting(message):
        return BAD_REQUEST
    if kind == BAD_REQUEST and _TOO_LONG.search(message):
        return CONTEXT
    if kind == API_UNAVAILABLE and timed_out:
        return API_TIMEOUT
    return kind


def _is_passing_quota(message: str) -> bool:
    """Return whether a used up quota is one of Google's limits per minute."""
    passing = _PASSING_QUOTA.search(message) is not None
    return passing and _DAILY_QUOTA.search(message) is None


def _is_busy(status: int | None, message: str, retry_after: float | None) -> bool:
    """Return whether the model is loading or overloaded, which is temporary like a rate limit."""
    if status in (425, 529) or (status == 503 and retry_after is not None):
        return True
    failed = status is not None and status >= 500
    return failed and _OVERLOADED.search(message) is not None


# Exceptions that the HTTP client raises before a request is sent: no connection to the server or
# proxy; no free connection in time; a request that HTTP cannot express.
_NEVER_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "gaierror", "ProxyError", "PoolTimeout"}
    | {"LocalProtocolError", "UnsupportedProtocol", "InvalidURL"}
)


def is_surely_unbilled(kind: str, status: int | None, causes: Sequence[str]) -> bool:
    """Return whether a failed call was certainly not billed: it was refused, or never sent.

    An error about the model's own output is different, because the output was generated.
    """
    if status in (CANCELLED, 422) and kind == API_UNAVAILABLE:
        return False
    if "JSONDecodeError" in causes:
        return False
    if status is not None and status >= 400 and kind != API_TIMEOUT and _from_answer(causes):
        return True
    return any(cause in _NEVER_SENT for cause in causes)


def _from_answer(causes: Sequence[str]) -> bool:
    """Return whether an answer had the status; litellm invents one for a lost connection."""
    broken = ("ReadError", "ReadTimeout", "RemoteProtocolError", "WriteError", "ConnectError")
    return not any(cause in broken for cause in causes)


@dataclass(frozen=True)
class Call:
    """One model call; times are seconds since the epoch, costs USD."""

    id: str
    thread: str
    start: float
    end: float | None
    kind: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    cost_bound: float | None = None
    billed: bool = True
    status: int | None = None
    error: str = ""
    retry_after: float | None = None
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    finish_reason: str = ""
    commands: Sequence[Any] = ()  # the answer's tool calls
    # None: not recorded, as in logs of older versions; the kind decides in this case.
    cost_known: bool | None = None

    @property
    def cost_complete(self) -> bool:
        """True if the call cannot have cost more than ``cost``."""
        if self.cost_known is not None:
            return self.cost_known
        return self.kind == ANSWERED or not self.billed

    @property
    def has_reached_output_limit(self) -> bool:
        return self.kind == ANSWERED and provider_answer.has_reached_output_limit(
            self.finish_reason
        )

    @property
    def is_withheld(self) -> bool:
        """True if a content filter of the provider withheld the complete answer."""
        is_filtered = provider_answer.is_withheld(self.finish_reason)
        return self.kind == ANSWERED and is_filtered and not self.commands

    @property
    def has_unreadable_command(self) -> bool:
        """True if a tool call's arguments are JSON but not an object."""
        return not all(map(_is_readable, self.commands))


_TOKENS = (
    *("input_tokens", "output_tokens", "cached_tokens"),
    *("cache_write_tokens", "reasoning_tokens"),
)


def calls(records: Iterable[Mapping[str, Any]]) -> list[Call]:
    """Return the calls of a call log, each from its start and end lines, by start time.

    If a call has several ends, the first answer counts, or else the first failure.
    """
    starts: dict[str, Mapping[str, Any]] = {}
    ends: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record.get("event") == "start":
            starts.setdefault(str(record["id"]), record)
        elif record.get("event") == "end":
            before = ends.setdefault(str(record["id"]), record)
            if before["kind"] != ANSWERED and record["kind"] == ANSWERED:
                ends[str(record["id"])] = record
    joined = [
        _joined(key, starts.get(key, {}), ends.get(key)) for key in dict.fromkeys([*starts, *ends])
    ]
    return sorted(joined, key=lambda call: call.start)


def _joined(key: str, start: Mapping[str, Any], end: Mapping[str, Any] | None) -> Call:
    started = float(start.get("time") or (end or {}).get("started") or 0.0)
    thread = str(start.get("thread") or (end or {}).get("thread") or "")
    bound = start.get("cost_bound")
    if end is None:
        return Call(key, thread, started, None, OPEN, cost_bound=bound)
    return Call(
        id=key,
        thread=thread,
        start=started,
        end=float(end["time"]),
        kind=str(end["kind"]),
        cost=float(end.get("cost") or 0.0),
        cost_bound=end.get("cost_bound", bound),
        billed=bool(end.get("billed", True)),
        status=end.get("status"),
        error=str(end.get("error") or ""),
        retry_after=end.get("retry_after"),
        finish_reason=str(end.get("finish_reason") or ""),
        commands=_commands(end.get("message")),
        cost_known=end.get("cost_complete"),
        **{name: int(end.get(name) or 0) for name in _TOKENS},
    )


def _commands(message: object) -> Sequence[Any]:
    commands = message.get("tool_calls") if isinstance(message, Mapping) else None
    return commands if isinstance(commands, list) else ()


def _is_readable(command: object) -> bool:
    """Return whether the arguments of a tool call are an object, or not JSON at all.

    Agents report invalid JSON to their model. But null, a number or a text ends the program of
    mini_swe_agent_v2.
    """
    function = command.get("function") if isinstance(command, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(arguments, str):
        return True
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return True


@dataclass(frozen=True)
class Usage:
    """Sums over calls. cost_usd is the known cost; cost_bound_usd is an upper bound of the total.

    cost_complete is False where a call may have been served without its answer being received,
    where an answer had no usage, or where a price is unknown.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    cost_complete: bool = True
    cost_bound_usd: float | None = 0.0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        bound = (
            None
            if self.cost_bound_usd is None or other.cost_bound_usd is None
            else self.cost_bound_usd + other.cost_bound_usd
        )
        sums = {n: getattr(self, n) + getattr(other, n) for n in ("calls", "cost_usd", *_TOKENS)}
        is_complete = self.cost_complete and other.cost_complete
        return Usage(**sums, cost_complete=is_complete, cost_bound_usd=bound)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Usage:
        """Return the sums in a document. cost_bound_usd may be null: no bound is known."""
        values = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        return cls(**{k: v for k, v in values.items() if v is not None or k == "cost_bound_usd"})


def total(all_calls: Iterable[Call]) -> Usage:
    """Return the usage of some calls; the result does not depend on their order."""
    usage = Usage()
    costs: list[float] = []
    bounds: list[float | None] = []
    for call in all_calls:
        costs.append(call.cost)
        bounds.append(call.cost if call.cost_complete else call.cost_bound)
        usage += Usage(
            calls=1,
            cost_complete=call.cost_complete,
            **{name: getattr(call, name) for name in _TOKENS},
        )
    known_bounds = [bound for bound in bounds if bound is not None]
    bound = math.fsum(known_bounds) if len(known_bounds) == len(bounds) else None
    return replace(usage, cost_usd=math.fsum(costs), cost_bound_usd=bound)


def threads(all_calls: Iterable[Call]) -> list[list[Call]]:
    """Return the calls of each agent, which makes them from one thread."""
    groups: dict[str, list[Call]] = {}
    for call in all_calls:
        groups.setdefault(call.thread, []).append(call)
    return list(groups.values())


def waiting_seconds(thread: Sequence[Call], until: float) -> float:
    """Return the seconds that one agent waited for a failing provider.

    A call that failed because of the provider counts from its start to the start of the next call,
    pause included; the last call counts to ``until``.
    """
    seconds = 0.0
    for call, following in zip(thread, [*thread[1:], None], strict=True):
        if call.kind in WAITING:
            seconds += (following.start if following else until) - call.start
    return max(seconds, 0.0)


def rate_limit_delay(records: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds for which the workflow's rate limit delayed its most delayed agent."""
    sums: dict[str, float] = {}
    for record in records:
        if record.get("event") == "held":
            thread = str(record.get("thread"))
            sums[thread] = sums.get(thread, 0.0) + float(record.get("seconds") or 0.0)
    return max(sums.values(), default=0.0)


def requested_pause(all_calls: Iterable[Call], now: float) -> float:
    """Return the remaining pause that the provider requested in the agents' last calls, seconds."""
    ends = [thread[-1] for thread in threads(all_calls)]
    pauses = [(c.end or c.start) + c.retry_after - now for c in ends if c.retry_after]
    return max([0.0, *pauses])


def model_seconds(all_calls: Iterable[Call]) -> float:
    """Return the seconds spent in calls that were answered."""
    return sum(c.end - c.start for c in all_calls if c.end is not None and c.kind == ANSWERED)
