"""Content of the report's first page: figures, tables and provenance."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cooperflow import atomic_io
from cooperflow.experiment.plan import Plan, Run, Setting
from cooperflow.layout import Pair
from cooperflow.outcomes import judgement
from cooperflow.plots import specifications
from cooperflow.plots.plot_data import Tables, titled
from cooperflow.plots.specifications import Spec
from cooperflow.tables import oracle

# Columns of the table of all runs: of runs.csv, their heading, whether they are numbers.
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
# Columns for a kind of run; shown if any run is of that kind.
LABELS = ("replay", "adopted")
# Columns that are folded into a row of details: the table fits a window of 1,280 pixels.
FOLDED = ("caveat", "attempts", "patch_lines", "input_tokens", "output_tokens")
# Columns that are folded too where all runs have the same value.
CONSTANT = ("model", *LABELS)
# Digits that are shown after the point; runs.csv has all of them.
DIGITS = {"cost_usd": 4, "duration_s": 1}
# Columns that a reader chooses from.
FILTERS = ("outcome", "reason", "setting", "model", "repo")
# Figures that take the page's full width: their labels are long.
WIDE = ("published", "losses")
# Shown if the oracle was run for any pair.
ORACLE = ("oracle", "Oracle", False)

CAPTIONS = {
    "pass_rates": "pass / (pass + fail); infrastructure errors are left out.",
    "paired_outcomes": "Pairs with an outcome in both. The two middle parts make the difference.",
    "coordination_gap": "How often two agents pass what one agent alone finds easy or hard.",
    "paper_difficulty": "Difficulty as in the CooperBench paper's appendix C. Published: the "
    "website's pooled curves (five models, 652 pairs, OpenHands, the paper's merge).",
    "published": "Published rows: 652 pairs, OpenHands or another agent, other releases. Read them "
    "as a scale, not as a test. Coop rows leave out passes by one agent's patch alone. All rows "
    "and sources: tables/published.csv.",
    "cost_success": "Over all attempts of a run; intervals are Wilson's, 95 %.",
    "repo_outcomes": "Passes of the runs that were evaluated.",
    "losses": "Runs that are left after each stage; a run that passes is left at every stage. An "
    "own feature is one agent's patch alone, tested before the merge.",
    "message_share": "Two agents' messages among their messages and commands.",
    "turns": "Answers that the agents of a run acted on, all agents together.",
    "message_times": "Each run's time, from its first turn to its end, in six equal parts.",
    "communication_and_conflicts": "Associations, not effects: what makes agents write may also "
    "make their patches conflict. Left of zero: fewer conflicts with the property.",
    "timeline": "A bar for each run, coloured by its outcome.",
    "reasons": "Runs that ended as fail or infra_error.",
}


# Terms of the first page, for readers who do not know the benchmark.
TERMS = (
    ("pair", "Two features of one task. Every setting does the same pairs."),
    ("setting, experiment, run", "A setting says who does the work; an experiment is a model in a "
     "setting; a run is an experiment on one pair."),
    ("pass, fail", "After the work (and the merge) the tests of both features pass, or not. "
     "Reasons of a fail: tests_failed; merge_conflict; empty_patch, an agent handed in nothing; "
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
    ("oracle", "The benchmark's own solutions in the place of agents: they show what a run can "
     "reach on this machine."),
    ("replay", "Prepared answers in the place of a model, to show the workflow without cost. The "
     "commands, patches, merges and tests are real; the outcomes say nothing about a model, and "
     "costs are what such calls would have cost."),
    ("step", "One answer of the model and the commands in it, also called a turn."),
)  # fmt: skip


def introduction(plan: Plan) -> str:
    """Return what is measured, in sentences for a reader who does not know the benchmark."""
    settings = " ".join(f"{setting.name}: {_explain(setting)}." for setting in plan.settings)
    return (
        "CooperBench (arXiv:2601.13295) measures what it costs to divide programming work between "
        "agents. A task is a "
        "repository with features to add; a pair is two of these features. "
        f"{settings} A run passes if the tests of both features pass at the end. Where patches "
        "conflict, this release of the benchmark accepts one agent's patch that passes them alone; "
        "such a pass has the caveat lead_alone."
    )


def _explain(setting: Setting) -> str:
    """Return who does the work of a pair in a setting."""
    if setting.mode == "solo":
        return "one agent adds both features"
    if setting.mode != "coop":
        return f"the benchmark's setting {setting.mode}"
    talk = "they can send each other messages" if setting.messaging else "without messages"
    return (
        "two agents work at the same time in separate copies of the repository, one feature each, "
        f"and git merges their patches; {talk}"
    )


def run_of_row(
    row: Mapping[Hashable, Any], plan: Plan, pairs: Mapping[tuple[Any, ...], Pair]
) -> Run:
    """Return the run of a row of runs.csv."""
    pair = pairs[(row["repo"], int(row["task_id"]), str(row["features"]))]
    return Run(plan.experiment(str(row["run_name"])), pair)


def pairs_by_row(plan: Plan) -> dict[tuple[Any, ...], Pair]:
    """Return the plan's pairs by their columns in runs.csv."""
    return {
        (pair.repo, pair.task_id, ",".join(map(str, pair.sorted_features))): pair
        for pair in plan.pairs
    }


