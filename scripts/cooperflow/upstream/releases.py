"""Releases of cooperbench: their changes, and the flags and agent configs of the installed one.

releases.toml lists the changes since 0.0.22; the tables of docs/upstream-versions.md are generated
from it (`python -m cooperflow.upstream.releases`). The module imports only the standard library at
first, because `make upgrade` uses it while it replaces the project's environment.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

# The repository that `cooperbench prepare` fetches (cooperbench.dataset.REPO_ID); importing that
# costs seconds. Published pins name CooperBench/cooperbench-dataset: config/dataset.known.json.
DATASET = "CodeConflict/cooperbench-dataset"


def _package() -> Path | None:
    spec = importlib.util.find_spec("cooperbench")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def agent_defaults(agent: str, mode: str) -> Any:
    """Return upstream's config of an agent in a setting, None if upstream has no such file."""
    import yaml

    package = _package()
    if package is None:
        return None
    name = "solo.yaml" if mode == "solo" else "coop.yaml"
    path = package / "agents" / agent / "config" / name
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def run_flags() -> frozenset[str]:
    """Return the long flags of `cooperbench run`; an empty set if its source cannot be parsed."""
    package = _package()
    try:
        source = (package / "cli.py").read_text(encoding="utf-8") if package else ""
        nodes = list(ast.walk(ast.parse(source)))
    except (OSError, SyntaxError):
        return frozenset()
    return frozenset(
        str(word.value)
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_parser.add_argument"
        for word in node.args
        if isinstance(word, ast.Constant) and str(word.value).startswith("--")
    )


UNKNOWN = "unknown"

# Caveats of an adopted run.
HISTORY_LEAKED = "history_leaked"
NOT_EVALUABLE = "not_evaluable"


@dataclass(frozen=True)
class Release:
    """One release and its changes; a text is empty where nothing changed."""

    version: str
    date: str  # ISO, as in upstream's changelog
    evaluation: str = ""
    messaging: str = ""
    data_and_images: str = ""
    agents: str = ""
    comparability: str = ""  # whether its results are comparable with the previous release

    @property
    def number(self) -> tuple[int, ...]:
        return number(self.version)


@dataclass(frozen=True)
class Amendment:
    """What 0.0.29 changed in a task, by upstream's dataset/SPEC_AUDIT.md."""

    task: str
    descriptions: tuple[int, ...] = ()  # features with an extended feature.md
    tests: tuple[int, ...] = ()  # features with other tests
    environment: str = ""  # runner and image


AMENDED_IN = "0.0.29"


@cache
def _facts() -> Mapping[str, Any]:
    import tomllib  # here, because every session and job imports this module

    return tomllib.loads(Path(__file__).with_name("releases.toml").read_text(encoding="utf-8"))


@cache
def all_releases() -> tuple[Release, ...]:
    return tuple(Release(**entry) for entry in _facts()["releases"])


@cache
def amendments() -> tuple[Amendment, ...]:
    return tuple(Amendment(**entry) for entry in _facts()["amended"])


@cache
def not_evaluable_features() -> Mapping[str, tuple[frozenset[int], str]]:
    """Return the features that no release before 0.0.29 could evaluate, and the reason, by task."""
    entries = _facts()["not_evaluable"]
    return {entry["task"]: (frozenset(entry["features"]), entry["reason"]) for entry in entries}


# Phrases in the prompts of mini_swe_agent_v2, and the first release that has each.
_SINCE = (
    (re.compile(r"gh pr create"), "0.0.23"),
    (re.compile(r"--body-file - <<"), "0.0.24"),
    (re.compile(r"may be waiting on your\s+reply before continuing"), "0.0.26"),
)
# Phrases that disappeared from the prompts, and the first release without each.
_UNTIL = ((re.compile(r"patch\.txt"), "0.0.23"),)


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers, for comparisons."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


