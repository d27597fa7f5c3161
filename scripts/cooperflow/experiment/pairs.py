"""Which pairs a subset has: the shipped tables, a data set's own subsets, or the user's file."""

from __future__ import annotations

import csv
import importlib.metadata
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from cooperflow.errors import UserError, listed, nearest
from cooperflow.layout import PAIR_TABLES, REPO, Pair
from cooperflow.upstream import command_line

COLUMNS = ("repo", "task_id", "feature_a", "feature_b")


def shipped() -> dict[str, Path]:
    """Return the tables that come with the workflow, by name."""
    return {path.stem: path for path in sorted(PAIR_TABLES.glob("*.csv"))}


@cache
def known_features() -> dict[tuple[str, int], frozenset[int]]:
    """Return the features of every task of the published data set, by (repo, task_id)."""
    features: dict[tuple[str, int], set[int]] = {}
    for pair in _read_csv(PAIR_TABLES / "full.csv"):
        features.setdefault((pair.repo, pair.task_id), set()).update(pair.features)
    return {task: frozenset(ids) for task, ids in features.items()}


def load(subset: str, dataset: Path) -> list[Pair]:
    """Return the pairs of ``subset`` in its own order.

    ``subset`` is the name of a file in the data set's subsets folder, the name of a shipped
    table, or a path to a JSON or CSV file. Where a shipped table and the data set's own file
    of that name are both there they must agree.

    Raises:
        UserError: unknown name, unreadable file, a pair that cannot be, or a disagreement.
    """
    tables = shipped()
    own = dataset / "subsets" / f"{subset}.json"
    if "/" in subset or subset.endswith((".json", ".csv")):
        path = Path(subset)
        if not path.is_file():
            raise UserError(f"dataset.subset: there is no file {subset}.")
        return _checked(_read(path), str(path))
    if subset in tables:
        pairs = _read_csv(tables[subset])
        if own.is_file():
            _same(pairs, _read(own), tables[subset], own)
        return pairs
    if own.is_file():
        return _check_counts(subset, own, _checked(_read(own), str(own)))
    if subset in command_line.OTHER_SUBSETS:
        raise UserError(
            f"dataset.subset: {subset} is a subset of upstream that is not shipped here. Get "
            f"{subset}.json from {command_line.SUBSETS_AT}, and either copy it to {own} or name "
            f"it by its path (dataset.subset: path/to/{subset}.json)."
        )
    in_dataset = [p.stem for p in sorted((dataset / "subsets").glob("*.json"))]
    allowed = sorted({*tables, *in_dataset})
    raise UserError(
        f"dataset.subset: {subset!r} is not known. Allowed: {listed(allowed)}, a name in "
        f"{dataset}/subsets/, or a path to a .json or .csv file.{nearest(subset, allowed)}"
    )


def _read(path: Path) -> list[Pair]:
    return _read_csv(path) if path.suffix == ".csv" else _read_json(path)


def _read_csv(path: Path) -> list[Pair]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
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
        document = json.loads(path.read_text(encoding="utf-8"))
        _refuse_groups(path, document)
        tasks = [(t["repo"], t["task_id"], list(t["pairs"])) for t in document["tasks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is no subset file ({type(error).__name__}: {error}). It needs "
            '{"tasks": [{"repo": ..., "task_id": ..., "pairs": [[a, b], ...]}]}.'
        ) from error
    return [_pair(path, repo, task, features) for repo, task, pairs in tasks for features in pairs]


def _refuse_groups(path: Path, document: Any) -> None:
    """Raise for groups of three and more agents: cooperbench ignores them and runs all pairs."""
    groups = [task for task in document["tasks"] if "groups" in task]
    if groups:
        raise UserError(
            f"{path}: {len(groups)} tasks have `groups`, which are features for three or more"
            f" agents (the first is {groups[0].get('repo')}/{groups[0].get('task_id')})."
            f" cooperbench {importlib.metadata.version('cooperbench')} runs two agents: it would"
            " ignore the groups and run all pairs of these tasks. Use a subset with `pairs`."
        )


def _check_counts(subset: str, path: Path, pairs: list[Pair]) -> list[Pair]:
    """Raise where a file of the name of one of upstream's subsets has another number of pairs."""
    expected = command_line.OTHER_SUBSETS.get(subset)
    found = (len(pairs), len({(p.repo, p.task_id) for p in pairs}), len({p.repo for p in pairs}))
    if expected and found != expected:
        raise UserError(
            f"{path}: upstream's {subset} has {expected[0]} pairs of {expected[1]} tasks in"
            f" {expected[2]} repos, this file has {found[0]} of {found[1]} in {found[2]}. Get it"
            f" again from {command_line.SUBSETS_AT}, or use another file name for another choice."
        )
    return pairs


def _pair(path: Path, repo: Any, task: Any, features: Any) -> Pair:
    where = f"{path}: {repo}/{task} {features}"
    if not isinstance(repo, str) or not REPO.fullmatch(repo):
        raise UserError(f"{where}: a repo is a plain folder name that ends in _task.")
    try:
        task_id, (a, b) = int(task), (int(f) for f in features)
    except (TypeError, ValueError):
        raise UserError(f"{where}: a pair is a task number and two feature numbers.") from None
    if task_id < 0 or a < 1 or b < 1:
        raise UserError(f"{where}: task numbers start at 0, feature numbers at 1.")
    if a == b:
        raise UserError(f"{where}: a pair needs two different features.")
    return Pair(repo, task_id, (a, b))


def _checked(pairs: list[Pair], where: str) -> list[Pair]:
    if not pairs:
        raise UserError(f"{where}: holds no pairs.")
    seen: set[tuple[str, int, tuple[int, int]]] = set()
    for pair in pairs:
        key = (pair.repo, pair.task_id, pair.sorted_features)
        if key in seen:
            raise UserError(f"{where}: {pair} stands there twice.")
        seen.add(key)
    return pairs


def _same(ours: Iterable[Pair], theirs: Iterable[Pair], table: Path, own: Path) -> None:
    """Raise where a shipped table and the data set's own subset file differ."""
    a = {(p.repo, p.task_id, p.sorted_features) for p in ours}
    b = {(p.repo, p.task_id, p.sorted_features) for p in theirs}
    if a != b:
        difference = [
            f"{repo}/{task} {f[0]},{f[1]} only in {'the table' if (repo, task, f) in a else own}"
            for repo, task, f in sorted(a ^ b)
        ]
        raise UserError(
            f"The pair table {table.name} and {own} differ: {listed(difference, 4)}. Use the "
            f"data set's file by its path (dataset.subset: {own}) or mend the data set."
        )
