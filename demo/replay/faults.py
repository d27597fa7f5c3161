"""Fault rules: which calls fail, how often, and in which way."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from .recordings import Role, Turn
from .shapes import SHAPES

_TRIAL = (
    "You can continue to use the Trial key for free or upgrade to a Production key with higher "
    "rate limits at 'https://dashboard.cohere.com/api-keys'. Contact us on "
    "'https://discord.gg/XW44jPfYJu' or email us at support@cohere.com with any questions"
)

# Status and message by action. The messages quote the provider.
STATUS_ACTIONS: dict[str, tuple[int, str]] = {
    "rate_limited": (
        429,
        f"You are using a Trial key, which is limited to 40 API calls / minute. {_TRIAL}",
    ),
    "rate_limited_minute": (
        429,
        "You are past the per minute request limit, please wait and try again later.",
    ),
    "server_error": (500, "internal server error"),
    "unavailable": (503, "service unavailable"),
    "unauthorized": (401, "invalid api token"),
    "forbidden": (403, "this api key has no permission to use this model"),
    "model_not_found": (
        404,
        "model '{model}' not found, make sure the correct model ID was used and that you have "
        "access to the model.",
    ),
    "quota_payment": (
        402,
        "Please add or update your payment method at "
        "https://dashboard.cohere.com/billing?tab=payment to continue",
    ),
    "quota_billing": (
        402,
        "Maximum billing reached for this API key as set in your dashboard, please go to "
        "https://dashboard.cohere.com/billing?tab=payment to increase your maximum amount to "
        "continue using this API key. Your billing capacity will reset at the beginning of next "
        "month.",
    ),
    "quota_month": (
        429,
        f"You are using a Trial key, which is limited to 1000 API calls / month. {_TRIAL}",
    ),
    "context_length": (
        400,
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received "
        "4292. Try using a shorter prompt, or enabling prompt truncating.",
    ),
    "output_limit": (
        400,
        "max tokens must be less than or equal to 8000, the maximum output for this model - "
        "received 99999.",
    ),
    "unusable_output": (422, "no valid tool call or response generated"),
    "cancelled": (499, "request cancelled"),
    "overloaded": (529, "Overloaded"),
    "not_ready": (425, "the model is not ready, try again later"),
    "loading": (503, "Model {model} is currently loading"),
}
# Actions that damage the answer during transmission, or replace it.
BROKEN_ACTIONS = frozenset(
    {"refuse", "hang", "hang_mid", "drip", "truncated", "empty", "html"}
    | {"bad_arguments", "huge", "override"}
)
_PARAMETERS = {"retry_after", "status", "message", "seconds", "bytes", "where", "turns"}
_MATCHES = {"repo", "task", "features", "agent", "kind", "conversation", "from_step", "to_step"}
# "probe": true matches only the calls of one token by which a client tests its key.
_MATCHES |= {"probe"}


@dataclass(frozen=True)
class Rule:
    """One rule. match: conditions on the call; times: how often the rule applies (None: always).

    per_conversation: applications are counted separately for each conversation.
    """

    match: dict[str, Any]
    action: str
    parameters: dict[str, Any]
    times: int | None = None
    per_conversation: bool = False
    turns: tuple[Turn, ...] = ()

    @classmethod
    def from_json(cls, data: Any) -> Rule:
        """Return the rule in a JSON object; ValueError names the error in it."""
        if not isinstance(data, dict):
            raise ValueError("a rule is an object")
        match, action, times = data.get("match", {}), data.get("action"), data.get("times")
        parameters = {key: value for key, value in data.items() if key in _PARAMETERS}
        unknown = set(data) - _PARAMETERS - {"match", "action", "times", "per_conversation"}
        if unknown:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        if not isinstance(match, dict) or set(match) - _MATCHES:
            raise ValueError(f"'match' is an object with keys out of {sorted(_MATCHES)}")
        if action not in STATUS_ACTIONS and action not in BROKEN_ACTIONS and action not in SHAPES:
            actions = sorted(STATUS_ACTIONS) + sorted(BROKEN_ACTIONS) + sorted(SHAPES)
            raise ValueError(f"unknown action {action!r}; known: {', '.join(actions)}")
        if times is not None and (not isinstance(times, int) or times < 0):
            raise ValueError("'times' is an integer or null")
        if "conversation" in match:
            try:
                re.compile(str(match["conversation"]))
            except re.error as error:
                raise ValueError(f"'conversation' is not a regular expression: {error}") from error
        turns = tuple(Turn.from_json(turn) for turn in parameters.pop("turns", []))
        if action == "override" and not turns:
            raise ValueError("action 'override' needs 'turns'")
        return cls(match, action, parameters, times, bool(data.get("per_conversation")), turns)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as a JSON object."""
        data: dict[str, Any] = {"match": self.match, "action": self.action, "times": self.times}
        data |= self.parameters
        if self.per_conversation:
            data["per_conversation"] = True
        if self.turns:
            data["turns"] = [{"text": t.text, "commands": list(t.commands)} for t in self.turns]
        return data

    def applies(self, role: Role, conversation: str, step: int) -> bool:
        """Return whether the rule matches the call, regardless of `times`."""
        if self.match.get("probe"):
            return False
        first = int(self.match.get("from_step", 0))
        last = self.match.get("to_step")
        if step < first or (last is not None and step > int(last)):
            return False
        if self.action == "override" and step - first >= len(self.turns):
            return False
        conditions = self.match
        name = f"{conversation} {role}"
        return (
            conditions.get("repo", role.repo) == role.repo
            and conditions.get("task", role.task) == role.task
            and tuple(sorted(conditions.get("features", role.features))) == role.features
            and conditions.get("agent", role.agent) == role.agent
            and conditions.get("kind", role.kind) == role.kind
            and re.search(str(conditions.get("conversation", "")), name) is not None
        )

    def override(self, step: int) -> Turn:
        """Return the turn that an override plays at this step."""
        return self.turns[step - int(self.match.get("from_step", 0))]


