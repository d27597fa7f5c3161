"""Recordings: file format, validation, and loading of a directory."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
KINDS = ("solo", "coop-comm", "coop-nocomm")
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


class RecordingError(ValueError):
    """A recording is unusable; the message names the file and the reason."""


_TURN = {"text", "commands", "tools", "tokens", "after", "full"}


@dataclass(frozen=True)
class Turn:
    """One answer of the assistant: text, bash commands and other tool calls.

    tokens: reported usage (in and out, then billed in and out if different); None: counted from the
        text.
    after: number of turns that each other agent must have requested before this turn is answered.
    full: the context window is full, so the answer is an error.
    tools: name and JSON arguments of each call.
    """

    text: str
    commands: tuple[str, ...]
    tokens: tuple[int, ...] | None = None
    after: tuple[tuple[str, int], ...] = ()
    full: bool = False
    tools: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_json(cls, data: Any) -> Turn:
        """Parse {"text": str, "commands": [str, ...], "tools": {name: arguments}, ...}.

        ValueError if it is not a turn.
        """
        if not isinstance(data, dict) or set(data) - _TURN:
            raise ValueError("a turn is an object with 'text', 'commands' and 'tools'")
        text, commands = data.get("text", ""), data.get("commands", [])
        if not isinstance(text, str) or not isinstance(commands, list):
            raise ValueError("'text' is a string and 'commands' a list")
        if not all(isinstance(command, str) for command in commands):
            raise ValueError("'commands' must contain strings")
        tokens, after = data.get("tokens"), data.get("after") or {}
        if tokens is not None:
            tokens = tuple(int(count) for count in tokens)
        after_turns = tuple((str(agent), int(turns)) for agent, turns in after.items())
        tools = data.get("tools", {})
        if not isinstance(tools, dict) or not all(isinstance(v, dict) for v in tools.values()):
            raise ValueError("'tools' must have the arguments of each tool by its name")
        tool_calls = tuple((name, json.dumps(v, ensure_ascii=False)) for name, v in tools.items())
        return cls(text, tuple(commands), tokens, after_turns, data.get("full") is True, tool_calls)


@dataclass(frozen=True)
class Role:
    """One agent in one kind of setting on one task.

    features: the features that the agent implements, both of a pair (solo, ascending) or its own
        (coop). agent: "solo", "agent1" or "agent2".
    """

    repo: str
    task: int
    features: tuple[int, ...]
    kind: str
    agent: str

    def __str__(self) -> str:
        features = "+".join(f"f{feature}" for feature in self.features)
        return f"{self.repo}/task{self.task} {features} {self.kind} {self.agent}"


@dataclass(frozen=True)
class Recording:
    """All turns of an agent, and the lines of the feature texts that identify its task."""

    role: Role
    titles: tuple[str, ...]
    turns: tuple[Turn, ...]
    path: str = ""


def parse(data: Any, path: str = "") -> Recording:
    """Parse a JSON document; RecordingError if it is invalid."""
    try:
        return _parse(data, path)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise RecordingError(f"{path or 'recording'}: {reason}") from error


def _parse(data: Any, path: str) -> Recording:
    if not isinstance(data, dict):
        raise ValueError("a recording is an object")
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']!r} is unknown; supported: {SCHEMA}")
    kind, agent = data["kind"], data["agent"]
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    if not (agent == "solo" if kind == "solo" else re.fullmatch(r"agent\d+", agent)):
        raise ValueError(f"agent {agent!r} is not possible with kind {kind!r}")
    features = tuple(sorted(int(feature) for feature in data["asked"]))
    titles = tuple(data["titles"])
    if len(features) != len(titles) or not all(
        isinstance(title, str) and title for title in titles
    ):
        raise ValueError("'titles' needs one line for each feature in 'asked'")
    turns = tuple(Turn.from_json(turn) for turn in data["turns"])
    if not turns:
        raise ValueError("'turns' is empty")
    role = Role(str(data["repo"]), int(data["task_id"]), features, kind, agent)
    return Recording(role, titles, turns, path)


def load(directory: Path) -> list[Recording]:
    """Return all recordings (*.json) below the directory, sorted by path.

    RecordingError if none exist, if a recording is invalid, or if two have the same role.
    """
    recordings: dict[Role, Recording] = {}
    for path in sorted(directory.rglob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordingError(f"{path}: cannot be read: {error}") from error
        recording = parse(data, str(path))
        if recording.role in recordings:
            other = recordings[recording.role].path
            raise RecordingError(f"{path}: the same role as {other}: {recording.role}")
        recordings[recording.role] = recording
    if not recordings:
        raise RecordingError(f"{directory}: contains no recordings (*.json)")
    return list(recordings.values())
