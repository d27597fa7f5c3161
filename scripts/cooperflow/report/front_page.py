"""Content of the report's first page: introduction, tables, figures and provenance."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cooperflow import atomic_io, layout
from cooperflow.experiment.plan import Plan, Setting
from cooperflow.plots import specifications, vega
from cooperflow.plots.specifications import Tables
from cooperflow.plots.vega import Spec
from cooperflow.report.analysis_tables import ShownTable
from cooperflow.tables import oracle

# Columns of the table of all runs: name in runs.csv, heading, whether it has numbers.
COLUMNS = (
    ("outcome", "Outcome", False),
    ("reason", "Reason", False),
    ("caveat", "Caveat", False),
    ("setting", "Setting", False),
    ("model", "Model", False),
    ("repo", "Repo", False),
    ("task_id", "Task", True),
    ("features", "Features", False),
    ("steps", "Steps", True),
    ("messages_sent", "Messages", True),
    ("cost_usd", "Cost, USD", True),
    ("duration_s", "Time, s", True),
    ("attempts", "Attempts", True),
    ("patch_lines", "Patch lines", True),
    ("input_tokens", "Tokens in", True),
    ("output_tokens", "Tokens out", True),
)
# Columns that are shown only if any run has such a value.
LABELS = ("replay", "adopted")
# Columns shown in a row of details, so that the table fits a window of 1,280 pixels.
FOLDED = ("caveat", "attempts", "patch_lines", "input_tokens", "output_tokens")
# Columns shown in the details if all runs have the same value.
CONSTANT = ("model", *LABELS)
# Number of displayed decimals; runs.csv has all digits.
DIGITS = {"cost_usd": 4, "duration_s": 1}
# Columns with a filter.
FILTERS = ("outcome", "reason", "setting", "model", "repo")
# Figures that need the page's full width because of long labels.
WIDE = ("published",)
# Shown if the oracle has run for any pair.
ORACLE = ("oracle", "Oracle", False)

# Terms of the first page, for readers who do not know the benchmark.
TERMS = (
    ("pair", "Two features of one task. All settings use the same pairs."),
    ("setting, experiment, run", "A setting defines who does the work; an experiment is a model "
     "in a setting; a run is an experiment on one pair."),
    ("pass, fail", "After the work (and the merge) the tests of both features pass, or not. "
     "Reasons of a fail: tests_failed; merge_conflict; empty_patch, an agent submitted nothing; "
     "timeout."),
    ("infra error", "The run broke for a reason outside of the model, such as a provider that did "
     "not answer. It counts neither as a pass nor as a fail; only the pass rate of all runs counts "
     "it as not passed."),
    ("conflict", "Git cannot combine the patches of two agents, because both changed the same or "
     "adjacent lines."),
    ("caveat", "A pass that deserves a second look. lead_alone: the patches conflict, and the "
     "benchmark accepts one agent's patch alone, which passes the tests of both features. "
     "no_tests_run: no test was run."),
    ("points", "Percentage points: from 60 % to 45 % are \N{MINUS SIGN}15 points."),
    ("95 % interval", "The range of values that the data support. A difference whose interval "
     "contains 0 is not established."),
    ("p", "How often chance alone would make a difference at least this large if there were none."),
    ("oracle", "The benchmark's own solutions in place of agents, which show the best possible "
    "result on this machine."),
    ("replay", "Prepared answers in place of a model, to show the workflow without cost. The "
    "commands, patches, merges and tests are real; the outcomes are no evidence about a model, and "
     "costs are what such calls would have cost."),
    ("step", "One answer of the model and the commands in it, also called a turn."),
)  # fmt: skip


def introduction(plan: Plan) -> str:
    """Return an introduction for readers who do not know the benchmark."""
    parts: list[str] = []
    has_coop = False
    for setting in plan.settings:
        parts.append(f"{setting.name}: {_explain(setting, has_coop)}.")
        has_coop = has_coop or setting.mode == "coop"
    return (
        "CooperBench (arXiv:2601.13295) measures the cost of dividing programming work between "
        "agents. A task is a repository with features to add; a pair is two of these features. "
        f"{' '.join(parts)} A run passes if the tests of both features pass at the end. Where "
        "patches conflict, this release of the benchmark accepts one agent's patch that passes "
        "them alone; such a pass has the caveat lead_alone."
    )


def _explain(setting: Setting, is_repeated: bool) -> str:
    """Return a description of who does the work in a setting.

    Args:
        is_repeated: True if the work of two agents was already explained.
    """
    if setting.mode == "solo":
        return "one agent adds both features"
    if setting.mode != "coop":
        return f"the benchmark's setting {setting.mode}"
    if is_repeated:
        return f"the same {'with' if setting.messaging else 'without'} messages"
    communication = "they can send each other messages" if setting.messaging else "without messages"
    return (
        "two agents work at the same time in separate copies of the repository, one feature each, "
        f"and git merges their patches; {communication}"
    )


GUIDE = "README.md"
GUIDE_SECTION = "Run the benchmark"


def guide_link(report: Path) -> str:
    """Return the link to the guide for a real model; empty for a report outside the checkout."""
    if not report.resolve().is_relative_to(layout.REPOSITORY):
        return ""
    path = os.path.relpath(layout.REPOSITORY / GUIDE, report.resolve())
    return f"{path}#{GUIDE_SECTION.lower().replace(' ', '-')}"


def runs_data(
    runs: pd.DataFrame, pages: list[str | None], pairs: list[str | None]
) -> dict[str, Any]:
    """Return the data of the table of all runs, which the first page loads."""
    columns = list(COLUMNS)
    for label in LABELS:
        if bool(runs[label].any()):
            columns.insert(1, (label, label.capitalize(), False))
    if has_oracle(runs):
        columns.append(ORACLE)
    values: list[list[Any]] = []
    for key, _, number in columns:
        column = runs[key]
        if key in LABELS:
            values.append([key if v else "" for v in column])
        elif number:
            values.append([None if pd.isna(v) else v for v in column.tolist()])
        else:
            values.append(["" if pd.isna(v) else str(v) for v in column.tolist()])
    return {
        "columns": [
            {
                "key": key,
                "title": title,
                "number": number,
                "filter": key in (*FILTERS, ORACLE[0]),
                "folded": key in FOLDED or (key in CONSTANT and runs[key].nunique() == 1),
                "digits": DIGITS.get(key),
            }
            for key, title, number in columns
        ],
        "rows": [list(row) for row in zip(*values, strict=True)],
        "pages": pages,
        "pairs": pairs,
    }


def has_oracle(table: pd.DataFrame) -> bool:
    """Return whether the oracle has run for any pair in the table of runs."""
    return "oracle" in table and bool((table["oracle"] != oracle.NOT_RUN).any())


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table, for a template that shows the raw value beside each text."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def title(plan: Plan) -> str:
    models = [name for name, model in plan.config.models.items() if model]
    return f"CooperBench: {', '.join(models)}"


def dates(runs: pd.DataFrame) -> str:
    """Return the start of the first run and the end of the last run, in UTC."""
    started = [value for value in runs["started"] if value]
    ended = [value for value in runs["ended"] if value]
    if not started or not ended:
        return ""
    first, last = (value[:16].replace("T", " ") for value in (min(started), max(ended)))
    return f"{first} to {last} UTC"


@dataclass(frozen=True)
class Figure:
    """A figure with its title and description."""

    name: str
    title: str
    caption: str
    spec: Spec

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "spec": {k: v for k, v in self.spec.items() if k != "title"}}

    @property
    def height(self) -> int:
        """Height on the page, where panels are stacked, in pixels."""
        return sum(int(view["height"]) + 60 for view in vega.views(self.spec))

    @property
    def is_wide(self) -> bool:
        """True if its labels need the page's full width."""
        return self.name in WIDE


