"""What the agents did, as events on one clock: from trajectories, or from the record of calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cooperflow.outcomes import usage

SEND = "send_message"


@dataclass(frozen=True)
class Command:
    """A command of a step and what came of it."""

    text: str
    output: str | None = None  # None: not recorded
    code: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Event:
    """Something that an agent did, or that was done to it."""

    agent: str
    time: float | None
    kind: str  # step, message, received, error
    number: int = 0  # of a step
    text: str = ""
    commands: tuple[Command, ...] = ()
    to: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Story:
    """A run's events in order, and who took part."""

    agents: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    task: Mapping[str, str] = field(default_factory=dict)  # what each agent was told at first
    complete: bool = True  # False: from the record of calls, which holds no outputs
    answers: Mapping[str, str] = field(default_factory=dict)  # id of a model's answer -> agent


def of_trajectories(
    documents: Mapping[str, Mapping[str, Any]], conversation: Sequence[Mapping[str, Any]]
) -> Story:
    """Return the story that trajectories tell, by agent, with the messages where they were sent."""
    told: dict[str, str] = {}
    events: list[Event] = []
    answers: dict[str, str] = {}
    for agent, document in documents.items():
        messages = [m for m in document.get("messages") or [] if isinstance(m, dict)]
        own, first = _steps(agent, messages)
        told[agent] = first
        answers |= dict.fromkeys(_answer_ids(messages), agent)
        sent = [m for m in conversation if m.get("from") == agent]
        events += _with_messages(agent, own, sent)
    return Story(tuple(documents), tuple(in_order(events)), told, answers=answers)


def has_steps(document: Mapping[str, Any]) -> bool:
    """Return whether a trajectory tells each step (OpenHands' has the words of its events only)."""
    messages = document.get("messages") or []
    return any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages)


def of_calls(
    records: Iterable[Mapping[str, Any]],
    names: Sequence[str],
    conversation: Sequence[Mapping[str, Any]] = (),
) -> Story:
    """Return what the record of one attempt's model calls tells; an agent is a thread."""
    ends = [r for r in records if r.get("event") == "end"]
    threads = list(dict.fromkeys(str(r.get("thread")) for r in ends))
    if set(threads) <= set(names):
        names = threads  # agents in containers say who they are
    elif len(threads) != len(names):
        names = [f"agent on thread {n}" for n, _ in enumerate(threads, start=1)]
    agents = dict(zip(threads, names, strict=True))
    counts = dict.fromkeys(names, 0)
    events = []
    for record in ends:
        agent = agents[str(record.get("thread"))]
        time = _number(record.get("time"))
        if record.get("kind") != usage.ANSWERED:
            events.append(failed_call(record, agent))
            continue
        counts[agent] += 1
        message = record.get("message") or {}
        events.append(
            Event(
                agent,
                time,
                "step",
                counts[agent],
                _text(message.get("content")),
                tuple(Command(c) for c in _commands(message)),
                input_tokens=int(record.get("input_tokens") or 0),
                output_tokens=int(record.get("output_tokens") or 0),
                cost=_number(record.get("cost")) or 0.0,
            )
        )
    events += [_message(str(m.get("from")), m, _number(m.get("timestamp"))) for m in conversation]
    return Story(tuple(names), tuple(in_order(events)), complete=False)


def with_failed_calls(story: Story, records: Sequence[Mapping[str, Any]]) -> Story:
    """Return the story with the model calls that failed, each at the agent that made it."""
    ends = [r for r in records if r.get("event") == "end"]
    failed = [r for r in ends if r.get("kind") != usage.ANSWERED]
    if not failed:
        return story
    threads = {
        r.get("thread"): story.answers[str(r.get("response_id"))]
        for r in ends
        if str(r.get("response_id")) in story.answers
    }
    alone = story.agents[0] if len(story.agents) == 1 else ""
    events = [failed_call(r, threads.get(r.get("thread")) or alone) for r in failed]
    return replace(story, events=tuple(in_order([*story.events, *events])))


def failed_call(record: Mapping[str, Any], agent: str) -> Event:
    """Return a model call that was not answered, as an event."""
    said = f"{record.get('kind')}: {record.get('error') or ''}"
    return Event(agent, _number(record.get("time")), "error", text=said)


