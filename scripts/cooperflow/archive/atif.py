"""Agent trajectories in the Agent Trajectory Interchange Format, ATIF v1.7. Pure.

Source: harbor's RFC 0001 and its pydantic models (package harbor 0.26, harbor.models.trajectories),
which refuse unknown fields. The models of v1.7 and v1.8 differ only in audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cooperflow.analysis.story import Command, Event, Story

VERSION = "ATIF-v1.7"
REPLAY_NOTE = "Replay: recorded answers were played, no model answered. Not a result of any model."


def trajectory(
    story: Story, agent: str, run: str, about: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the document of one agent; None if nothing of it is recorded.

    Args:
        run: the run's name; the agents of a run share it as `session_id`.
        about: ATIF's `agent`: name, version and model_name.
        extra: facts about the run; `replay` adds a note.
    """
    steps = _steps(story, agent)
    if not steps:
        return None
    metrics = [step["metrics"] for step in steps if "metrics" in step]
    document = {
        "schema_version": VERSION,
        "session_id": run,
        "trajectory_id": f"{run}/{agent}",
        "agent": dict(about),
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, start=1)],
        "final_metrics": {
            "total_prompt_tokens": sum(m["prompt_tokens"] for m in metrics),
            "total_completion_tokens": sum(m["completion_tokens"] for m in metrics),
            "total_cost_usd": round(sum(m["cost_usd"] for m in metrics), 6),
            "total_steps": len(steps),
        },
        "extra": dict(extra),
    }
    notes = [REPLAY_NOTE] if extra.get("replay") else []
    if not story.complete:
        notes.append("From the log of model calls: the outputs of commands were not recorded.")
    return {**document, "notes": " ".join(notes)} if notes else document


def model_name(name: str, replay: bool) -> str:
    """Return the name of a model, labelled if its answers were played by the replay server."""
    return f"{name} (replay)" if replay else name


def _steps(story: Story, agent: str) -> list[dict[str, Any]]:
    task = story.task.get(agent, "")
    steps: list[dict[str, Any]] = [{"source": "user", "message": task}] if task else []
    for event in story.events:
        if event.agent == agent and event.kind in _MAKERS:
            stamp = {} if event.time is None else {"timestamp": iso(event.time)}
            steps.append({**stamp, **_MAKERS[event.kind](event)})
    return steps


def _turn(event: Event) -> dict[str, Any]:
    calls = [
        {
            "tool_call_id": call_id(event, n),
            "function_name": function_name(command),
            "arguments": arguments(command),
        }
        for n, command in enumerate(event.commands, start=1)
    ]
    results = [
        {
            "source_call_id": call_id(event, n),
            "content": command.output,
            **({} if command.code is None else {"extra": {"exit_code": command.code}}),
        }
        for n, command in enumerate(event.commands, start=1)
        if command.output is not None
    ]
    step = {"source": "agent", "message": event.text, "llm_call_count": 1, "metrics": _used(event)}
    if event.thought:
        step["reasoning_content"] = event.thought
    if calls:
        step["tool_calls"] = calls
    if results:
        step["observation"] = {"results": results}
    return step


def _summary(event: Event) -> dict[str, Any]:
    return {
        "source": "agent",
        "message": event.text,
        "llm_call_count": 1,
        "metrics": _used(event),
        "extra": {"kind": "summary that replaced older messages"},
    }


def _received(event: Event) -> dict[str, Any]:
    return {"source": "user", "message": event.text}


def _error(event: Event) -> dict[str, Any]:
    return {"source": "system", "message": f"model call failed: {event.text}"}


# Messages are not separate steps: they are in the commands that sent them.
_MAKERS = {"step": _turn, "summary": _summary, "received": _received, "error": _error}


def call_id(event: Event, number: int) -> str:
    """Return the identifier of a command of a turn, unique within its agent."""
    return f"{event.agent}-{event.number}-{number}"


def function_name(command: Command) -> str:
    """Return the name of the tool: the trajectory keeps names of no other tool than the shell."""
    return "bash" if command.is_shell else "tool"


def arguments(command: Command) -> dict[str, Any]:
    return {"command" if command.is_shell else "arguments": command.text}


def _used(event: Event) -> dict[str, Any]:
    return {
        "prompt_tokens": event.input_tokens,
        "completion_tokens": event.output_tokens,
        "cost_usd": event.cost,
    }


def iso(moment: float) -> str:
    """Return a time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
