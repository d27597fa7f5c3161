"""Published facts about the benchmark: names of images, languages, costs and past outcomes.

The public run is the default assumption of every estimate: 300 runs (100 pairs of lite in three
settings) of Command A with mini_swe_agent_v2.

The public record has the outcomes per task and model that CooperBench's website publishes: a JSON
file, plain or gzipped. `tasks` is a list of objects with `repo`, `taskId`, `f1`, `f2` and `results`
(model -> `passed`, `hasConflict`); or the file maps a name of a pair, such as
`go_chi_task_task26_feature1_feature2`, to its results.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROWS = Path(__file__).resolve().parents[3] / "config" / "published.csv"
CURVE = ROWS.with_name("published_difficulty.csv")

# Separates a file from the name of a model in it, in `models.NAME.adopt`.
SEPARATOR = "#"

_PAIR = re.compile(
    r"(?P<repo>.+?_task)[_/](?:task)?(?P<task>\d+)[_/]f(?:eature)?(?P<a>\d+)_f(?:eature)?(?P<b>\d+)"
)

Key = tuple[str, int, tuple[int, int]]

# Suffix of the tag of an image with OpenHands' agent server.
AGENT_SERVER = "-oh"

# Ending of the folders that CooperBench discovers.
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*_task")

UNKNOWN_LANGUAGE = "unknown"

# The published data set's 12 repos; the language of the code that the features change, as
# the CooperBench paper (arXiv:2601.13295) counts them: four languages.
LANGUAGES: Mapping[str, str] = {
    "dottxt_ai_outlines_task": "Python",
    "dspy_task": "Python",
    "go_chi_task": "Go",
    "huggingface_datasets_task": "Python",
    "llama_index_task": "Python",
    "openai_tiktoken_task": "Python",
    "pallets_click_task": "Python",
    "pallets_jinja_task": "Python",
    "pillow_task": "Python",
    "react_hook_form_task": "TypeScript",
    "samuelcolvin_dirty_equals_task": "Python",
    "typst_task": "Rust",
}

# The public run.
RUNS_PER_SETTING = 100
COST_USD = 138.59  # of all 300 runs
MEDIAN_SOLO_USD = 0.10
# Model calls of one agent, mean.
CALLS_SOLO = 10.4
CALLS_MESSAGING = 10.7
CALLS_SILENT = 8.7

AGENT_CALLS = RUNS_PER_SETTING * (CALLS_SOLO + 2 * CALLS_MESSAGING + 2 * CALLS_SILENT)
CALL_USD = COST_USD / AGENT_CALLS  # 0.0282, at 2.50 and 10.00 USD per million tokens in and out

# The tokens of one call were not published. These give CALL_USD at the prices above.
INPUT_TOKENS = 10_000
OUTPUT_TOKENS = 317

# The mean cost of a solo run was 2.9 times its median: costs are skewed, and the mean of another
# experiment may differ from the assumption by this factor in either direction.
MEAN_TO_MEDIAN = CALLS_SOLO * CALL_USD / MEDIAN_SOLO_USD


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run in the public record; `conflict` is None where it is not recorded."""

    passed: bool
    conflict: bool | None


def split_source(source: str) -> tuple[Path, str] | None:
    """Return the file and the model of an `adopt` entry, None if it names a folder of runs."""
    path, separator, model = source.rpartition(SEPARATOR)
    return (Path(path), model) if separator and not Path(source).is_dir() else None


def read_record(path: Path, model: str) -> dict[Key, Outcome]:
    """Return a model's outcomes by repo, task and features.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a public record, or does not contain the model.
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
        entry = results.get(model)
        if entry is None:
            continue
        if not isinstance(entry, Mapping) or not isinstance(entry.get("passed"), bool):
            raise ValueError(f"{key[0]}/{key[1]} {key[2]}: `passed` is not true or false")
        conflict = entry.get("hasConflict")
        outcomes[key] = Outcome(entry["passed"], conflict if isinstance(conflict, bool) else None)
    if not models:
        raise ValueError("it contains no task with results by model")
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


@cache
def read_rows() -> tuple[dict[str, str], ...]:
    """Return the published results, each with its source: config/published.csv."""
    return _read_csv(ROWS)


@cache
def read_curve() -> tuple[dict[str, str], ...]:
    """Return the published pooled curves over difficulty: config/published_difficulty.csv."""
    return _read_csv(CURVE)


def _read_csv(path: Path) -> tuple[dict[str, str], ...]:
    with path.open(newline="", encoding="utf-8") as stream:
        return tuple(csv.DictReader(stream))


def language_of(repo: str, configured: Mapping[str, str] | None = None) -> str:
    """Return the language of ``repo``; `dataset.languages` of the config takes precedence."""
    return {**LANGUAGES, **(configured or {})}.get(repo, UNKNOWN_LANGUAGE)


def mean_calls(solo: bool, messaging: bool) -> float:
    """Return the mean number of model calls that one agent made in such a setting."""
    if solo:
        return CALLS_SOLO
    return CALLS_MESSAGING if messaging else CALLS_SILENT


def image_name(repo: str, task_id: int) -> str:
    """Return the Docker image of a task, by upstream's rule (cooperbench.utils.get_image_name)."""
    return f"akhatua/cooperbench-{repo.replace('_task', '').replace('_', '-')}:task{task_id}"


def with_agent_server(image: str) -> str:
    """Return the name of a task's image with OpenHands' agent server: upstream appends -oh."""
    return f"{image}{AGENT_SERVER}"


def task_image(image: str) -> str:
    """Return the name of the task's image without the agent server."""
    return image.removesuffix(AGENT_SERVER)