def in_order(events: Iterable[Event]) -> list[Event]:
    """Return events by time; one without a time stays behind the one before it."""
    keyed, last = [], 0.0
    for event in events:
        last = event.time if event.time is not None else last
        keyed.append((last, event))
    return [event for _, event in sorted(keyed, key=lambda pair: pair[0])]


def _steps(agent: str, messages: Sequence[Mapping[str, Any]]) -> tuple[list[Event], str]:
    """Return an agent's events and what it was told before its first step."""
    outputs = {str(m.get("tool_call_id")): m for m in messages if m.get("role") == "tool"}
    events: list[Event] = []
    first: list[str] = []
    number = 0
    for message in messages:
        role = message.get("role")
        if role == "assistant":
            number += 1
            events.append(_step(agent, number, message, outputs))
        elif role in ("user", "system"):
            content = _text(message.get("content"))
            if not number:
                first.append(content)
            else:
                time = _number((message.get("extra") or {}).get("timestamp"))
                events.append(Event(agent, time, "received", text=content))
    return _received_when_read(events), "\n\n".join(first)


def _received_when_read(events: Sequence[Event]) -> list[Event]:
    """Give what an agent was told the time of its next step: it has none of its own."""
    timed: list[Event] = []
    following: float | None = None
    for event in reversed(events):
        if event.time is None:
            event = replace(event, time=following)
        following = event.time
        timed.append(event)
    return timed[::-1]


def _answer_ids(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the model's answers, by which a thread is known as an agent."""
    found = ((m.get("extra") or {}).get("response") or {} for m in messages)
    return [str(response["id"]) for response in found if response.get("id")]


def _step(
    agent: str, number: int, message: Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]
) -> Event:
    extra = message.get("extra") or {}
    begun = _number(extra.get("timestamp"))
    tokens = (extra.get("response") or {}).get("usage") or {}
    calls = message.get("tool_calls") or []
    commands = []
    for call, text in zip(calls, _commands(message), strict=True):
        answer = outputs.get(str(call.get("id"))) or {}
        about = answer.get("extra") or {}
        ended = _number(about.get("timestamp"))
        output = about.get("raw_output", answer.get("content"))
        seconds = ended - begun if ended is not None and begun is not None else None
        commands.append(
            Command(
                text,
                None if output is None else _text(output),
                about.get("returncode"),
                seconds,
            )
        )
    return Event(
        agent,
        begun,
        "step",
        number,
        _text(message.get("content")),
        tuple(commands),
        input_tokens=int(tokens.get("prompt_tokens") or 0),
        output_tokens=int(tokens.get("completion_tokens") or 0),
        cost=_number(extra.get("cost")) or 0.0,
    )


def _commands(message: Mapping[str, Any]) -> list[str]:
    """Return the command of each tool call; one that is none, as it stands."""
    commands = []
    for call in message.get("tool_calls") or []:
        asked = (call.get("function") or {}).get("arguments")
        try:
            arguments = json.loads(asked) if isinstance(asked, str) else asked
        except ValueError:
            arguments = asked
        if isinstance(arguments, dict) and isinstance(arguments.get("command"), str):
            commands.append(arguments["command"])
        else:
            commands.append(_text(arguments))
    return commands


def _with_messages(
    agent: str, events: Sequence[Event], sent: Sequence[Mapping[str, Any]]
) -> list[Event]:
    """Put each message behind the step that sent it: upstream's own record has no times."""
    waiting = list(sent)
    placed: list[Event] = []
    for event in events:
        placed.append(event)
        for command in event.commands:
            if SEND not in command.text:
                continue
            for message in [m for m in waiting if _text(m.get("message")).strip() in command.text]:
                waiting.remove(message)
                placed.append(_message(agent, message, event.time))
    last = events[-1].time if events else None
    return placed + [_message(agent, m, _number(m.get("timestamp")) or last) for m in waiting]


def _message(agent: str, message: Mapping[str, Any], time: float | None) -> Event:
    text = _text(message.get("message"))
    return Event(agent, time, "message", text=text, to=_text(message.get("to")))


def _text(value: Any) -> str:
    """Return any content as text: a string, a list of parts, or whatever a model made of it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and "text" in p for p in value):
        return "\n".join(str(p["text"]) for p in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