class Faults:
    """The active rules, and how often each has been applied. The first matching rule applies."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self._applied: Counter[tuple[int, str]] = Counter()

    @classmethod
    def from_json(cls, data: Any) -> Faults:
        """Parse a list of rules or {"rules": [...]}; ValueError names the invalid rule."""
        entries = data.get("rules") if isinstance(data, dict) else data
        if not isinstance(entries, list):
            raise ValueError("faults are a list of rules, or an object with 'rules'")
        rules = []
        for number, rule in enumerate(entries):
            try:
                rules.append(Rule.from_json(rule))
            except ValueError as error:
                raise ValueError(f"rule {number}: {error}") from error
        return cls(rules)

    def next_rule(self, role: Role, conversation: str, step: int) -> Rule | None:
        """Return and count the rule that applies to this call, None if the call succeeds."""
        for number, rule in enumerate(self.rules):
            key = (number, conversation if rule.per_conversation else "")
            is_spent = rule.times is not None and self._applied[key] >= rule.times
            if not is_spent and rule.applies(role, conversation, step):
                self._applied[key] += 1
                return rule
        return None

    def next_probe_rule(self) -> Rule | None:
        """Return and count the first rule for calls of one token."""
        for number, rule in enumerate(self.rules):
            is_spent = rule.times is not None and self._applied[number, ""] >= rule.times
            if rule.match.get("probe") and not is_spent:
                self._applied[number, ""] += 1
                return rule
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the rules, each with its number of applications."""
        counts: Counter[int] = Counter()
        for (number, _), times in self._applied.items():
            counts[number] += times
        rules = [{**rule.to_json(), "struck": counts[at]} for at, rule in enumerate(self.rules)]
        return {"rules": rules}
