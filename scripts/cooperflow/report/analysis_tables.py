"""Tables on the report's first page: losses, conflicts, messages, published results, judge.

The functions are pure. Each displayed table names the file with all of its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import pandas as pd

from cooperflow import formats
from cooperflow.analysis import losses
from cooperflow.tables import breakdowns
from cooperflow.tables.communication_tables import PROPERTIES
from cooperflow.tables.paper_tables import THIS

Rows = tuple[tuple[str, ...], ...]
# Heading of each column, and the function that returns its cell for a row.
Cells = Sequence[tuple[str, Callable[[Mapping[Any, Any]], str]]]


@dataclass(frozen=True)
class ShownTable:
    """A displayed table: text cells and an explanation."""

    name: str  # anchor on the page
    part: str  # part of the page
    title: str
    note: str
    names: int  # number of leading columns with names; the others contain figures
    columns: tuple[str, ...]
    rows: Rows
    files: tuple[str, ...]  # paths below the results folder
    empty: str = "No row yet."
    is_folded: bool = False  # collapsed at first
    sources: str = ""  # sources of the rows, in one line


def build_analysis_tables(tables: Mapping[str, pd.DataFrame]) -> list[ShownTable]:
    """Return the displayed tables for the tables in `tables/`."""
    return [
        _losses(tables["losses"]),
        _own_features(tables["own_features"]),
        _conflicts(tables["conflicts"]),
        _conflict_comparison(tables["conflict_comparison"]),
        _messages(tables["communication_by_setting"]),
        _associations(tables["communication_and_conflicts"]),
        _published(tables["published"]),
    ]


def _columns_and_rows(table: pd.DataFrame, cells: Cells) -> tuple[tuple[str, ...], Rows]:
    records = table.to_dict("records")
    rows = tuple(tuple(cell(row) for _, cell in cells) for row in records)
    return tuple(heading for heading, _ in cells), rows


def build_judge_table(symptoms: pd.DataFrame) -> ShownTable:
    """Return the displayed table of the judge's symptoms."""
    cells: Cells = (
        ("Symptom", lambda row: str(row["symptom"]).replace("_", " ")),
        ("Runs", lambda row: _of(row["runs"], row["judged"])),
        ("Share", lambda row: formats.percent(row["share"])),
        ("95 % interval", _between),
        ("Rejected labels", lambda row: formats.count(row["labels_rejected"])),
        ("Agreement", lambda row: formats.percent(row["agreement"])),
        ("Paper", lambda row: formats.percent(row["paper_share_of_labels"])),
    )
    replay = any(map(formats.is_true, symptoms["replay"]))
    return ShownTable(
        "judge",
        "Symptoms",
        "Symptoms, labelled by a model" + (" (replay, no model)" if replay else ""),
        "A model, the judge, read a sample of failed coop runs and labelled the paper's ten "
        "symptoms. Each label quotes the transcript twice; a label whose quotes are not found "
        "word for word is rejected. Agreement: of repeated answers on the same run. Paper: the "
        "share among its labels, not among runs, so only the order can be compared.",
        1,
        *_columns_and_rows(symptoms, cells),
        ("judge/symptoms.csv", "judge/labels.csv"),
    )


def _losses(table: pd.DataFrame) -> ShownTable:
    kinds = (breakdowns.PASSED, *losses.LOSSES)
    rows = []
    for name, group in table.groupby("run_name", sort=False):
        by_kind = {row["loss"]: row for row in group.to_dict("records")}
        cells = [
            f"{row['runs']} ({formats.percent(row['share'], 0)}; {_between(row, 0)})"
            for row in (by_kind[kind] for kind in kinds)
        ]
        rows.append((str(name), formats.count(group["graded"].iloc[0]), *cells))
    return ShownTable(
        "losses",
        "Losses",
        "Where runs of two agents are lost",
        "Passed: the tests of both features pass at the end, also where an agent's patch alone "
        "fails. The other columns are failed runs. Agent: an agent's patch alone fails the tests "
        "of its own feature. Merge: both pass alone, but the patches conflict. Integration: both "
        "pass alone and merge cleanly, but tests fail. Unknown: an own feature could not be "
        "evaluated. In brackets: share of the evaluated runs and its Wilson interval (95 %).",
        1,
        ("Experiment", "Evaluated", "Passed", "Agent", "Merge", "Integration", "Unknown"),
        tuple(rows),
        ("tables/losses.csv",),
        "No coop run has been evaluated yet.",
    )


