"""Players: find the role and the turns for a conversation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .conversation import SUMMARY_MARK, Conversation
from .recordings import Recording, Role, Turn
from .scripts import Task


class UnknownConversation(LookupError):
    """A conversation without a recording; the message names the unrecognised part."""


class Player(Protocol):
    """Source of the turns of conversations."""

    def find(self, conversation: Conversation) -> tuple[Role, tuple[Turn, ...]]:
        """Return the role and all of its turns; UnknownConversation without a recording."""


class RecordingPlayer:
    """Plays recordings, which it finds by the titles of the features in a conversation."""

    def __init__(self, recordings: list[Recording]) -> None:
        self._recordings = recordings

    def find(self, conversation: Conversation) -> tuple[Role, tuple[Turn, ...]]:
        text = conversation.task_text
        matching = [r for r in self._recordings if all(title in text for title in r.titles)]
        fitting = [
            r
            for r in matching
            if r.role.kind == conversation.kind
            and conversation.agent
            in (r.role.agent, "")  # the feature identifies the agent in this case
        ]
        # A solo task contains both titles of a pair, so recordings with fewer must not match it.
        most_titles = max((len(r.titles) for r in fitting), default=0)
        fitting = [r for r in fitting if len(r.titles) == most_titles]
        if len(fitting) == 1:
            return fitting[0].role, fitting[0].turns
        features = "; ".join(titles_in(text)) or "no feature title ('**Title**: ...')"
        role = f"{conversation.agent} in {conversation.kind}"
        if fitting:
            roles = ", ".join(str(r.role) for r in fitting)
            raise UnknownConversation(
                f"several recordings fit {role}, asked for: {features}: {roles}"
            )
        if matching:
            roles = ", ".join(sorted({f"{r.role.agent} in {r.role.kind}" for r in matching}))
            raise UnknownConversation(
                f"no recording for {role}, asked for: {features}; available: {roles}"
            )
        raise UnknownConversation(f"no recording for the features asked for: {features}")


class ScriptPlayer:
    """Plays a script for any task of a data set, which it finds by the texts of the features."""

    def __init__(
        self, dataset: Path, script: Callable[[Task, tuple[int, ...]], tuple[Turn, ...]]
    ) -> None:
        self._tasks = [Task(path) for path in sorted(dataset.glob("*/task*")) if path.is_dir()]
        self._script = script
        if not self._tasks:
            raise ValueError(f"{dataset}: contains no tasks (REPO/taskID)")
        self._texts = {
            (task, feature): text.strip()
            for task in self._tasks
            for feature, text in task.feature_texts().items()
        }

    def find(self, conversation: Conversation) -> tuple[Role, tuple[Turn, ...]]:
        text = conversation.task_text
        parts = _solo_parts(text) if conversation.kind == "solo" else [(None, text)]
        fitting: list[tuple[Task, tuple[int, ...]]] = []
        for task in self._tasks:
            in_parts = [self._feature(task, number, part) for number, part in parts]
            features = tuple(feature for feature in in_parts if feature is not None)
            if features and len(features) == len(parts):
                fitting.append((task, features))
        if len(fitting) == 1:
            task, features = fitting[0]
            ordered = tuple(sorted(features))
            role = Role(task.repo, task.task_id, ordered, conversation.kind, conversation.agent)
            return role, self._script(task, features)
        requested = "; ".join(titles_in(text)) or text[:120].replace("\n", " ")
        if fitting:
            names = ", ".join(f"{task.repo}/task{task.task_id}" for task, _ in fitting)
            raise UnknownConversation(
                f"several tasks have the features asked for: {requested}: {names}"
            )
        raise UnknownConversation(
            f"no task of the data set has the features asked for: {requested}"
        )

    def _feature(self, task: Task, number: int | None, part: str) -> int | None:
        """Return the task's feature whose text is in the part, the longest if there are several."""
        fitting = [
            (len(text), feature)
            for (owner, feature), text in self._texts.items()
            if owner == task and text and text in part and number in (None, feature)
        ]
        return max(fitting)[1] if fitting else None


def turn_at(turns: tuple[Turn, ...], step: int) -> Turn:
    """Return the turn of a step; after the end of the recording, its last turn."""
    return turns[min(step, len(turns) - 1)]


def summary_of(conversation: Conversation, turns: tuple[Turn, ...]) -> Turn:
    """Return the answer to upstream's request for a summary, with the requested sections."""
    previous = turns[: conversation.step]
    commands = [command for turn in previous for command in turn.commands]
    lines = [f"    `{command.splitlines()[0][:120]}`" for command in commands if command.strip()]
    plan = previous[-1].text if previous else "(none)"
    text = "\n\n".join(
        [
            "## FILE MAP\n(none)",
            "## EDITS ALREADY APPLIED\n" + ("\n".join(lines) or "(none)"),
            "## COLLEAGUE MESSAGES\n(none)",
            f"## CURRENT PLAN\n{plan}",
            f"{SUMMARY_MARK} {conversation.step}",
        ]
    )
    return Turn(text, ())


def titles_in(text: str) -> list[str]:
    """Return the titles of the features in a task's text, for error messages."""
    return re.findall(r"^\*\*Title\*\*:\s*(.+?)\s*$", text, re.MULTILINE)[:4]


def _solo_parts(text: str) -> list[tuple[int | None, str]]:
    """Return the features of a solo task in the requested order: number and text."""
    marks = list(re.finditer(r"^## Feature (\d+)\n", text, re.MULTILINE))
    ends = [*(mark.start() for mark in marks[1:]), len(text)][: len(marks)]
    return [
        (int(mark.group(1)), text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)
    ]
