"""Repeats in the plan."""

from __future__ import annotations

import pytest

from cooperflow.errors import UserError
from cooperflow.experiment import config as configuration
from cooperflow.experiment import plan as planning


def make_plan(**keys: object) -> planning.Plan:
    raw: dict[str, object] = {
        "dataset": {"dir": "demo/dataset", "subset": "flash"},
        "models": {"m": {"model": "x"}},
        "settings": {"solo": ["--setting", "solo"], "coop-comm": ["--setting", "coop"]},
    }
    return planning.make(configuration.parse({**raw, **keys}))


def test_each_repeat_has_a_separate_name() -> None:
    assert [e.run_name for e in make_plan().experiments] == ["m-solo", "m-coop-comm"]
    plan = make_plan(repeats=3)
    assert [e.run_name for e in plan.experiments] == [
        "m-solo", "m-solo-r2", "m-solo-r3", "m-coop-comm", "m-coop-comm-r2", "m-coop-comm-r3",
    ]  # fmt: skip
    assert [e.repeat for e in plan.experiments] == [1, 2, 3, 1, 2, 3]
    assert len(plan.runs) == 300
    assert plan.experiment("m-solo-r3").repeat == 3


@pytest.mark.parametrize("value", [0, -1, 100, "two", 1.5])
def test_repeats_are_checked(value: object) -> None:
    with pytest.raises(UserError, match="repeats"):
        make_plan(repeats=value)


def test_a_repeat_cannot_take_the_name_of_a_setting() -> None:
    named = {"solo": ["--setting", "solo"], "solo-r2": ["--setting", "solo"]}
    assert len(make_plan(settings=named).experiments) == 2
    with pytest.raises(UserError, match="both be called m-solo-r2"):
        make_plan(settings=named, repeats=2)
