"""Trajectories of cooperbench's agents, read into one record per agent.

An agent writes `{name}_traj.json` with the messages that it had at its end. Above a number of
tokens (`agent.compaction_token_trigger`) mini_swe_agent_v2 replaces its older messages by a
summary. It then also writes `{agent}_full_traj.json`, whose `segments` contain the messages before
each compaction. Adjacent segments overlap, and a segment lacks the outputs of its last turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SUFFIX = "_traj.json"
FULL_SUFFIX = "_full_traj.json"

# Kinds of entries.
TURN = "turn"  # an answer of the model that the agent acted on
SUMMARY = "summary"  # an answer that replaced older messages
RECEIVED = "received"  # a text that the agent received between two turns


@dataclass(frozen=True)
class Command:
    """A tool call of a turn, and its output if recorded."""

    text: str
    is_shell: bool = True  # False: `text` contains the arguments of another tool call
    output: str | None = None
    code: int | None = None
    ended: float | None = None


@dataclass(frozen=True)
class Tokens:
    """Tokens of one answer; cached tokens are part of the input."""

    input: int = 0
    output: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Entry:
    """A turn, a summary, or a received text. Times are seconds since the epoch."""

    kind: str
    text: str
    time: float | None = None
    commands: tuple[Command, ...] = ()
    answer_id: str = ""
    tokens: Tokens | None = None  # None: not recorded
    cost: float = 0.0


@dataclass(frozen=True)
class Trajectory:
    """The entries of one agent in order, from its first turn to its last."""

    agent: str
    task: str = ""  # the prompts before the first turn
    entries: tuple[Entry, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def has_turns(self) -> bool:
        """True if the turns are recorded. OpenHands' trajectory has only the text of its events."""
        return any(entry.kind == TURN for entry in self.entries)

    @property
    def turns(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == TURN]


def is_trajectory(name: str) -> bool:
    """Return whether a file name in a run's folder is that of a trajectory."""
    return name.endswith(SUFFIX)


def agent_of(name: str, document: Mapping[str, Any]) -> str:
    """Return the name of the agent that wrote a trajectory.

    `agent3_traj.json` is named after feature 3 and contains the agent's name; the name of a full
    trajectory is that of the agent.
    """
    if name.endswith(FULL_SUFFIX):
        return name.removesuffix(FULL_SUFFIX)
    return str(document.get("agent_id") or name.removesuffix(SUFFIX))


def parse(documents: Mapping[str, Any]) -> dict[str, Trajectory]:
    """Return the trajectory of each agent.

    Args:
        documents: the parsed trajectory files of one run by file name; others are ignored.
    """
    grouped: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, document in documents.items():
        if is_trajectory(name) and isinstance(document, Mapping) and _messages(document):
            grouped.setdefault(agent_of(name, document), {})[name] = document
    return {agent: _trajectory(agent, grouped[agent]) for agent in sorted(grouped, key=number_key)}


