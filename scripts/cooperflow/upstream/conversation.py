"""Messages that agents sent to each other: conversation.json without the quoted ones.

Upstream lists in conversation.json what an agent reports as sent, and after that every text of an
answer that looks like `send_message NAME "..."`. The agents below report each delivered message,
so for them such a text is only a quotation: nothing was sent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cooperflow.upstream import trajectory

FILE = "conversation.json"
REPORTING_AGENTS = frozenset(
    {"mini_swe_agent_v2", "claude_code", "codex", "openhands_sdk", "openhands_docker"}
)

# The expressions of upstream's runner/coop.py and of mini_swe_agent_v2 (agents/default.py).
_QUOTED = re.compile(r'send_message\s+(\w+)\s+"([^"]+)"')
_HEREDOC = re.compile(
    r"send_message\s+(?:--wait\s+)?(\w+)(?:\s+--wait)?\s+<<'?(\w+)'?\s*\n(.*?)\n\2", re.DOTALL
)
_IN_QUOTES = (
    re.compile(r'send_message\s+(?:--wait\s+)?(\w+)(?:\s+--wait)?\s+"([^"]*)"'),
    re.compile(r"send_message\s+(?:--wait\s+)?(\w+)(?:\s+--wait)?\s+'([^']*)'"),
)


@dataclass(frozen=True)
class Message:
    """A message from one agent to another."""

    sender: str
    to: str
    text: str
    time: float | None = None


def sent(conversation: Any, documents: Mapping[str, Any], framework: str = "") -> list[Message]:
    """Return the messages of conversation.json that were sent.

    Args:
        conversation: the parsed conversation.json.
        documents: the run's parsed trajectories by file name.
        framework: `agent_framework` of result.json.
    """
    entries = conversation if isinstance(conversation, list) else []
    listed = [m for m in entries if isinstance(m, Mapping)]
    quoted: Counter[tuple[str, str, str]] = Counter()
    for name, document in documents.items():
        # Upstream looks through the messages that an agent held at its end.
        if name.endswith(trajectory.FULL_SUFFIX) or not isinstance(document, Mapping):
            continue
        agent = trajectory.agent_of(name, document)
        quoted.update((agent, to, text) for to, text in _quotations(document, framework))
    kept: list[Message] = []
    for entry in reversed(listed):  # quotations follow what the same agent sent
        message = _message(entry)
        key = (message.sender, message.to, message.text)
        if quoted[key]:
            quoted[key] -= 1
        else:
            kept.append(message)
    return kept[::-1]


def requested(command: str) -> list[tuple[str, str]]:
    """Return the messages (recipient, text) that mini_swe_agent_v2 takes out of a command."""
    heredocs = [(found[1], found[3]) for found in _HEREDOC.finditer(command)]
    if heredocs:
        return heredocs
    return [(found[1], found[2]) for rule in _IN_QUOTES for found in rule.finditer(command)]


def of_calls(answers: Iterable[tuple[str, float | None, Mapping[str, Any]]]) -> list[Message]:
    """Return the messages that answers asked to send: of a run that left no conversation.json.

    Args:
        answers: agent, time and message of each answered model call.
    """
    return [
        Message(agent, to, text, time)
        for agent, time, answer in answers
        for command in trajectory.commands_of(answer)
        for to, text in requested(command.text)
    ]


def _quotations(document: Mapping[str, Any], framework: str) -> list[tuple[str, str]]:
    found = []
    messages = document.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, Mapping) or message.get("role") != "assistant":
            continue
        content = message.get("content")
        extra = message.get("extra")
        is_summary = isinstance(extra, Mapping) and bool(extra.get("summary"))
        # An agent of another kind may send by the text itself, unless it calls tools.
        reports = framework in REPORTING_AGENTS or is_summary or bool(message.get("tool_calls"))
        match = _QUOTED.search(content) if reports and isinstance(content, str) else None
        if match:
            found.append((match[1], match[2]))
    return found


def _message(entry: Mapping[str, Any]) -> Message:
    return Message(
        str(entry.get("from")),
        trajectory.text_of(entry.get("to")),
        trajectory.text_of(entry.get("message")),
        trajectory.number_of(entry.get("timestamp")),
    )
