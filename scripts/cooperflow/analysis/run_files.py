"""Reader of a run's folder: documents, patches, attempts, messages and raw files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cooperflow import atomic_io, layout
from cooperflow.analysis import history, losses
from cooperflow.analysis.communication import Communication, changed_paths, measure
from cooperflow.analysis.history import History
from cooperflow.analysis.losses import OwnFeature
from cooperflow.experiment.plan import Run
from cooperflow.layout import RunFolder
from cooperflow.outcomes import patch_text, usage
from cooperflow.outcomes.patch_text import HunkPair
from cooperflow.outcomes.usage import Call, Usage
from cooperflow.upstream import result_files, trajectory
from cooperflow.upstream.result_files import Message

# Size above which a page links to a file instead of including it, bytes.
LARGEST_FILE = 20_000_000
# Total length of patches above which overlaps are not computed, characters.
LARGEST_PARSED = 2_000_000


@dataclass(frozen=True)
class Patch:
    """A patch file and its text; in a run of two agents also the agent and its feature."""

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
        """Number of failed calls, by kind."""
        counts: dict[str, int] = {}
        for call in self.calls:
            if call.kind != usage.ANSWERED:
                counts[call.kind] = counts.get(call.kind, 0) + 1
        return counts


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run's folder, read when needed."""

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
        """Changes of a team's shared task list, with agent and time."""
        log, tasks = (
            atomic_io.read_json(self.folder.path / name)
            for name in (result_files.TASK_LOG, result_files.TASKS)
        )
        return result_files.task_changes(log, tasks)

    @cached_property
    def files(self) -> list[str]:
        """Paths of the run's files below its folder, attempts included, sorted."""
        root = str(self.folder.path)
        names_below = []
        for parent, _, names in os.walk(root):
            subfolder = parent[len(root) + 1 :]
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
        names.sort(key=trajectory.number_key)
        return [
            Patch(name, _read(self.folder.path / name), *owners.get(name, ())) for name in names
        ]

    @cached_property
    def agent_patches(self) -> list[Patch]:
        """The patches of both agents of a run, without other patch files."""
        return [patch for patch in self.patches if patch.agent]

    @cached_property
    def agents(self) -> dict[str, Mapping[str, Any]]:
        """Upstream's status of each agent's end, by the agent's name."""
        if isinstance(self.result.get("agent"), dict):
            return {"solo": self.result["agent"]}
        agents = self.result.get("agents")
        if not isinstance(agents, dict):
            return {}
        return {name: agents[name] for name in sorted(agents, key=trajectory.number_key)}

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
        """Return the name under which a file exists, plain or compressed."""
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
        return result_files.messages_of_calls(
            history.answered_calls(self._last_records, self._names)
        )

    @cached_property
    def _names(self) -> list[str]:
        return list(self.agents) or ["solo"]

    @cached_property
    def history(self) -> History:
        """The agents' events in the attempt that made the result."""
        agents = trajectory.parse(self._trajectories)
        records = self._last_records
        # A terminated attempt may have the trajectory of only one agent.
        has_turns = any(agent.has_turns for agent in agents.values())
        if not has_turns or (records and not all(name in agents for name in self._names)):
            return history.from_calls(records, self._names, self.messages)
        recorded_history = history.from_trajectories(agents, self.messages)
        return history.add_failed_calls(
            history.add_answer_details(recorded_history, records), records
        )

    @cached_property
    def communication(self) -> Communication:
        """The messages with their traits, and the run's measures."""
        changed_files: dict[str, list[str]] = {agent: [] for agent in self.history.agents}
        for patch in self.agent_patches:
            changed_files.setdefault(patch.agent, []).extend(changed_paths(patch.text))
        return measure(self.history, changed_files)

    @cached_property
    def own_features(self) -> dict[str, OwnFeature]:
        """The verdict on each agent's patch alone, by the agent's name; empty without own.json."""
        return losses.read_features(_document(self.folder.own))

    @cached_property
    def hunk_pairs(self) -> list[HunkPair]:
        """The pairs of both agents' hunks that overlap or are near, overlapping pairs first."""
        texts = [patch.text for patch in self.agent_patches]
        if len(texts) != 2 or sum(map(len, texts)) > LARGEST_PARSED:
            return []
        first, second = (patch_text.parse(text.encode("utf-8", "replace")) for text in texts)
        if first is None or second is None:
            return []
        pairs = patch_text.hunk_pairs(first, second)
        return sorted(pairs, key=lambda pair: not pair.overlaps)


def state_of(folder: RunFolder) -> list[int] | None:
    """Return the state of a run on which its page depends: times and sizes of its documents.

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
    """Return a function that maps a file in ``folder`` to its URL relative to ``page``."""
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