def messages_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return every message of a trajectory once, in the order of creation."""
    merged: list[Mapping[str, Any]] = []
    trailing: list[Mapping[str, Any]] = []
    for segment in [*_segments(document), {"kind": "solver", "messages": document["messages"]}]:
        messages = _messages(segment)
        if segment.get("kind") == "summarizer":
            trailing = _after_last_answer(messages[:-2])
        else:
            merged = _joined(merged, messages, trailing)
            trailing = []
    return merged


def commands_of(message: Mapping[str, Any]) -> list[Command]:
    """Return the tool calls of an answer, without outputs."""
    return [_command(call) for call in _tool_calls(message)]


def text_of(value: Any) -> str:
    """Return any message content as text: a string, a list of parts, or other JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and "text" in p for p in value):
        return "\n".join(str(p["text"]) for p in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def number_of(value: Any) -> float | None:
    """Return a JSON number as float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def number_key(name: str) -> tuple[str, int, str]:
    """Return a sort key that orders names by their number: agent4.patch before agent10.patch."""
    stem, dot, ending = name.partition(".")
    word = stem.rstrip("0123456789")
    return word, int(stem[len(word) :] or 0), dot + ending


def _trajectory(agent: str, documents: Mapping[str, Mapping[str, Any]]) -> Trajectory:
    # The full trajectory contains everything that the other trajectory contains.
    full = [document for name, document in documents.items() if name.endswith(FULL_SUFFIX)]
    messages = messages_of((full or list(documents.values()))[0])
    outputs = {str(m.get("tool_call_id")): m for m in messages if m.get("role") == "tool"}
    task: list[str] = []
    entries: list[Entry] = []
    for message in messages:
        role = message.get("role")
        if role == "assistant":
            entries.append(_answer(message, outputs))
        elif role in ("user", "system"):
            text = text_of(message.get("content"))
            if entries:
                time = number_of(_extra(message).get("timestamp"))
                entries.append(Entry(RECEIVED, text, time))
            else:
                task.append(text)
    return Trajectory(agent, "\n\n".join(task), tuple(entries), tuple(sorted(documents)))


def _answer(message: Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]) -> Entry:
    extra = _extra(message)
    response = extra.get("response")
    response = response if isinstance(response, Mapping) else {}
    commands = []
    for call in _tool_calls(message):
        answer = outputs.get(str(call.get("id"))) or {}
        about = _extra(answer)
        output = about.get("raw_output", answer.get("content"))
        command = _command(call)
        commands.append(
            Command(
                command.text,
                command.is_shell,
                None if output is None else text_of(output),
                about.get("returncode"),
                number_of(about.get("timestamp")),
            )
        )
    return Entry(
        SUMMARY if extra.get("summary") else TURN,
        text_of(message.get("content")),
        number_of(extra.get("timestamp")),
        tuple(commands),
        str(response.get("id") or ""),
        _tokens(response.get("usage")),
        number_of(extra.get("cost")) or 0.0,
    )


def _tokens(usage: Any) -> Tokens | None:
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return Tokens(
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        int(cached or 0),
    )


def _command(call: Mapping[str, Any]) -> Command:
    raw = (call.get("function") or {}).get("arguments")
    try:
        arguments = json.loads(raw) if isinstance(raw, str) else raw
    except ValueError:
        arguments = raw
    if isinstance(arguments, dict) and isinstance(arguments.get("command"), str):
        return Command(arguments["command"])
    return Command(text_of(arguments), is_shell=False)


def _joined(
    merged: Sequence[Mapping[str, Any]],
    segment: Sequence[Mapping[str, Any]],
    trailing: Sequence[Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    """Append a segment to the messages before it.

    A segment that follows a compaction consists of the two prompts, the summary, the most recent
    turns again (now with their outputs), and new messages. The summary was created after the recent
    turns and before the first new answer, so it is placed between them.

    Args:
        trailing: the messages after the last answer that the summary replaced. No other segment
            contains them if no recent turn was kept.
    """
    if not merged:
        return list(segment)
    positions = {_identity(message): n for n, message in enumerate(merged) if _is_answer(message)}
    summary = next((n for n, m in enumerate(segment) if _extra(m).get("summary")), None)
    if summary is None:
        start = next((n for n, m in enumerate(segment) if _identity(m) in positions), 0)
        start_of_recent = positions.get(_identity(segment[start])) if segment else None
        return [*merged[:start_of_recent], *segment[start:]]
    rest = list(segment[summary + 1 :])
    # Position of a summary that is already present: the segment repeats it at a later time.
    position = positions.get(_identity(segment[summary]), len(merged))
    first = next(
        (
            n
            for n, message in enumerate(rest)
            if _is_answer(message) and positions.get(_identity(message), len(merged)) >= position
        ),
        len(rest),
    )
    recent, fresh = rest[:first], rest[first:]
    start_of_recent = positions.get(_identity(recent[0])) if recent else None
    if start_of_recent is None:
        return [*merged[:position], *trailing, *recent, segment[summary], *fresh]
    repeated = _with_summaries(recent, merged[start_of_recent:position])
    return [*merged[:start_of_recent], *repeated, segment[summary], *fresh]


def _with_summaries(
    recent: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the recent turns with the earlier summaries that were created between them."""
    remaining = [message for message in before if _is_answer(message)]
    joined: list[Mapping[str, Any]] = []
    for message in recent:
        if _is_answer(message):
            while remaining and _identity(remaining[0]) != _identity(message):
                joined.append(remaining.pop(0))
            remaining = remaining[1:]
        joined.append(message)
    return [*joined, *remaining]


def _identity(message: Mapping[str, Any]) -> str:
    """Return the text by which two copies of an answer are recognised."""
    extra = _extra(message)
    response = extra.get("response")
    key = response.get("id") if isinstance(response, Mapping) else None
    calls = [call.get("id") for call in _tool_calls(message)]
    content = "" if key else text_of(message.get("content"))
    return repr((message.get("role"), key, calls, extra.get("timestamp"), content))


def _after_last_answer(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = max((n for n, m in enumerate(messages) if _is_answer(m)), default=len(messages))
    return list(messages[last + 1 :])


def _is_answer(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "assistant"


def _extra(message: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = message.get("extra")
    return extra if isinstance(extra, Mapping) else {}


def _tool_calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    return [c for c in calls if isinstance(c, Mapping)] if isinstance(calls, list) else []


def _segments(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    segments = document.get("segments")
    return [s for s in segments if isinstance(s, Mapping)] if isinstance(segments, list) else []


def _messages(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = document.get("messages")
    entries: Iterable[Any] = messages if isinstance(messages, list) else ()
    return [message for message in entries if isinstance(message, Mapping)]