def runs_data(
    runs: pd.DataFrame, pages: list[str | None], pairs: list[str | None]
) -> dict[str, Any]:
    """Return the table of all runs as the first page loads it: rows of plain values."""
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
    """Return whether the gold patches of any pair in the table of runs were evaluated."""
    return "oracle" in table and bool((table["oracle"] != oracle.NOT_RUN).any())


def headline(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the headline table, the raw value beside each text."""
    return [{str(k): v for k, v in row.items()} for row in summary.to_dict("records")]


def comparison(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of comparison.csv."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def title(plan: Plan) -> str:
    models = [name for name, model in plan.config.models.items() if model]
    return f"CooperBench: {', '.join(models)}"


def dates(runs: pd.DataFrame) -> str:
    """Return the start of the first run and the end of the last run, UTC."""
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
        """Height on the page, pixels: its panels are stacked there."""
        return sum(int(view["height"]) + 60 for view in specifications.views(self.spec))

    @property
    def is_wide(self) -> bool:
        """True if its labels need the page's full width."""
        return self.name in WIDE


def figures(tables: Tables) -> list[Figure]:
    """Return the figures for which there is data."""
    specs = {name: make(tables) for name, make in specifications.SPECS.items()}
    reasons_spec = reasons(tables.runs)
    specs |= {"reasons": reasons_spec} if reasons_spec else {}
    return [
        Figure(name, str(spec["title"]), CAPTIONS.get(name, ""), spec)
        for name, spec in specs.items()
        if specifications.has_data(spec)
    ]


def reasons(runs: pd.DataFrame) -> Spec | None:
    """Return the figure of why runs did not pass, None if all passed."""
    bad = runs[runs["outcome"].isin([judgement.FAIL, judgement.INFRA_ERROR])]
    if bad.empty:
        return None
    order = list(dict.fromkeys(runs["run_name"]))
    table = bad.groupby(["reason", "run_name"]).size().unstack(fill_value=0)
    table = table.reindex(columns=order, fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    counts = [
        (str(reason) or "no reason", name, int(table.loc[reason, name]))
        for reason in table.index
        for name in order
    ]
    return specifications.reasons(titled("Why runs did not pass", runs), counts, order)


def provenance(root: Path) -> dict[str, Any] | None:
    """Return the facts, and the documents to fold, of a results folder's provenance."""
    document = atomic_io.read_json(root / "provenance.json")
    if not isinstance(document, dict):
        return None
    facts = [(key, str(value)) for key, value in (document.get("facts") or {}).items()]
    labels = (
        ("config", "The config as asked for"),
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
