"""Runs to look at first, each chosen by a rule, with one line on the reason. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cooperflow import formats
from cooperflow.analysis import losses
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import judgement
from cooperflow.upstream.result_files import CONFLICTS


@dataclass(frozen=True)
class Notable:
    """A run and the reason to inspect it."""

    row: dict[Any, Any]  # of runs.csv
    line: str

    @property
    def name(self) -> str:
        """The run in words."""
        row = self.row
        return f"{row['run_name']}, {row['repo']} {row['task_id']}, features {row['features']}"


def of_plan(plan: Plan, runs: pd.DataFrame) -> list[Notable]:
    """Return the runs to look at first among those of a plan."""
    talking = (setting for setting in plan.settings if setting.mode == "coop" and setting.messaging)
    return choose(runs, frozenset(setting.name for setting in talking))


def choose(runs: pd.DataFrame, messaging: frozenset[str]) -> list[Notable]:
    """Return at most one run for each rule, no run twice.

    Args:
        messaging: settings in which agents can write to each other.
    """
    found: list[Notable] = []
    taken: set[Any] = set()
    for rule in (_costly_fail, _lost_in_merge, _talked_and_conflicts, _silent, _caveat):
        table, line = rule(runs[~runs.index.isin(taken)], messaging)
        if table.empty:
            continue
        taken.add(table.index[0])
        row = table.iloc[0].to_dict()
        found.append(Notable(row, line(row, len(table))))
    return found


Choice = tuple[pd.DataFrame, Callable[[dict[Any, Any], int], str]]


def _costly_fail(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """The fail that cost most."""
    failed = runs[(runs["outcome"] == judgement.FAIL) & (runs["cost_usd"] > 0)]
    return (
        _sorted(failed, cost_usd=False),
        lambda row, n: (
            f"The most expensive fail: {formats.usd(row['cost_usd'])}, {row['steps']} steps, "
            f"{row['reason'] or 'no reason'}."
        ),
    )


def _lost_in_merge(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """Both own features pass alone and the patches conflict; the smallest patches first."""
    lost = runs[runs["loss"] == losses.MERGE] if "loss" in runs else runs.iloc[:0]
    return _sorted(
        lost, patch_lines=True
    ), lambda row, n: f"Both features work alone, but the patches conflict{_of(n, 'such runs')}."


def _talked_and_conflicts(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """The conflict with the most messages."""
    conflicts = runs[(runs["merge_status"] == CONFLICTS) & (runs["messages_sent"] > 0)]
    return (
        _sorted(conflicts, messages_sent=False),
        lambda row, n: (
            f"{_messages(row['messages_sent'])}, and still a merge conflict"
            f"{_of(n, 'conflicts after messages')}."
        ),
    )


def _silent(runs: pd.DataFrame, messaging: frozenset[str]) -> Choice:
    """No message although the agents could write; fails first, then the longest run."""
    evaluated = runs["outcome"].isin((judgement.PASS, judgement.FAIL))
    silent = runs[evaluated & runs["setting"].isin(messaging) & (runs["messages_sent"] == 0)]
    silent = silent.assign(_passed=silent["outcome"] == judgement.PASS)
    return _sorted(
        silent, _passed=True, steps=False
    ), lambda row, n: f"No message at all, although the agents could write{_of(n, 'such runs')}."


def _caveat(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """A pass that a caveat puts in doubt."""
    passed = runs[runs["outcome"] == judgement.PASS]
    doubtful = passed[~passed["caveat"].map(judgement.is_strict).astype(bool)]
    return (
        doubtful,
        lambda row, n: (
            f"A pass with the caveat {row['caveat'].replace(';', ', ')}{_of(n, 'such passes')}."
        ),
    )


def _sorted(table: pd.DataFrame, **columns: bool) -> pd.DataFrame:
    """Sort by columns (True: ascending); ties stay in the order of the table."""
    return table.sort_values(list(columns), ascending=list(columns.values()), kind="stable")


def _of(count: int, what: str) -> str:
    return f" (1 of {count} {what})" if count > 1 else ""


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
