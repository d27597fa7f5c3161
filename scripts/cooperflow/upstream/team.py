"""A team's coordination as upstream records it: metrics, features, and the shared task list.

`result.json` has `metrics` and `team_features`. `task_log.json` has an event per change of the task
list (`kind` create, claim or update; `ts`, `by`, `task_id`), `tasks.json` the tasks at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOG = "task_log.json"
TASKS = "tasks.json"

# Columns of runs.csv; empty where the setting is not team.
COLUMNS = ("team_features", "team_tasks", "team_tasks_done", "team_unowned", "team_first_claim_s")
NUMBERS = COLUMNS[1:]
_METRICS = ("tasks_total", "tasks_done", "unowned_at_end", "time_to_first_claim_seconds")


def columns(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's columns: features of the team that were on, and upstream's metrics."""
    features = _mapping(result.get("team_features"))
    metrics = _mapping(result.get("metrics"))
    values = [metrics.get(name) for name in _METRICS]
    on = ";".join(name for name, value in features.items() if value)
    numbers = [value if _is_number(value) else None for value in values]
    return {"team_features": on, **dict(zip(NUMBERS, numbers, strict=True))}


@dataclass(frozen=True)
class Change:
    """A change of the shared task list."""

    seconds: float | None  # since the first change
    agent: str
    kind: str
    task: str
    text: str


def changes(log: Any, tasks: Any) -> list[Change]:
    """Return who changed which task when, in order. What is not upstream's form is left out."""
    titles = {
        str(task.get("id")): str(task.get("title") or "")
        for task in (tasks if isinstance(tasks, list) else [])
        if isinstance(task, Mapping)
    }
    events = [event for event in log if isinstance(event, Mapping)] if isinstance(log, list) else []
    times = [float(event["ts"]) for event in events if _is_number(event.get("ts"))]
    begin = min(times, default=0.0)
    found = []
    for event in sorted(events, key=lambda e: float(e["ts"]) if _is_number(e.get("ts")) else begin):
        task = str(event.get("task_id") or event.get("id") or "")
        detail = event.get("status") or event.get("note") or event.get("title") or ""
        seconds = float(event["ts"]) - begin if _is_number(event.get("ts")) else None
        found.append(
            Change(
                seconds,
                str(event.get("by") or event.get("agent") or ""),
                str(event.get("kind") or ""),
                titles.get(task) or task,
                str(detail),
            )
        )
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
