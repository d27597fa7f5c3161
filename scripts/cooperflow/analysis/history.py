"""History of a run: the agents' events on a common clock, from trajectories or the call log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cooperflow.outcomes import provider_answer, usage
from cooperflow.upstream import trajectory
from cooperflow.upstream.result_files import Message
from cooperflow.upstream.trajectory import Trajectory, number_of, text_of

SEND = "send_message"

# Fraction of the total time within which two agents' steps share a row.
SAME = 0.02
LEAST_SAME = 1.0  # seconds


@dataclass(frozen=True)
class Command:
    """A command in a step, and its output."""

    text: str
    output: str | None = None  # None: not recorded
    code: int | None = None
    seconds: float | None = None
    is_shell: bool = True  # False: `text` contains the arguments of another tool call


@dataclass(frozen=True)
class Event:
    """An action of an agent, or an event that affects the agent."""

    agent: str
    time: float | None
    kind: str  # step, message, received, summary, error
    number: int = 0  # of a step
    text: str = ""
    commands: tuple[Command, ...] = ()
    to: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    answer_id: str = ""  # of a step
    thought: str = ""  # reasoning in the provider's raw answer, which the agent drops
    refusal: str = ""
    is_cut: bool = False  # the answer hit the limit of output tokens


@dataclass(frozen=True)
class History:
    """A run's agents, and their events in order."""

    agents: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    task: Mapping[str, str] = field(default_factory=dict)  # the first prompt of each agent
    complete: bool = True  # False: from the call log, which lacks outputs
    answers: Mapping[str, str] = field(default_factory=dict)  # agent by the id of a model's answer
    files: Mapping[str, str] = field(default_factory=dict)  # trajectory file by agent


def from_trajectories(
    trajectories: Mapping[str, Trajectory], conversation: Sequence[Message]
) -> History:
    """Return the history from trajectories, with each message at the step that sent it."""
    events: list[Event] = []
    for agent, agent_trajectory in trajectories.items():
        messages = [m for m in conversation if m.sender == agent]
        events += _insert_messages(agent, _events(agent_trajectory), messages)
    return History(
        tuple(trajectories),
        tuple(sort_events(events)),
        {agent: agent_trajectory.task for agent, agent_trajectory in trajectories.items()},
        answers={
            entry.answer_id: agent
            for agent, agent_trajectory in trajectories.items()
            for entry in agent_trajectory.entries
            if entry.answer_id
        },
        files={
            agent: agent_trajectory.files[0]
            for agent, agent_trajectory in trajectories.items()
            if agent_trajectory.files
        },
    )


def from_calls(
    records: Iterable[Mapping[str, Any]],
    names: Sequence[str],
    conversation: Sequence[Message] = (),
) -> History:
    """Return the history from an attempt's call log, in which each thread is an agent."""
    ends = [r for r in records if r.get("event") == "end"]
    agents = _by_thread(ends, names)
    counts = dict.fromkeys(agents.values(), 0)
    events = []
    for record in ends:
        agent = agents[str(record.get("thread"))]
        time = number_of(record.get("time"))
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
                text_of(message.get("content")),
                tuple(
                    Command(c.text, is_shell=c.is_shell) for c in trajectory.commands_of(message)
                ),
                input_tokens=int(record.get("input_tokens") or 0),
                output_tokens=int(record.get("output_tokens") or 0),
                cost=number_of(record.get("cost")) or 0.0,
                answer_id=str(record.get("response_id") or ""),
            )
        )
    events += [_message(m, m.time) for m in conversation]
    history = History(tuple(agents.values()), tuple(sort_events(events)), complete=False)
    return add_answer_details(history, ends)


def answered_calls(
    records: Iterable[Mapping[str, Any]], names: Sequence[str]
) -> list[tuple[str, float | None, Mapping[str, Any]]]:
    """Return agent, time and message of each answered call in a call log."""
    ends = [r for r in records if r.get("event") == "end"]
    agents = _by_thread(ends, names)
    return [
        (agents[str(r.get("thread"))], number_of(r.get("time")), r.get("message") or {})
        for r in ends
        if r.get("kind") == usage.ANSWERED
    ]


