"""Parsing of a conversation: its agent, task, and number of turns."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from .recordings import Role

# Upstream replaces a long history by a summary, which it requests from the model. The replay's
# summaries contain the number of summarized turns, so that the step remains known.
SUMMARY_MARK = "Turns summarized by the replay:"
_SUMMARY_COUNT = re.compile(re.escape(SUMMARY_MARK) + r" (\d+)")
_TRANSCRIPT = re.compile(r"--- BEGIN TRANSCRIPT ---\n(.*)\n--- END TRANSCRIPT ---", re.DOTALL)
_AGENT = re.compile(r"You are \*\*(agent\d+)\*\*")
# OpenHands' system prompt, which does not contain the task.
_OPENHANDS = re.compile(r"^You are OpenHands agent")
_OPENHANDS_TEAM = re.compile(r"^You are (agent\d+) working as a team with", re.MULTILINE)


@dataclass(frozen=True)
class Message:
    """Role and text of a message of a request, independent of the wire format."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """The parsed contents of a request.

    step: number of the assistant's turns so far. summary: upstream requests a summary instead of
        the next turn. agent: empty if the conversation does not name it.
    """

    task_text: str
    kind: str
    agent: str
    step: int
    summary: bool


class InvalidRequest(ValueError):
    """The request is not a conversation of an agent; the message names the missing part."""


def parse_conversation(messages: list[Message]) -> Conversation:
    """Return the conversation in the messages; InvalidRequest if they have no task."""
    first = next((message.text for message in messages if message.role == "user"), None)
    if first is None:
        raise InvalidRequest("the user message is missing")
    system = next((message.text for message in messages if message.role == "system"), "")
    if _OPENHANDS.match(system):
        return _openhands(system, first, messages)
    transcript = _TRANSCRIPT.search(first)
    if transcript:
        task_text = transcript.group(1)
        step = _turns_in_transcript(task_text)
    else:
        task_text = first
        step = _turns([message for message in messages if message.role == "assistant"])
    # The setting follows the task's text, which may contain any text, so the last match counts.
    agents = list(_AGENT.finditer(task_text))
    if not agents:
        return Conversation(task_text, "solo", "solo", step, bool(transcript))
    match = agents[0] if transcript else agents[-1]
    messaging = re.search(r"^## Messaging\s*$", task_text[match.start() :], re.MULTILINE)
    kind = "coop-comm" if messaging else "coop-nocomm"
    return Conversation(task_text, kind, match.group(1), step, bool(transcript))


def _openhands(system: str, task_text: str, messages: list[Message]) -> Conversation:
    """Return the conversation of OpenHands, whose prompt names other agents only with messages."""
    step = sum(message.role == "assistant" for message in messages)
    match = _OPENHANDS_TEAM.search(system)
    if match:
        return Conversation(task_text, "coop-comm", match.group(1), step, False)
    if task_text.startswith("## Feature "):
        return Conversation(task_text, "solo", "solo", step, False)
    return Conversation(task_text, "coop-nocomm", "", step, False)


def _turns(answers: list[Message]) -> int:
    """Return the number of the assistant's turns; a summary counts as the turns that it states."""
    turns = 0
    for answer in answers:
        count = _SUMMARY_COUNT.search(answer.text)
        turns = int(count.group(1)) if count else turns + 1
    return turns


def _turns_in_transcript(transcript: str) -> int:
    """Return the number of the assistant's turns in upstream's flat transcript."""
    parts = re.split(r"^\[assistant\]$", transcript, flags=re.MULTILINE)
    return _turns([Message("assistant", part) for part in parts[1:]])


def conversation_id(role: Role) -> str:
    """Return a short name of the role, the same in every experiment and on every machine."""
    text = "|".join(
        [role.repo, str(role.task), ",".join(map(str, role.features)), role.kind, role.agent]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]
