"""The choice of pairs: filters and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cooperflow.errors import UserError
from cooperflow.experiment import config_schema, pairs
from cooperflow.layout import Pair

A, B = "demo_inventory_task", "demo_textkit_task"


PAIRS = [
    Pair(A, 1, (1, 2)),
    Pair(A, 1, (2, 3)),
    Pair(A, 7, (1, 2)),
    Pair(B, 2, (1, 2)),
    Pair(B, 2, (3, 2)),
]


@pytest.mark.parametrize(
    ("filters", "positions"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"repos": [B]}, [3, 4]),
        ({"tasks": [1]}, [0, 1]),
        ({"tasks": [f"{A}/7", 2]}, [2, 3, 4]),
        ({"repos": [A], "tasks": [7]}, [2]),
        ({"pairs": [f"{B}/2/2,3", f"{A}/1/f1_f2"]}, [0, 4]),
        ({"first": 2}, [0, 1]),
        ({"repos": [B], "first": 1}, [3]),
    ],
)
def test_filters(filters: dict[str, Any], positions: list[int]) -> None:
    assert pairs.choose(PAIRS, config_schema.Dataset(**filters)) == [PAIRS[i] for i in positions]


def test_a_sample_is_the_same_everywhere_and_grows() -> None:
    small = pairs.sample(PAIRS, 2, seed=1)
    assert set(small) < set(pairs.sample(reversed(PAIRS), 4, seed=1))
    assert pairs.sample(PAIRS, 2, seed=1) == small
    assert any(set(pairs.sample(PAIRS, 2, seed=s)) != set(small) for s in range(2, 9))
    chosen = pairs.choose(PAIRS, config_schema.Dataset(sample=config_schema.Sample(n=3, seed=5)))
    assert chosen == [p for p in PAIRS if p in chosen]  # in the subset's order


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"repos": ["demo_textkti_task"]}, r"dataset.repos: .* Did you mean demo_textkit_task"),
        ({"tasks": [3]}, "dataset.tasks: lite has no '3'"),
        ({"pairs": [f"{A}/1/1,9"]}, "dataset.pairs: lite has no"),
        ({"pairs": ["nonsense"]}, "is not a pair. Write repo/task/a,b"),
        ({"first": 6}, "dataset.first: 6 pairs are asked for, but only 5"),
        ({"sample": {"n": 9}}, "dataset.sample.n: 9 pairs"),
        ({"repos": [B], "tasks": [1]}, "no pair of lite is left"),
    ],
)
def test_invalid_filters(filters: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pairs.choose(PAIRS, config_schema.Dataset(**filters))


def test_first_and_sample_exclude_each_other(make_plan: Any) -> None:
    with pytest.raises(UserError, match=r"dataset: first and sample exclude each other"):
        make_plan(dataset={"first": 1, "sample": {"n": 1}})


def test_the_plan_states_the_choice(make_plan: Any) -> None:
    plan = make_plan(dataset={"repos": [B], "first": 1})
    assert len(plan.runs) == 2
    assert plan.choice == f"1 of the 4 pairs of demo (repos: {B}; the first 1)"


def test_the_choice_has_no_path_of_the_machine(tmp_path: Path) -> None:
    chosen = config_schema.Dataset(subset=str(tmp_path / "mine.json"))
    assert pairs.describe_choice(chosen, 3, 3) == "3 pairs of mine.json"
    chosen = config_schema.Dataset(subset="subsets/mine.json", first=2)
    assert (
        pairs.describe_choice(chosen, 2, 3) == "2 of the 3 pairs of subsets/mine.json (the first 2)"
    )