def _own_features(table: pd.DataFrame) -> ShownTable:
    cells: Cells = (
        ("Experiment", lambda row: str(row["run_name"])),
        ("Known", lambda row: _of(row["known"], row["graded"])),
        ("Both pass", lambda row: formats.count(row["both_passed"])),
        ("Rate", lambda row: formats.percent(row["both_rate"])),
        ("95 % interval", _between),
        ("Agents that pass", lambda row: _of(row["agents_passed"], row["agents"])),
        ("Rate", lambda row: formats.percent(row["agent_rate"])),
        ("95 % interval", lambda row: formats.percent_range(row["agent_low"], row["agent_high"])),
        ("Passes without both", lambda row: formats.count(row["passes_needing_both"])),
    )
    return ShownTable(
        "own",
        "Losses",
        "Each agent's own feature, before the merge",
        "One agent's patch alone, tested with its own feature's tests. Known: runs with a verdict "
        "on both. Where both pass, only the merge or the integration can lose the run. Passes "
        "without both: runs that pass although an own feature fails alone, because it works with "
        "the other agent's patch, or because one patch alone passed all tests.",
        1,
        *_columns_and_rows(table, cells),
        ("tables/own_features.csv",),
        "No own feature has been evaluated: none is pending, or `evaluation.own_features` is off.",
        is_folded=True,
    )


def _conflicts(table: pd.DataFrame) -> ShownTable:
    cells: Cells = (
        ("Experiment", lambda row: str(row["run_name"])),
        ("Merges", lambda row: formats.count(row["merged"])),
        ("Conflicts", lambda row: formats.count(row["conflicts"])),
        ("Conflict rate", lambda row: formats.percent(row["conflict_rate"])),
        ("95 % interval", _between),
        ("Patches overlap", lambda row: _of(row["overlapping"], row["overlap_known"])),
        ("Near", lambda row: _of(row["near"], row["overlap_known"])),
        ("Conflicts apart", lambda row: formats.count(row["conflicts_apart"])),
    )
    return ShownTable(
        "conflicts",
        "Conflicts",
        "Merge conflicts and overlapping patches",
        "Overlap: changed lines of both agents without an unchanged line between them. Near: "
        "overlap, or at most three unchanged lines between them. Apart: conflicts without "
        "overlapping lines, such as a file that one changes and the other deletes.",
        1,
        *_columns_and_rows(table, cells),
        ("tables/conflicts.csv",),
        "No patches have been merged yet.",
    )


def _conflict_comparison(table: pd.DataFrame) -> ShownTable:
    cells: Cells = (
        ("First", lambda row: str(row["a"])),
        ("Second", lambda row: str(row["b"])),
        ("Pairs", lambda row: formats.count(row["pairs"])),
        ("Both conflict", lambda row: formats.count(row["both_conflict"])),
        ("Only first", lambda row: formats.count(row["only_a_conflicts"])),
        ("Only second", lambda row: formats.count(row["only_b_conflicts"])),
        ("Neither", lambda row: formats.count(row["neither_conflicts"])),
        ("Difference, points", lambda row: formats.points(row["diff"])),
        (
            "95 % interval",
            lambda row: f"{formats.points(row['ci_low'])} to {formats.points(row['ci_high'])}",
        ),
        ("p", lambda row: formats.probability(row["p"])),
    )
    return ShownTable(
        "conflict-comparison",
        "Conflicts",
        "Conflict rates, paired",
        "The same pairs in two experiments: conflict rate of the first minus that of the second, "
        "in percentage points, with Newcombe's interval and the exact McNemar test. As in Figure "
        "5a of the CooperBench paper.",
        2,
        *_columns_and_rows(table, cells),
        ("tables/conflict_comparison.csv",),
        "Needs two settings of two agents, with and without messages.",
    )


# Measures in communication_by_setting.csv: description, and whether the value is a share.
_MEASURES: Mapping[str, tuple[str, bool]] = {
    "messages_per_run": ("messages per run", False),
    "turns_per_run": ("turns per run", False),
    "message_share": ("messages among messages and commands", True),
    "silent_share": ("runs without a message", True),
    "first_message_plan_share": ("runs whose first message is a plan", True),
    "plans_per_message": ("messages with a plan", True),
    "questions_per_message": ("messages with a question", True),
    "plans_per_question": ("plans per question", False),
    "unanswered_share": ("questions without an answer", True),
    "late_share": ("messages after the receiver's end", True),
    "with_files_share": ("messages that name a file", True),
    "with_lines_share": ("messages that name a line", True),
    "announced_touched_share": ("announced files that were changed", True),
    "touched_announced_share": ("changed files that were announced", True),
}


def _messages(table: pd.DataFrame) -> ShownTable:
    rows = []
    for (name, measure), group in table.groupby(["run_name", "measure"], sort=False):
        if measure not in _MEASURES:
            continue
        words, is_share = _MEASURES[str(measure)]
        by_merge = {row["merge"]: row for row in group.to_dict("records")}
        cells = [_value(by_merge.get(merge), is_share) for merge in ("all", "conflict", "clean")]
        rows.append((str(name), words, *cells))
    return ShownTable(
        "messages",
        "Messages",
        "Messages of the agents",
        "Plain rules find plans, questions, files and lines in the text of each message; no model "
        "reads it. In brackets: 95 % interval by resampling the tasks (with few tasks it is too "
        "narrow). Runs with and without a conflict differ in more than their messages.",
        2,
        ("Experiment", "Measure", "All runs", "With a conflict", "Merged cleanly"),
        tuple(rows),
        ("tables/communication_by_setting.csv", "communication.csv", "messages.csv"),
        "No run of two agents has been evaluated yet.",
    )


