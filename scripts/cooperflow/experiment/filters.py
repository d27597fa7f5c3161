"""Which of a subset's pairs are run: the config's filters, in one order, each a pure choice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from cooperflow.errors import UserError, listed, nearest
from cooperflow.experiment.config_schema import Dataset
from cooperflow.layout import Pair


def choose(pairs: Sequence[Pair], wanted: Dataset) -> list[Pair]:
    """Return the pairs that pass every filter of ``wanted``, in their own order.

    repos, tasks and pairs narrow; then `first` or `sample` takes some of what is left.

    Raises:
        UserError: a filter names what the subset has not, or nothing is left.
    """
    chosen = list(pairs)
    if wanted.repos:
        known = dict.fromkeys(pair.repo for pair in pairs)
        _known("dataset.repos", wanted.repos, known, wanted.subset)
        chosen = [pair for pair in chosen if pair.repo in wanted.repos]
    if wanted.tasks:
        known = dict.fromkeys(name for pair in pairs for name in _task_names(pair))
        tasks = [str(task) for task in wanted.tasks]
        _known("dataset.tasks", tasks, known, wanted.subset)
        chosen = [pair for pair in chosen if set(_task_names(pair)) & set(tasks)]
    if wanted.pairs:
        names = {name: name for pair in pairs for name in (_pair_name(pair),)}
        asked = [_normal(text) for text in wanted.pairs]
        _known("dataset.pairs", asked, names, wanted.subset)
        chosen = [pair for pair in chosen if _pair_name(pair) in asked]
    for key, count in (
        ("dataset.first", wanted.first),
        ("dataset.sample.n", wanted.sample.n if wanted.sample else None),
    ):
        if count is not None and count > len(chosen):
            raise UserError(f"{key}: {count} pairs are asked for, but only {len(chosen)} are left.")
    if not chosen:
        raise UserError(
            f"dataset: no pair of {wanted.subset} is left: repos, tasks and pairs exclude each "
            "other. Take one of them out."
        )
    if wanted.first is not None:
        return chosen[: wanted.first]
    if wanted.sample is not None:
        kept = set(sample(chosen, wanted.sample.n, wanted.sample.seed))
        return [pair for pair in chosen if pair in kept]
    return chosen


def sample(pairs: Iterable[Pair], n: int, seed: int) -> list[Pair]:
    """Return ``n`` pairs chosen by ``seed``: the same everywhere, and a larger n adds to them."""

    def draw(pair: Pair) -> str:
        return hashlib.sha256(f"{seed} {_pair_name(pair)}".encode()).hexdigest()

    return sorted(pairs, key=draw)[:n]


def told(wanted: Dataset, chosen: int, of: int) -> str:
    """Return in a line which pairs are chosen."""
    parts = list(_words(wanted))
    if not parts:
        return f"{chosen} pairs of {wanted.subset}"
    return f"{chosen} of the {of} pairs of {wanted.subset} ({'; '.join(parts)})"


def _words(wanted: Dataset) -> Iterator[str]:
    for name in ("repos", "tasks", "pairs"):
        values = getattr(wanted, name)
        if values:
            yield f"{name}: {listed(values, 4)}"
    if wanted.first is not None:
        yield f"the first {wanted.first}"
    if wanted.sample is not None:
        yield f"a sample of {wanted.sample.n}, seed {wanted.sample.seed}"


def _task_names(pair: Pair) -> tuple[str, str]:
    return f"{pair.repo}/{pair.task_id}", str(pair.task_id)


def _pair_name(pair: Pair) -> str:
    a, b = pair.sorted_features
    return f"{pair.repo}/{pair.task_id}/{a},{b}"


def _normal(text: str) -> str:
    """Return a pair's name with its features in order: `repo/task/2,1` is `repo/task/1,2`."""
    head, _, features = text.replace(" ", "").rpartition("/")
    numbers = features.removeprefix("f").replace("_f", ",").split(",")
    if len(numbers) == 2 and all(number.isdigit() for number in numbers):
        a, b = sorted(int(number) for number in numbers)
        return f"{head}/{a},{b}"
    raise UserError(
        f"dataset.pairs: {text!r} is no pair. Write repo/task/a,b, such as "
        "dottxt_ai_outlines_task/1655/6,7."
    )


def _known(key: str, asked: Sequence[str], known: Iterable[str], subset: str) -> None:
    names = list(known)
    for name in asked:
        if name not in names:
            raise UserError(
                f"{key}: {subset} has no {name!r}. It has: {listed(names, 6)}."
                f"{nearest(name, names)}"
            )
