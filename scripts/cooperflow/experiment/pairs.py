"""Pairs of a subset (from a shipped table, the data set or a file), and the filters on them."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cooperflow.errors import UserError, listed, suggest
from cooperflow.experiment.config_schema import Dataset
from cooperflow.layout import PAIR_TABLES, Pair
from cooperflow.upstream.published import REPO

COLUMNS = ("repo", "task_id", "feature_a", "feature_b")


def shipped_tables() -> dict[str, Path]:
    """Return the paths of the shipped pair tables, by name."""
    return {path.stem: path for path in sorted(PAIR_TABLES.glob("*.csv"))}


@cache
def known_features() -> dict[tuple[str, int], frozenset[int]]:
    """Return the features of every task of the published data set, by (repo, task_id)."""
    features: dict[tuple[str, int], set[int]] = {}
    for pair in _read_csv(PAIR_TABLES / "full.csv"):
        features.setdefault((pair.repo, pair.task_id), set()).update(pair.features)
    return {task: frozenset(ids) for task, ids in features.items()}


def load(subset: str, dataset: Path) -> list[Pair]:
    """Return the pairs of ``subset`` in the order of its file.

    ``subset`` is the name of a file in the data set's subsets folder, the name of a shipped
    table, or a path to a JSON or CSV file. If a shipped table and a file of the data set have
    the same name, they must agree.

    Raises:
        UserError: the name is unknown, the file is unreadable, a pair is invalid, or the two
            disagree.
    """
    tables = shipped_tables()
    subset_file = dataset / "subsets" / f"{subset}.json"
    if "/" in subset or subset.endswith((".json", ".csv")):
        path = Path(subset)
        if not path.is_file():
            raise UserError(f"dataset.subset: the file {subset} does not exist.")
        return _check_pairs(_read(path), str(path))
    if subset in tables:
        pairs = _read_csv(tables[subset])
        if subset_file.is_file():
            _require_same_pairs(tables[subset], pairs, subset_file, _read(subset_file))
        return pairs
    if subset_file.is_file():
        return _check_pairs(_read(subset_file), str(subset_file))
    in_dataset = [p.stem for p in sorted((dataset / "subsets").glob("*.json"))]
    allowed = sorted({*tables, *in_dataset})
    raise UserError(
        f"dataset.subset: {subset!r} is not known. Allowed: {listed(allowed)}, a name in "
        f"{dataset}/subsets/, or a path to a .json or .csv file.{suggest(subset, allowed)}"
    )


def _read(path: Path) -> list[Pair]:
    return _read_csv(path) if path.suffix == ".csv" else _read_json(path)


def _read_csv(path: Path) -> list[Pair]:
    try:
        with path.open(
            newline="", encoding="utf-8-sig"
        ) as stream:  # spreadsheets write a byte-order mark
            rows = csv.DictReader(stream)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise UserError(f"{path}: the first line must be {','.join(COLUMNS)}.")
            return [
                _pair(path, row["repo"], row["task_id"], (row["feature_a"], row["feature_b"]))
                for row in rows
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV table ({error}).") from error


def _read_json(path: Path) -> list[Pair]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        _refuse_groups(path, document)
        tasks = [(t["repo"], t["task_id"], list(t["pairs"])) for t in document["tasks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a subset file ({type(error).__name__}: {error}). It needs "
            '{"tasks": [{"repo": ..., "task_id": ..., "pairs": [[a, b], ...]}]}.'
        ) from error
    return [_pair(path, repo, task, features) for repo, task, pairs in tasks for features in pairs]


def _refuse_groups(path: Path, document: Any) -> None:
    """Reject groups of three or more agents: cooperbench would ignore them and run all pairs."""
    groups = [task for task in document["tasks"] if "groups" in task]
    if groups:
        raise UserError(
            f"{path}: {len(groups)} tasks have `groups`, which are features for three or more"
            f" agents (the first is {groups[0].get('repo')}/{groups[0].get('task_id')})."
            f" cooperbench {importlib.metadata.version('cooperbench')} runs two agents: it would"
            " ignore the groups and run all pairs of these tasks. Use a subset with `pairs`."
        )


def _pair(path: Path, repo: Any, task: Any, features: Any) -> Pair:
    position = f"{path}: {repo}/{task} {features}"
    if not isinstance(repo, str) or not REPO.fullmatch(repo):
        raise UserError(f"{position}: a repo is a plain folder name that ends in _task.")
    try:
        task_id, (a, b) = _whole(task), (_whole(f) for f in features)
    except (TypeError, ValueError):
        raise UserError(f"{position}: a pair is a task number and two feature numbers.") from None
    if task_id < 0 or a < 1 or b < 1:
        raise UserError(f"{position}: task numbers start at 0, feature numbers at 1.")
    if a == b:
        raise UserError(f"{position}: a pair needs two different features.")
    return Pair(repo, task_id, (a, b))


def _whole(value: Any) -> int:
    """Return an integer, also from a text; ValueError for 1.5 and for true."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _check_pairs(pairs: list[Pair], source: str) -> list[Pair]:
    if not pairs:
        raise UserError(f"{source}: contains no pairs.")
    keys: set[tuple[str, int, tuple[int, int]]] = set()
    for pair in pairs:
        key = (pair.repo, pair.task_id, pair.sorted_features)
        if key in keys:
            raise UserError(f"{source}: {pair} is listed twice.")
        keys.add(key)
    return pairs


