"""Tables of the agents' messages and of the tasks of teams.

The tables have a row per run, per message, per setting, and per property with its conflict rate.

They describe associations, not causes: agents may write more because their features overlap, and
the same overlap causes conflicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cooperflow import layout
from cooperflow.analysis.communication import MEASURES, MESSAGE_COLUMNS, SIXTH_COLUMNS
from cooperflow.analysis.run_files import RunFiles
from cooperflow.experiment.plan import Plan
from cooperflow.layout import Results
from cooperflow.outcomes import judgement
from cooperflow.tables import paper_tables, run_table, stats
from cooperflow.tables.run_table import EXPERIMENT
from cooperflow.upstream.result_files import CONFLICTS

TEAM = "team"  # upstream's setting
PAIR = ("run_name", "repo", "task_id", "features")
RUN_COLUMNS = (
    *EXPERIMENT,
    *("repo", "task_id", "features", "messaging", "outcome", "conflict"),
    *MEASURES,
    *("replay", "adopted"),
)
MESSAGES_COLUMNS = (*PAIR, *MESSAGE_COLUMNS, "replay")
# Columns of a change of a team's shared task list; times are seconds after the first change.
TEAM_TASKS_COLUMNS = (*PAIR, "number", "time_s", "agent", "change", "task", "detail", "replay")
SETTING_COLUMNS = (
    *EXPERIMENT,
    *("merge", "measure", "runs", "tasks", "value", "ci_low", "ci_high", "replay"),
)
CONFLICT_COLUMNS = (
    *EXPERIMENT,
    "property",
    *("runs_with", "conflicts_with", "rate_with", "ci_low_with", "ci_high_with"),
    *("runs_without", "conflicts_without", "rate_without", "ci_low_without", "ci_high_without"),
    *("diff", "ci_low", "ci_high", "replay"),
)

# Numerator and denominator columns by name of the measure; "" counts runs.
RATIOS: Mapping[str, tuple[str, str]] = {
    "messages_per_run": ("messages", ""),
    "turns_per_run": ("turns", ""),
    "message_share": ("messages", "events"),
    **{f"share_sixth{n}": (column, "_timed") for n, column in enumerate(SIXTH_COLUMNS, start=1)},
    "plans_per_message": ("plans", "messages"),
    "questions_per_message": ("questions", "messages"),
    "plans_per_question": ("plans", "questions"),
    "unanswered_share": ("unanswered", "questions"),
    "late_share": ("late", "messages"),
    "with_files_share": ("with_files", "messages"),
    "with_lines_share": ("with_lines", "messages"),
    "announced_touched_share": ("files_announced_touched", "files_announced"),
    "touched_announced_share": ("files_announced_touched", "files_touched"),
}
# Properties that also exist in settings without messages.
_ALWAYS = ("messages_per_run", "turns_per_run", "message_share")
# Boolean columns by name of the measure, which is their share among runs with a value.
SHARES: Mapping[str, str] = {
    "silent_share": "_silent",
    "first_message_plan_share": "first_message_plan",
}
MERGES = ("all", "conflict", "clean")

PROPERTIES: Mapping[str, str] = {
    "any_message": "a message was sent",
    "many_messages": "more messages than the median",
    "high_message_share": "a larger share of messages than the median",
    "many_turns": "more turns than the median",
    "first_message_plan": "the first message is a plan",
    "unanswered_question": "a question without an answer",
    "late_message": "a message after the receiver's end",
    "names_files": "a message names a file",
    "names_lines": "a message names a line",
    "all_files_announced": "every touched file was announced",
}


@dataclass(frozen=True)
class Tables:
    """The tables of runs other than solo, of their messages, and of the tasks of teams."""

    runs: pd.DataFrame
    messages: pd.DataFrame
    team_tasks: pd.DataFrame


def tables_by_path(tables: Tables, results: Results) -> dict[Path, pd.DataFrame]:
    """Return all tables by their paths."""
    return {
        results.communication_csv: tables.runs,
        results.messages_csv: tables.messages,
        results.team_tasks_csv: tables.team_tasks,
        **{
            results.table(f"{name}.csv"): table
            for name, table in tables_by_experiment(tables.runs).items()
        },
    }


def tables_by_experiment(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables by experiment, by name, from the communication of the runs."""
    tables = (measures_by_setting(runs), conflicts_by_property(runs))
    return dict(zip(layout.COMMUNICATION, tables, strict=True))


