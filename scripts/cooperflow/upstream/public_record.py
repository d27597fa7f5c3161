"""The public record of CooperBench: outcomes per task and model, as its website publishes them.

A record is a JSON file, plain or gzipped: `tasks` is a list of objects with `repo`, `taskId`, `f1`,
`f2` and `results` (model -> `passed`, `hasConflict`); or the file maps a name of a pair, such as
`go_chi_task_task26_feature1_feature2`, to its results. It holds outcomes and nothing else.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Between a file and the name of a model in it, in `models.NAME.adopt`.
SEPARATOR = "#"

_PAIR = re.compile(
    r"(?P<repo>.+?_task)[_/](?:task)?(?P<task>\d+)[_/]f(?:eature)?(?P<a>\d+)_f(?:eature)?(?P<b>\d+)"
)

Key = tuple[str, int, tuple[int, int]]


@dataclass(frozen=True)
class Outcome:
    """What the record says of one run; None where it does not say."""

    passed: bool
    conflict: bool | None


def split(source: str) -> tuple[Path, str] | None:
    """Return file and model of an entry of `adopt`, None for a folder of runs."""
    path, separator, model = source.rpartition(SEPARATOR)
    return (Path(path), model) if separator and not Path(source).is_dir() else None


def read(path: Path, model: str) -> dict[Key, Outcome]:
    """Return a model's outcomes by repo, task and features.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a record, or has no such model.
    """
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        raw = gzip.decompress(raw)
    document = json.loads(raw)
    outcomes: dict[Key, Outcome] = {}
    models: dict[str, None] = {}
    for key, results in _entries(document):
        if not isinstance(results, Mapping):
            raise ValueError(f"{key[0]}/{key[1]} has no results by model")
        models |= dict.fromkeys(results)
        told = results.get(model)
        if told is None:
            continue
        if not isinstance(told, Mapping) or not isinstance(told.get("passed"), bool):
            raise ValueError(f"{key[0]}/{key[1]} {key[2]}: `passed` is not true or false")
        conflict = told.get("hasConflict")
        outcomes[key] = Outcome(told["passed"], conflict if isinstance(conflict, bool) else None)
    if not models:
        raise ValueError("it holds no task with results by model")
    if not outcomes:
        raise ValueError(f"it has no model {model!r}; it has {', '.join(models)}")
    return outcomes


def _entries(document: Any) -> Iterator[tuple[Key, Any]]:
    tasks = document.get("tasks", document) if isinstance(document, Mapping) else document
    if isinstance(tasks, Mapping):
        for name, results in tasks.items():
            yield _key(str(name)), results
    elif isinstance(tasks, list):
        for task in tasks:
            if not isinstance(task, Mapping):
                raise ValueError("an entry of `tasks` is not an object")
            name = f"{task.get('repo')}/{task.get('taskId')}/{task.get('f1')}_{task.get('f2')}"
            yield _key(name), task.get("results")
    else:
        raise ValueError("it has no `tasks`")


def _key(name: str) -> Key:
    match = _PAIR.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not a pair: repo, task, two features")
    a, b = sorted((int(match["a"]), int(match["b"])))
    return match["repo"], int(match["task"]), (a, b)