def _associations(table: pd.DataFrame) -> ShownTable:
    cells: Cells = (
        ("Experiment", lambda row: str(row["run_name"])),
        ("Property", lambda row: PROPERTIES.get(str(row["property"]), str(row["property"]))),
        ("Conflicts with it", lambda row: _of(row["conflicts_with"], row["runs_with"])),
        ("Without it", lambda row: _of(row["conflicts_without"], row["runs_without"])),
        ("Difference, points", lambda row: formats.points(row["diff"])),
        ("95 % interval", lambda row: formats.point_range(row["ci_low"], row["ci_high"])),
    )
    return ShownTable(
        "associations",
        "Messages",
        "Messages and the conflict rate",
        "Conflicts among the runs with a property of the messages and without it. These are "
        "associations, not effects: agents may write more because their features overlap.",
        2,
        *_columns_and_rows(table, cells),
        ("tables/communication_and_conflicts.csv",),
        "No setting has messages, or no run with messages was merged.",
    )


def _published(table: pd.DataFrame) -> ShownTable:
    sources = _sources(table)
    cells: Cells = (
        (
            "Model",
            lambda row: str(row["model"]) + (" (replay)" if formats.is_true(row["replay"]) else ""),
        ),
        (
            "Agent",
            lambda row: _text(row["framework"]) + (", git" if formats.is_true(row["git"]) else ""),
        ),
        ("Setting", lambda row: str(row["setting"])),
        ("Merge", lambda row: _text(row["merge"])),
        ("Comparable", lambda row: "yes" if formats.is_true(row["comparable"]) else "no"),
        (
            "Pass",
            lambda row: (
                _of(row["pass"], row["pairs"])
                if not pd.isna(row["pass"])
                else f"– of {row['pairs']}"
            ),
        ),
        ("Pass rate", lambda row: formats.percent(row["pass_rate"])),
        ("95 % interval", _between),
        ("AUC", lambda row: _decimal(row["auc"])),
        ("Retention", lambda row: _decimal(row["retention"])),
        (
            "Source",
            lambda row: ", ".join(sources.get(name, name) for name in _names(row["source"])),
        ),
    )
    return ShownTable(
        "published",
        "Published results",
        "Beside the published results",
        "Reference rows: 652 pairs, OpenHands or another agent, other releases of the benchmark. "
        "Read them as a scale, not as the other side of a test. Comparable are solo rows and coop "
        "rows with a naive merge (plain git). Not comparable: a coop row that also passes a "
        "conflict by the lead's patch alone, as this release of the benchmark does, and the "
        "paper's own merge, which resolves some conflicts. AUC: area under the pass rate over "
        "difficulty; retention: coop's area divided by solo's. The paper's tables are named by "
        "their content: the numbers that the paper gives to them were not verified.",
        4,
        *_columns_and_rows(table, cells),
        ("tables/published.csv",),
        sources="; ".join(f"[{mark}] {name}" for name, mark in sources.items()),
    )


def _sources(table: pd.DataFrame) -> dict[str, str]:
    """Return the reference mark of each published source, in the order of the rows."""
    names = (name for source in table["source"] for name in _names(source))
    published = dict.fromkeys(name for name in names if name != THIS)
    return dict(zip(published, ascii_lowercase, strict=False))


def _names(source: Any) -> list[str]:
    """Return the sources of a row, whose numbers may come from several tables."""
    return _text(source).split("; ")


def _value(row: Mapping[Any, Any] | None, is_share: bool) -> str:
    if row is None or pd.isna(row["value"]):
        return formats.MISSING
    if is_share:
        text, ends = formats.percent(row["value"], 0), _between(row, 0)
    else:
        text, ends = f"{row['value']:.3g}", ""
        if not pd.isna(row["ci_low"]):
            ends = f"{row['ci_low']:.3g} to {row['ci_high']:.3g}"
    return f"{text} ({ends})" if ends and ends != formats.MISSING else text


def _between(row: Mapping[Any, Any], digits: int = 1) -> str:
    return formats.percent_range(row["ci_low"], row["ci_high"], digits)


def _of(count: Any, total: Any) -> str:
    return f"{formats.count(count)} of {formats.count(total)}"


def _decimal(value: Any) -> str:
    return formats.MISSING if pd.isna(value) else f"{float(value):.3f}"


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
