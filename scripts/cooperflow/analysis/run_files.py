"""Files of a run: documents, patches, attempts, messages and raw files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cooperflow import atomic_io, layout
from cooperflow.analysis import losses, story
from cooperflow.analysis.communication import Communication, measure, touched_files
from cooperflow.analysis.losses import OwnFeature
from cooperflow.analysis.story import Story
from cooperflow.experiment.plan import Run
from cooperflow.layout import RunFolder
from cooperflow.outcomes import patch_text, usage
from cooperflow.outcomes.patch_text import HunkPair
from cooperflow.outcomes.usage import Call, Usage
from cooperflow.upstream import result_files, trajectory
from cooperflow.upstream.result_files import Message

# A file larger than this is not read into a page; the page links to it.
LARGEST_FILE = 20_000_000
# Patches with more characters together are not searched for overlaps.
LARGEST_PARSED = 2_000_000


@dataclass(frozen=True)
class Patch:
    """A patch file and its text, with its agent and feature in a run of two agents."""

    name: str
    text: str
    agent: str = ""
    feature: int | None = None


@dataclass(frozen=True)
class Attempt:
    """Outcome and usage of one attempt."""

    number: int
    record: Mapping[str, Any]
    usage: Usage
    calls: tuple[Call, ...]

    @property
    def errors(self) -> dict[str, int]:
        """Numbers of unanswered calls, by kind."""
        counts: dict[str, int] = {}
        for call in self.calls:
            if call.kind != usage.ANSWERED:
                counts[call.kind] = counts.get(call.kind, 0) + 1
        return counts


@dataclass(frozen=True)
class RunFiles:
    """The folder of a run as the report reads it."""

    run: Run
    folder: RunFolder

    @cached_property
    def result(self) -> Mapping[str, Any]:
        return _document(self.folder.result)

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        return _document(self.folder.eval)

    @cached_property
    def merge_status(self) -> str:
        """Upstream's status of the merge; empty without one."""
        merge = self.evaluation.get("merge")
        return str(merge.get("status") or "") if isinstance(merge, Mapping) else ""

    @cached_property
    def conflicting_files(self) -> tuple[str, ...]:
        """Files in which hunks of both patches overlap, in order."""
        return tuple(dict.fromkeys(pair.first.file for pair in self.hunk_pairs if pair.overlaps))

    @cached_property
    def task_changes(self) -> list[result_files.TaskChange]:
        """Changes of a team's shared list of tasks, with agent and time."""
        log, tasks = (
            atomic_io.read_json(self.folder.path / name)
            for name in (result_files.TASK_LOG, result_files.TASKS)
        )
        return result_files.task_changes(log, tasks)

    @cached_property
    def files(self) -> list[str]:
        """The run's raw files by their path below its folder, attempts included, in order."""
        root = str(self.folder.path)
        names_below = []
        for here, _, names in os.walk(root):
            subfolder = here[len(root) + 1 :]
            names_below += [os.path.join(subfolder, n) for n in names if not n.startswith(".")]
        return sorted(names_below, key=lambda name: (name.count("/"), name))

    @cached_property
    def patches(self) -> list[Patch]:
        # Upstream names the file after the feature, not after the agent.
        owners = {
            f"agent{end['feature_id']}.patch": (agent, int(end["feature_id"]))
            for agent, end in self.agents.items()
            if len(self.agents) > 1 and isinstance(end.get("feature_id"), int)
        }
        names = [f for f in self.files if f.endswith(".patch") and "/" not in f]
        names.sort(key=trajectory.by_number)
        return [
            Patch(name, _read(self.folder.path / name), *owners.get(name, ())) for name in names
        ]

    @cached_property
    def agent_patches(self) -> list[Patch]:
        """The patches of the agents of a run of two, without other patch files."""
        return [patch for patch in self.patches if patch.agent]

    @cached_property
    def agents(self) -> dict[str, Mapping[str, Any]]:
        """Upstream's status of each agent's end, by the agent's name."""
        if isinstance(self.result.get("agent"), dict):
            return {"solo": self.result["agent"]}
        agents = self.result.get("agents")
        if not isinstance(agents, dict):
            return {}
        return {name: agents[name] for name in sorted(agents, key=trajectory.by_number)}

    @cached_property
    def attempts(self) -> list[Attempt]:
        attempts = []
        for number, records in self._records.items():
            calls = usage.calls(records)
            record = _document(self.folder.attempt(number) / layout.ATTEMPT)
            attempts.append(Attempt(number, record, usage.total(calls), tuple(calls)))
        return attempts

    @cached_property
    def _records(self) -> dict[int, list[dict[str, Any]]]:
        """The call logs, by attempt."""
        return {
            number: atomic_io.read_lines(self.folder.attempt(number) / layout.CALLS)
            for number in self.folder.attempt_numbers()
        }

    @cached_property
    def _trajectories(self) -> dict[str, Mapping[str, Any]]:
        """The run's trajectories by file name."""
        names = [f for f in self.files if "/" not in f and trajectory.is_trajectory(f)]
        return {name: _document(self.folder.path / name) for name in names}

    def stored_name(self, name: str) -> str:
        """Return the name under which a file exists, which may be its compressed form."""
        compressed = f"{name}{atomic_io.COMPRESSED}"
        return compressed if name not in self.files and compressed in self.files else name

    @cached_property
    def _last_records(self) -> list[dict[str, Any]]:
        """The call log of the attempt that made the result."""
        return self._records[max(self._records)] if self._records else []

    @cached_property
    def messages(self) -> list[Message]:
        """The messages that the agents sent to each other."""
        path = self.folder.path / result_files.CONVERSATION
        if path.is_file() or not self.run.experiment.setting.messaging:
            framework = str(self.result.get("agent_framework") or "")
            return result_files.sent_messages(
                atomic_io.read_json(path), self._trajectories, framework
            )
        return result_files.messages_of_calls(story.answered(self._last_records, self._names))

    @cached_property
    def _names(self) -> list[str]:
        return list(self.agents) or ["solo"]

    @cached_property
    def story(self) -> Story:
        """The agents' events in the attempt that made the result."""
        agents = trajectory.parse(self._trajectories)
        records = self._last_records
        # An attempt that was ended may hold the trajectory of one agent only.
        has_turns = any(agent.has_turns for agent in agents.values())
        if not has_turns or (records and not all(name in agents for name in self._names)):
            return story.of_calls(records, self._names, self.messages)
        recorded_story = story.of_trajectories(agents, self.messages)
        return story.with_failed_calls(story.with_raw_answers(recorded_story, records), records)

    @cached_property
    def communication(self) -> Communication:
        """The messages with their traits, and the measures of the run."""
        touched: dict[str, list[str]] = {agent: [] for agent in self.story.agents}
        for patch in self.agent_patches:
            touched.setdefault(patch.agent, []).extend(touched_files(patch.text))
        return measure(self.story, touched)

    @cached_property
    def own_features(self) -> dict[str, OwnFeature]:
        """The verdict on each agent's patch alone, by the agent's name; empty without own.json."""
        return losses.read_features(_document(self.folder.own))

    @cached_property
    def hunk_pairs(self) -> list[HunkPair]:
        """The hunks of two agents that overlap or are near, the overlapping ones first."""
        texts = [patch.text for patch in self.agent_patches]
        if len(texts) != 2 or sum(map(len, texts)) > LARGEST_PARSED:
            return []
        first, second = (patch_text.parse(text.encode("utf-8", "replace")) for text in texts)
        if first is None or second is None:
            return []
        pairs = patch_text.hunk_pairs(first, second)
        return sorted(pairs, key=lambda pair: not pair.overlaps)


def state_of(folder: RunFolder) -> list[int] | None:
    """Return the state of a run that its page depends on: times and sizes of its documents.

    None: the run has not ended.
    """
    try:
        result, evaluation = os.stat(folder.result), os.stat(folder.eval)
    except FileNotFoundError:
        return None
    state = [result.st_mtime_ns, result.st_size, evaluation.st_mtime_ns, evaluation.st_size]
    try:
        own = os.stat(folder.own)
    except FileNotFoundError:
        return state
    return [*state, own.st_mtime_ns, own.st_size]


def linker(folder: Path, page: Path) -> Callable[[str], str]:
    """Return a function from a file in a folder to its relative URL on the page ``page``."""
    base = quote(os.path.relpath(folder, page.parent), errors="surrogateescape")
    return lambda name: f"{base}/{quote(name, errors='surrogateescape')}"


def _document(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            return {}
    except OSError:
        return {}
    return atomic_io.read_object(path)


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(LARGEST_FILE).decode("utf-8", errors="replace")