def figures(tables: Tables) -> list[Figure]:
    """Return the figures that have data."""
    specs = {name: make(tables) for name, make in specifications.SPECS.items()}
    return [
        Figure(name, str(spec["title"]), caption(name), spec)
        for name, spec in specs.items()
        if vega.has_data(spec)
    ]


def caption(name: str) -> str:
    """Return a figure's caption, which Snakemake's report uses too."""
    return " ".join((layout.CAPTIONS / f"{name}.rst").read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class Part:
    """A part of the page: tables with their figures."""

    name: str
    tables: tuple[ShownTable, ...]
    figures: tuple[Figure, ...]

    @property
    def anchor(self) -> str:
        return self.name.lower().replace(" ", "-")

    @property
    def content(self) -> str:
        """The numbers of tables and figures, as text."""
        counts = ((len(self.tables), "table"), (len(self.figures), "figure"))
        return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts if n)


# The parts of the page in order. The first three answer the benchmark's question; the others are
# collapsed at first.
MAIN_PARTS = ("Results", "Comparison", "Losses")
FOLDED_PARTS = (
    "Conflicts",
    "Messages",
    "Difficulty",
    "Published results",
    "Symptoms",
    "Cost and time",
)


def parts(tables: Sequence[ShownTable], drawn: Sequence[Figure]) -> dict[str, Part]:
    """Return the parts of the page by name, in order, without empty collapsed parts."""
    all_parts = [
        Part(
            name,
            tuple(table for table in tables if table.part == name),
            tuple(figure for figure in drawn if layout.PLOTS[figure.name] == name),
        )
        for name in (*MAIN_PARTS, *FOLDED_PARTS)
    ]
    return {part.name: part for part in all_parts if part.name in MAIN_PARTS or part.content}


def provenance(root: Path) -> dict[str, Any] | None:
    """Return the facts and the collapsible documents of a results folder's provenance."""
    document = atomic_io.read_object(root / "provenance.json")
    if not document:
        return None
    facts = [(key, str(value)) for key, value in (document.get("facts") or {}).items()]
    labels = (
        ("config", "The requested config"),
        ("experiments", "The experiments as resolved"),
        ("images", "Images"),
        ("tasks", "Hashes of the tasks"),
        ("packages", "Versions of the packages"),
    )
    return {
        "facts": facts,
        "documents": [
            (label, json.dumps(document[key], indent=2, ensure_ascii=False))
            for key, label in labels
            if document.get(key)
        ],
    }