def collect(plan: Plan, runs: pd.DataFrame) -> Tables:
    """Return the tables of runs other than solo, of their messages, and of the tasks of teams.

    Args:
        runs: the table of runs; only the files of these runs are read.
    """
    rows: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    for row, source in _sources(plan, runs):
        communication = source.communication
        key = {name: row[name] for name in PAIR}
        rows.append(
            {
                **key,
                **{name: row[name] for name in ("model", "setting", "outcome", "replay")},
                "messaging": source.run.experiment.setting.messaging,
                "conflict": _conflict(row),
                "adopted": row["adopted"],
                **communication.measures,
            }
        )
        messages += [{**key, **m.row(), "replay": row["replay"]} for m in communication.messages]
        if row["mode"] == TEAM:
            for number, change in enumerate(source.task_changes, start=1):
                values = (
                    *key.values(),
                    number,
                    change.seconds,
                    change.agent,
                    change.kind,
                    change.task,
                    change.text,
                    row["replay"],
                )
                tasks.append(dict(zip(TEAM_TASKS_COLUMNS, values, strict=True)))
    return Tables(
        pd.DataFrame(rows, columns=list(RUN_COLUMNS)),
        pd.DataFrame(messages, columns=list(MESSAGES_COLUMNS)),
        pd.DataFrame(tasks, columns=list(TEAM_TASKS_COLUMNS)),
    )


def _sources(plan: Plan, runs: pd.DataFrame) -> Iterator[tuple[Mapping[Any, Any], RunFiles]]:
    for row in runs[runs["mode"] != paper_tables.SOLO].to_dict("records"):
        run = run_table.run_of_row(plan, row)
        yield row, RunFiles(run, run.folder(plan.results))


def _conflict(row: Mapping[Any, Any]) -> bool | None:
    """Return whether the patches of an evaluated run conflict, None without a merge."""
    if row["outcome"] not in judgement.GRADED or not row["merge_status"]:
        return None
    return bool(row["merge_status"] == CONFLICTS)


def measures_by_setting(runs: pd.DataFrame) -> pd.DataFrame:
    """Return every measure of each experiment over all runs, and with and without a conflict.

    Args:
        runs: communication.csv as a table.
    """
    rows = []
    for _, group in _experiments(runs):
        parts = {
            "all": group,
            "conflict": group[group["conflict"].eq(True)],
            "clean": group[group["conflict"].eq(False)],
        }
        for merge in MERGES:
            part = parts[merge]
            first = {**{key: group[key].iloc[0] for key in EXPERIMENT}, "merge": merge}
            for name, value in _measures(part).items():
                if value["runs"]:
                    rows.append({**first, "measure": name, **value, "replay": _replay(group)})
    return pd.DataFrame(rows, columns=list(SETTING_COLUMNS))


def _experiments(runs: pd.DataFrame) -> Iterator[tuple[object, pd.DataFrame]]:
    """Yield the evaluated runs of each experiment whose turns are recorded."""
    done = runs[runs["outcome"].isin(judgement.GRADED) & (runs["turns"] > 0)]
    done = done.assign(
        _silent=done["messages"] == 0, _timed=done[list(SIXTH_COLUMNS)].sum(axis=1), _runs=1
    )
    yield from done.groupby("run_name", sort=False)