def _by_thread(ends: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """Return the agent of each thread."""
    threads = list(dict.fromkeys(str(r.get("thread")) for r in ends))
    if set(threads) <= set(names):
        names = threads  # the gateway names threads after agents
    elif len(threads) != len(names):
        names = [f"agent on thread {n}" for n, _ in enumerate(threads, start=1)]
    return dict(zip(threads, names, strict=True))


def add_failed_calls(history: History, records: Sequence[Mapping[str, Any]]) -> History:
    """Return the history with the failed model calls added."""
    ends = [r for r in records if r.get("event") == "end"]
    failed = [r for r in ends if r.get("kind") != usage.ANSWERED]
    if not failed:
        return history
    threads = {
        r.get("thread"): history.answers[str(r.get("response_id"))]
        for r in ends
        if str(r.get("response_id")) in history.answers
    }
    single_agent = history.agents[0] if len(history.agents) == 1 else ""
    events = [failed_call(r, threads.get(r.get("thread")) or single_agent) for r in failed]
    return replace(history, events=tuple(sort_events([*history.events, *events])))


def add_answer_details(history: History, records: Iterable[Mapping[str, Any]]) -> History:
    """Return the history with details of answers that only the call log has."""
    answers = {str(r["response_id"]): r for r in records if r.get("response_id")}
    events = []
    for event in history.events:
        record = answers.get(event.answer_id)
        if event.answer_id and record is not None:
            thought = str(record.get("thought") or "")
            thought = "" if thought.strip() in event.text else thought
            refusal = str(record.get("refusal") or "")
            is_cut = provider_answer.has_reached_output_limit(
                str(record.get("finish_reason") or "")
            )
            if thought or refusal or is_cut:  # copying every event would be slow
                event = replace(event, thought=thought, refusal=refusal, is_cut=is_cut)
        events.append(event)
    return replace(history, events=tuple(events))


def failed_call(record: Mapping[str, Any], agent: str) -> Event:
    """Return the event of a failed model call."""
    text = f"{record.get('kind')}: {record.get('error') or ''}"
    return Event(agent, number_of(record.get("time")), "error", text=text)


def sort_events(events: Iterable[Event]) -> list[Event]:
    """Return events sorted by time; an event without a time stays after its predecessor."""
    timed_events, last = [], 0.0
    for event in events:
        last = event.time if event.time is not None else last
        timed_events.append((last, event))
    return [event for _, event in sorted(timed_events, key=lambda pair: pair[0])]


def _events(agent_trajectory: Trajectory) -> list[Event]:
    """Return an agent's events; a summary is not a step."""
    events: list[Event] = []
    number = 0
    for entry in agent_trajectory.entries:
        tokens = entry.tokens or trajectory.Tokens()
        number += entry.kind == trajectory.TURN
        events.append(
            Event(
                agent_trajectory.agent,
                entry.time,
                "step" if entry.kind == trajectory.TURN else entry.kind,
                number if entry.kind == trajectory.TURN else 0,
                entry.text,
                tuple(_command(command, entry.time) for command in entry.commands),
                input_tokens=tokens.input,
                output_tokens=tokens.output,
                cost=entry.cost,
                answer_id=entry.answer_id,
            )
        )
    return _received_when_read(events)


def _command(command: trajectory.Command, started: float | None) -> Command:
    ended = command.ended
    seconds = ended - started if ended is not None and started is not None else None
    return Command(command.text, command.output, command.code, seconds, command.is_shell)


def _received_when_read(events: Sequence[Event]) -> list[Event]:
    """Set the time of received texts, which have none, to that of the agent's next step."""
    reversed_events: list[Event] = []
    following: float | None = None
    for event in reversed(events):
        if event.time is None:
            event = replace(event, time=following)
        following = event.time
        reversed_events.append(event)
    return reversed_events[::-1]


def _insert_messages(
    agent: str, events: Sequence[Event], messages: Sequence[Message]
) -> list[Event]:
    """Insert each message after the step that sent it, since upstream records no times."""
    unplaced = list(messages)
    ordered: list[Event] = []
    for event in events:
        ordered.append(event)
        for command in event.commands:
            if SEND not in command.text:
                continue
            for message in [m for m in unplaced if m.text.strip() in command.text]:
                unplaced.remove(message)
                ordered.append(_message(message, event.time))
    last = events[-1].time if events else None
    return ordered + [_message(m, m.time or last) for m in unplaced]


def _message(message: Message, time: float | None) -> Event:
    return Event(message.sender, time, "message", text=message.text, to=message.to)


@dataclass(frozen=True)
class Row:
    """One row of the displayed history: one event per agent, or one across all columns."""

    time: float | None  # seconds since the first row
    cells: Mapping[str, Event]
    wide: Event | None = None


def rows(events: Sequence[Event], agents: Sequence[str], start: float | None = None) -> list[Row]:
    """Return the rows in order; times are relative to ``start``, by default the first event."""
    times = [event.time for event in events if event.time is not None]
    zero = start if start is not None else min(times, default=0.0)
    same = max(LEAST_SAME, SAME * (max(times, default=zero) - zero))
    timeline: list[Row] = []
    for event in events:
        at = None if event.time is None else max(event.time - zero, 0.0)
        if event.kind == "message" or event.agent not in agents:
            timeline.append(Row(at, {}, event))
            continue
        last = timeline[-1] if timeline else None
        if (
            last is not None
            and last.wide is None
            and event.agent not in last.cells
            and at is not None
            and last.time is not None
            and at - last.time <= same
        ):
            timeline[-1] = Row(last.time, {**last.cells, event.agent: event})
        else:
            timeline.append(Row(at, {event.agent: event}))
    return timeline
