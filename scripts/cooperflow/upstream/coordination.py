"""Coordination of agents as upstream records it: messages, and the tasks of a team.

Upstream lists in conversation.json what an agent reports as sent, and after that every text of an
answer that looks like `send_message NAME "..."`. The agents below report each delivered message,
so for them such a text is only a quotation: nothing was sent.

A team's `result.json` has `metrics` and `team_features`. `task_log.json` has an event per change of
the task list (`kind` create, claim or update; `ts`, `by`, `task_id`), `tasks.json` the tasks at the
end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cooperflow.upstream import trajectory

CONVERSATION = "conversation.json"
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

TASK_LOG = "task_log.json"
TASKS = "tasks.json"

# Columns of runs.csv; empty where the setting is not team.
TEAM_COLUMNS = (
    "team_features",
    "team_tasks",
    "team_tasks_done",
    "team_unowned",
    "team_first_claim_s",
)
TEAM_NUMBERS = TEAM_COLUMNS[1:]
_METRICS = ("tasks_total", "tasks_done", "unowned_at_end", "time_to_first_claim_seconds")


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
    messages: list[Message] = []
    for entry in reversed(listed):  # quotations follow what the same agent sent
        message = _message(entry)
        key = (message.sender, message.to, message.text)
        if quoted[key]:
            quoted[key] -= 1
        else:
            messages.append(message)
    return messages[::-1]


def requested(command: str) -> list[tuple[str, str]]:
    """Return the messages (recipient, text) that mini_swe_agent_v2 takes out of a command."""
    heredocs = [(match[1], match[3]) for match in _HEREDOC.finditer(command)]
    if heredocs:
        return heredocs
    return [(match[1], match[2]) for rule in _IN_QUOTES for match in rule.finditer(command)]


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
    quotations = []
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
            quotations.append((match[1], match[2]))
    return quotations


def _message(entry: Mapping[str, Any]) -> Message:
    return Message(
        str(entry.get("from")),
        trajectory.text_of(entry.get("to")),
        trajectory.text_of(entry.get("message")),
        trajectory.number_of(entry.get("timestamp")),
    )


def team_columns(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's columns: features of the team that were on, and upstream's metrics."""
    features = _mapping(result.get("team_features"))
    metrics = _mapping(result.get("metrics"))
    values = [metrics.get(name) for name in _METRICS]
    on = ";".join(name for name, value in features.items() if value)
    numbers = [value if _is_number(value) else None for value in values]
    return {"team_features": on, **dict(zip(TEAM_NUMBERS, numbers, strict=True))}


@dataclass(frozen=True)
class TaskChange:
    """A change of the shared task list."""

    seconds: float | None  # since the first change
    agent: str
    kind: str
    task: str
    text: str


def task_changes(log: Any, tasks: Any) -> list[TaskChange]:
    """Return who changed which task when, in order. What is not upstream's form is left out."""
    known = [t for t in (tasks if isinstance(tasks, list) else []) if isinstance(t, Mapping)]
    titles = {str(task.get("id")): str(task.get("title") or "") for task in known}
    # The runner creates each task for an agent, which the log does not record.
    assigned = {
        str(task.get("id")): f"assigned to {agent}"
        for task in known
        if (agent := _mapping(task.get("metadata")).get("assigned_to"))
    }
    events = [event for event in log if isinstance(event, Mapping)] if isinstance(log, list) else []
    times = [float(event["ts"]) for event in events if _is_number(event.get("ts"))]
    begin = min(times, default=0.0)
    changes = []
    for event in sorted(events, key=lambda e: float(e["ts"]) if _is_number(e.get("ts")) else begin):
        task = str(event.get("task_id") or event.get("id") or "")
        kind = str(event.get("kind") or "")
        detail = event.get("status") or event.get("note") or ""
        if kind == "create":
            detail = assigned.get(task) or detail
        seconds = round(float(event["ts"]) - begin, 3) if _is_number(event.get("ts")) else None
        changes.append(
            TaskChange(
                seconds,
                str(event.get("by") or event.get("agent") or ""),
                kind,
                titles.get(task) or str(event.get("title") or task),
                str(detail),
            )
        )
    return changes


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