def _measures(part: pd.DataFrame) -> dict[str, dict[str, Any]]:
    measures: dict[str, dict[str, Any]] = {}
    talking = part[part["messaging"].astype(bool)]
    for name, (numerator, denominator) in RATIOS.items():
        measures[name] = _ratio(
            part if name in _ALWAYS else talking, numerator, denominator or "_runs"
        )
    for name, column in SHARES.items():
        values = talking[column].dropna().astype(bool)
        low, high = stats.wilson(int(values.sum()), len(values))
        measures[name] = {
            "runs": len(values),
            "tasks": len(talking.loc[values.index, ["repo", "task_id"]].drop_duplicates()),
            "value": stats.rate(int(values.sum()), len(values)),
            "ci_low": low,
            "ci_high": high,
        }
    return measures


def _ratio(part: pd.DataFrame, numerator: str, denominator: str) -> dict[str, Any]:
    """Return the ratio of two sums, with a bootstrap interval over tasks."""
    sums = part.groupby(["repo", "task_id"], sort=True)[[numerator, denominator]].sum()
    sums = sums[sums[denominator] > 0]
    total = float(sums[denominator].sum())
    low, high = stats.cluster_interval(
        sums[numerator].to_numpy(float), sums[denominator].to_numpy(float)
    )
    return {
        "runs": int((part[denominator] > 0).sum()),
        "tasks": len(sums),
        "value": round(float(sums[numerator].sum()) / total, 6) if total else np.nan,
        "ci_low": low,
        "ci_high": high,
    }


def _replay(group: pd.DataFrame) -> bool:
    return bool(group["replay"].iloc[0])


def conflicts_by_property(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the conflict rates of the runs with and without each property.

    Only experiments with messages are included. Properties of messages are computed only over runs
    that have a message.

    Args:
        runs: communication.csv as a table.
    """
    rows = []
    for _, group in _experiments(runs):
        merged = group[group["conflict"].notna() & group["messaging"].astype(bool)]
        if merged.empty:
            continue
        for name, marks in _properties(merged).items():
            conflicts = merged.loc[marks.index, "conflict"].astype(bool)
            rows.append(
                {
                    **{key: group[key].iloc[0] for key in EXPERIMENT},
                    "property": name,
                    **_difference(conflicts[marks], conflicts[~marks]),
                    "replay": _replay(group),
                }
            )
    return pd.DataFrame(rows, columns=list(CONFLICT_COLUMNS))


def _properties(merged: pd.DataFrame) -> dict[str, pd.Series]:
    talking = merged[merged["messages"] > 0]
    announced = talking["files_announced_touched"] == talking["files_touched"]
    touched = talking["files_touched"] > 0
    return {
        "any_message": merged["messages"] > 0,
        "many_messages": merged["messages"] > merged["messages"].median(),
        "high_message_share": merged["message_share"] > merged["message_share"].median(),
        "many_turns": merged["turns"] > merged["turns"].median(),
        "first_message_plan": talking["first_message_plan"].astype(bool),
        "unanswered_question": talking["unanswered"] > 0,
        "late_message": talking["late"] > 0,
        "names_files": talking["with_files"] > 0,
        "names_lines": talking["with_lines"] > 0,
        "all_files_announced": announced[touched],
    }


def _difference(with_it: pd.Series, without: pd.Series) -> dict[str, Any]:
    a, of_a, b, of_b = int(with_it.sum()), len(with_it), int(without.sum()), len(without)
    (low_a, high_a), (low_b, high_b) = stats.wilson(a, of_a), stats.wilson(b, of_b)
    low, high = stats.difference_interval(a, of_a, b, of_b)
    return {
        "runs_with": of_a,
        "conflicts_with": a,
        "rate_with": stats.rate(a, of_a),
        "ci_low_with": low_a,
        "ci_high_with": high_a,
        "runs_without": of_b,
        "conflicts_without": b,
        "rate_without": stats.rate(b, of_b),
        "ci_low_without": low_b,
        "ci_high_without": high_b,
        "diff": round(a / of_a - b / of_b, 6) if of_a and of_b else np.nan,
        "ci_low": low,
        "ci_high": high,
    }