@dataclass(frozen=True)
class Span:
    """Range of releases: `since` and newer, older than `before`; None: unbounded."""

    since: str | None = None
    before: str | None = None

    def is_before(self, version: str) -> bool:
        """Return whether every possible release is older than ``version``."""
        return self.before is not None and number(self.before) <= number(version)

    def __str__(self) -> str:
        versions = [release.version for release in all_releases() if self._holds(release.version)]
        if self.since is not None and len(versions) == 1:
            return versions[0]
        if self.since is not None and self.before is not None:
            return f"{versions[0]} to {versions[-1]}" if versions else UNKNOWN
        if self.before is not None:
            return f"before {self.before}"
        return UNKNOWN if self.since is None else f"{self.since} or newer"

    def _holds(self, version: str) -> bool:
        return (self.since is None or number(version) >= number(self.since)) and not (
            self.before is not None and number(version) >= number(self.before)
        )


def detect(started: float | None, prompts: Iterable[str]) -> Span:
    """Return the range of releases that may have made a run.

    Upstream's documents name no version. A run cannot be older than its prompts, nor newer than
    the day it started.

    Args:
        started: start of the run, seconds since the epoch.
        prompts: the first prompts of its mini_swe_agent_v2 agents.
    """
    text = "\n".join(prompts)
    since = [version for mark, version in _SINCE if mark.search(text)]
    before = []
    if text and not since:
        before += [version for mark, version in _UNTIL if mark.search(text)]
    if started is not None:
        # Upstream's times have no time zone: a day starts up to 14 hours earlier than in UTC.
        day = (datetime.fromtimestamp(started, UTC) + timedelta(hours=14)).date().isoformat()
        before += [release.version for release in all_releases() if day < release.date]
    return Span(max(since, key=number, default=None), min(before, key=number, default=None))


def caveats(span: Span, repo: str, task_id: int, features: Iterable[int]) -> list[str]:
    """Return the caveats that certainly apply to a run made by one of these releases."""
    words = [HISTORY_LEAKED] if span.is_before("0.0.23") else []
    if not_evaluable(span, repo, task_id, features):
        words.append(NOT_EVALUABLE)
    return words


def not_evaluable(span: Span, repo: str, task_id: int, features: Iterable[int]) -> list[int]:
    """Return the features of a run that its release certainly could not evaluate."""
    broken, _ = not_evaluable_features().get(f"{repo}/{task_id}", (frozenset(), ""))
    return sorted(broken & set(features)) if span.is_before("0.0.29") else []


def between(old: str, new: str) -> list[Release]:
    """Return the releases after the older of two versions, up to and including the newer."""
    low, high = sorted((number(old), number(new)))
    return [release for release in all_releases() if low < release.number <= high]


def describe(release: Release) -> list[str]:
    """Return the changes of a release, one line each."""
    parts = {
        "evaluation": release.evaluation,
        "messaging": release.messaging,
        "data and images": release.data_and_images,
        "agents": release.agents,
        "results comparable with the previous release": release.comparability,
    }
    if release.version == AMENDED_IN:
        parts["tasks that changed"] = ", ".join(entry.task for entry in amendments())
    return [f"{release.version}, {name}: {text}" for name, text in parts.items() if text]


def insert_tables(page: str) -> str:
    """Return docs/upstream-versions.md with the current tables, each found by its heading."""
    for heading, rows in _tables():
        head = f"| {' | '.join(heading)} |\n| {' | '.join('---' for _ in heading)} |\n"
        lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        table = re.search(rf"{re.escape(head)}(\|.*\n)*", page)
        if table is not None:
            page = page.replace(table[0], head + lines)
    return page


def _tables() -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Yield the heading and the rows of each table."""
    changes = ("release", "evaluation", "messaging", "data and images", "agents")
    yield (
        (*changes, "comparable with the previous release"),
        [
            (
                f"{r.version} ({r.date})",
                *(r.evaluation, r.messaging, r.data_and_images, r.agents, r.comparability),
            )
            for r in all_releases()
        ],
    )
    yield (
        ("task", "features", "reason"),
        [
            (f"`{task}`", _joined(sorted(features)), reason)
            for task, (features, reason) in not_evaluable_features().items()
        ],
    )
    yield (
        ("task", "amended descriptions", "amended tests", "runner and image"),
        [
            (f"`{a.task}`", _joined(a.descriptions), _joined(a.tests), a.environment)
            for a in amendments()
        ],
    )


def _joined(features: Iterable[int]) -> str:
    return ", ".join(map(str, features))


def main() -> None:
    from cooperflow import atomic_io, layout

    path = layout.REPOSITORY / "docs" / "upstream-versions.md"
    atomic_io.write_text(path, insert_tables(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