def _require_same_pairs(
    table: Path, table_pairs: Iterable[Pair], subset_file: Path, file_pairs: Iterable[Pair]
) -> None:
    """Raise a UserError if a shipped table and the data set's subset file differ."""
    in_table = {(p.repo, p.task_id, p.sorted_features) for p in table_pairs}
    in_file = {(p.repo, p.task_id, p.sorted_features) for p in file_pairs}
    if in_table != in_file:
        difference = [
            f"{repo}/{task} {f[0]},{f[1]} only in "
            f"{'the table' if (repo, task, f) in in_table else subset_file}"
            for repo, task, f in sorted(in_table ^ in_file)
        ]
        raise UserError(
            f"The pair table {table.name} and {subset_file} differ: {listed(difference, 4)}. Use "
            f"the data set's file by its path (dataset.subset: {subset_file}) or fix the data set."
        )


def choose(subset: Sequence[Pair], config: Dataset) -> list[Pair]:
    """Return the pairs that match every filter of ``config``, in the order of the subset.

    `repos`, `tasks` and `pairs` narrow the subset; then `first` or `sample` limits the number.

    Raises:
        UserError: a filter names something that the subset lacks, or no pair is left.
    """
    selection = list(subset)
    if config.repos:
        repos = dict.fromkeys(pair.repo for pair in subset)
        _check_names("dataset.repos", config.repos, repos, config.subset)
        selection = [pair for pair in selection if pair.repo in config.repos]
    if config.tasks:
        task_names = dict.fromkeys(name for pair in subset for name in _task_names(pair))
        tasks = [str(task) for task in config.tasks]
        _check_names("dataset.tasks", tasks, task_names, config.subset)
        selection = [pair for pair in selection if set(_task_names(pair)) & set(tasks)]
    if config.pairs:
        names = {name: name for pair in subset for name in (_pair_name(pair),)}
        pair_names = [_normal(text) for text in config.pairs]
        _check_names("dataset.pairs", pair_names, names, config.subset)
        selection = [pair for pair in selection if _pair_name(pair) in pair_names]
    for key, count in (
        ("dataset.first", config.first),
        ("dataset.sample.n", config.sample.n if config.sample else None),
    ):
        if count is not None and count > len(selection):
            raise UserError(
                f"{key}: {count} pairs are asked for, but only {len(selection)} are left."
            )
    if not selection:
        raise UserError(
            f"dataset: no pair of {config.subset} is left: repos, tasks and pairs exclude each "
            "other. Remove a filter."
        )
    if config.first is not None:
        return selection[: config.first]
    if config.sample is not None:
        sampled = set(sample(selection, config.sample.n, config.sample.seed))
        return [pair for pair in selection if pair in sampled]
    return selection


def sample(pairs: Iterable[Pair], n: int, seed: int) -> list[Pair]:
    """Return a random sample of ``n`` pairs: the same everywhere, and part of larger samples."""

    def draw(pair: Pair) -> str:
        return hashlib.sha256(f"{seed} {_pair_name(pair)}".encode()).hexdigest()

    return sorted(pairs, key=draw)[:n]


def describe_choice(config: Dataset, count: int, total: int) -> str:
    """Return a description of the selected pairs."""
    parts = list(_describe_filters(config))
    # The report shows it, and an absolute path would reveal the machine's folders.
    path = Path(config.subset)
    subset = path.name if path.is_absolute() else config.subset
    if not parts:
        return f"{count} pairs of {subset}"
    return f"{count} of the {total} pairs of {subset} ({'; '.join(parts)})"


def _describe_filters(config: Dataset) -> Iterator[str]:
    for name in ("repos", "tasks", "pairs"):
        values = getattr(config, name)
        if values:
            yield f"{name}: {listed(values, 4)}"
    if config.first is not None:
        yield f"the first {config.first}"
    if config.sample is not None:
        yield f"a sample of {config.sample.n}, seed {config.sample.seed}"


def _task_names(pair: Pair) -> tuple[str, str]:
    return f"{pair.repo}/{pair.task_id}", str(pair.task_id)


def _pair_name(pair: Pair) -> str:
    a, b = pair.sorted_features
    return f"{pair.repo}/{pair.task_id}/{a},{b}"


def _normal(text: str) -> str:
    """Return a pair's name with sorted features: `repo/task/2,1` becomes `repo/task/1,2`."""
    head, _, features = text.replace(" ", "").rpartition("/")
    numbers = features.removeprefix("f").replace("_f", ",").split(",")
    if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
        a, b = sorted(int(number) for number in numbers)
        return f"{head}/{a},{b}"
    raise UserError(
        f"dataset.pairs: {text!r} is not a pair. Write repo/task/a,b, such as "
        "dottxt_ai_outlines_task/1655/6,7."
    )


def _check_names(key: str, names: Sequence[str], candidates: Iterable[str], subset: str) -> None:
    allowed = list(candidates)
    for name in names:
        if name not in allowed:
            raise UserError(
                f"{key}: {subset} has no {name!r}. It has: {listed(allowed, 6)}."
                f"{suggest(name, allowed)}"
            )
