"""The tables derived from runs.csv, and the headline tables in LaTeX and Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from cooperflow import atomic_io, formats
from cooperflow.experiment.plan import Plan
from cooperflow.tables import breakdowns, communication_tables, comparison, run_table

# pandas escapes text for LaTeX except `<`, `>` and the signs below, which OT1 fonts lack.
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        formats.MINUS: "$-$",
        "≥": r"$\geq$",
        formats.MISSING: "--",
    }
)


@dataclass(frozen=True)
class Headline:
    """A table of text cells with a caption; the columns after the names contain numbers."""

    name: str
    columns: tuple[str, ...]
    name_columns: int
    rows: tuple[tuple[str, ...], ...]
    caption: str

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
        table = tabulate(
            [[_escape_markdown(cell) for cell in row] for row in self.rows],
            headers=self.columns,
            tablefmt="pipe",
            colalign=self._alignment("left", "right"),
            disable_numparse=True,
        )
        return f"{table}\n\n{self.caption}\n"

    def latex(self) -> str:
        """Return the table in LaTeX; it needs the package booktabs."""
        cells = pd.DataFrame(
            [[escape_latex(cell) for cell in row] for row in self.rows],
            columns=[escape_latex(column) for column in self.columns],
        )
        table = cells.style.hide(axis="index").to_latex(
            column_format="".join(self._alignment("l", "r")),
            hrules=True,
            position_float="centering",
            caption=escape_latex(self.caption),
            label=f"tab:{self.name}",
        )
        return f"% needs \\usepackage{{booktabs}}\n{table}"

    def _alignment(self, name: str, number: str) -> list[str]:
        return [name if i < self.name_columns else number for i in range(len(self.columns))]


def escape_latex(text: str) -> str:
    """Return ``text`` with the special characters of LaTeX escaped."""
    return _single_line(text).translate(_LATEX)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", _single_line(text))


def _single_line(text: str) -> str:
    return " ".join(text.split())


def headline_summary(table: pd.DataFrame) -> Headline:
    """Return the table of the experiments."""
    columns = ("Run", "n", "Pass", "Fail", "Infra", "Pass rate (95 % CI)", "Strict", "Cost (USD)")
    rows = tuple(
        (
            str(row["run_name"]),
            *(str(row[key]) for key in ("runs", "pass", "fail", "infra_error")),
            _rate(row),
            str(row["pass_strict"]),
            f"{'' if str(row['cost_complete']) == 'True' else '≥ '}{float(row['cost_usd']):.2f}",
        )
        for row in table.to_dict("records")
    )
    caption = (
        "Pass rates by model and setting: passes among the evaluated pairs, with Wilson "
        "intervals; infrastructure errors (Infra) are left out of the rate. Strict: passes "
        "without a caveat on the tests." + _labels(table)
    )
    return Headline("summary", columns, 1, rows, caption)


def headline_comparison(table: pd.DataFrame) -> Headline:
    """Return the table of the paired differences."""
    counts = ("Pairs", "Both", "Only a", "Only b", "Neither")
    columns = ("a", "b", *counts, "Difference (95 % CI)", "Clustered CI", "p", "p (Holm)")
    rows = tuple(
        (
            str(row["a"]),
            str(row["b"]),
            *(str(row[key]) for key in ("pairs", "both", "only_a", "only_b", "neither")),
            _difference(row),
            _range(row["cluster_low"], row["cluster_high"]),
            formats.probability(row["p"]),
            formats.probability(row["p_holm"]),
        )
        for row in table.to_dict("records")
    )
    caption = (
        "Paired differences of pass rates, a minus b, in percentage points, with Newcombe's "
        "interval and a bootstrap interval clustered by task; exact McNemar test, Holm-adjusted "
        "over all rows. Pairs without an evaluation on either side are left out." + _labels(table)
    )
    return Headline("comparison", columns, 2, rows, caption)


def _labels(table: pd.DataFrame) -> str:
    """Return the remarks on replayed and adopted runs."""
    text = ""
    if any(map(formats.is_true, table["replay"])):
        text += " Replay: recorded answers, not a model's; not evidence about any model."
    if any(map(formats.is_true, table["adopted"])):
        text += " Adopted: some runs were made by plain cooperbench, without a record of calls."
    return text


def _rate(row: dict[Any, Any]) -> str:
    rate = formats.percent(row["pass_rate"])
    if rate == formats.MISSING:
        return rate
    ends = formats.percent_range(row["ci_low"], row["ci_high"])
    return f"{rate} ({ends.removesuffix(' %')})"


def _difference(row: dict[Any, Any]) -> str:
    difference = formats.points(row["diff"])
    if difference == formats.MISSING:
        return difference
    return f"{difference} {_range(row['ci_low'], row['ci_high'])}"


def _range(low: object, high: object) -> str:
    text = formats.point_range(low, high)
    return text if text == formats.MISSING else f"({text})"


def tables(plan: Plan, runs: pd.DataFrame) -> dict[Path, pd.DataFrame]:
    """Return all derived tables by their paths, computed from the table of runs."""
    results = plan.results
    small = breakdowns.tables(runs, plan.config.dataset.languages)
    return {
        results.comparison_csv: comparison.table(runs),
        **{results.table(f"{name}.csv"): table for name, table in small.items()},
        **communication_tables.tables_by_path(communication_tables.collect(plan, runs), results),
    }


def perform(plan: Plan) -> None:
    """Do the work of rule `derived_tables`."""
    results = plan.results
    frames = tables(plan, run_table.read_runs(results.runs_csv))
    texts = {path: frame.to_csv(index=False) for path, frame in frames.items()}
    for headline in (
        headline_summary(run_table.read_table(results.summary_csv)),
        headline_comparison(frames[results.comparison_csv]),
    ):
        texts[results.table(f"{headline.name}.tex")] = headline.latex()
        texts[results.table(f"{headline.name}.md")] = headline.markdown()
    for path, text in texts.items():
        atomic_io.write_text(path, text)
        print(path)
