"""Tables derived from runs.csv and summary.csv, and tables as LaTeX, Markdown and terminal text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from tabulate import tabulate

from cooperflow import atomic_io, formats
from cooperflow.experiment.plan import Plan
from cooperflow.formats import fit_table
from cooperflow.layout import Results
from cooperflow.outcomes import judgement
from cooperflow.tables import breakdowns, communication_tables, comparison, run_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# pandas escapes for LaTeX too, but leaves `<`, `>` and the signs below, which OT1 fonts lack.
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
    """A table of text cells with its caption; the columns after the names are numbers."""

    name: str
    columns: tuple[str, ...]
    name_columns: int
    rows: tuple[tuple[str, ...], ...]
    caption: str

    def markdown(self) -> str:
        """Return the table in GitHub's form."""
        table = tabulate(
            [[_escape_markdown(cell) for cell in row] for row in self.rows],
            headers=self.columns,
            tablefmt="pipe",
            colalign=self._alignment("left", "right"),
            disable_numparse=True,
        )
        return f"{table}\n\n{self.caption}\n"

    def latex(self) -> str:
        """Return the table for LaTeX; needs the package booktabs."""
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
    """Return ``text`` so that LaTeX sets it as it is."""
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


STYLES = {judgement.PASS: "green", judgement.FAIL: "red", judgement.INFRA_ERROR: "yellow"}

# From this width on, in characters, all columns are shown.
WIDE = 130

# The columns that a narrow terminal leaves out, in this order.
DROP = (
    *("merge", "messages", "steps", "tokens in", "out", "conflicts", "without caveat"),
    *("tries", "95 %", "cost", "runs"),
)

Row = dict[Any, Any]


@dataclass(frozen=True)
class Column:
    """A column of a terminal's table."""

    head: str
    text: Callable[[Row], str]
    justify: Literal["left", "right"] = "left"
    wide: bool = False


def print_tables(
    results: Results,
    runs: pd.DataFrame,
    summary: pd.DataFrame,
    console: Console,
    notes: Sequence[str] = (),
    sentences: Sequence[str] = (),
) -> None:
    """Print notes, findings, summary, runs and file names; a narrow terminal gets fewer columns."""
    for note in notes:
        console.print(note, style="bold yellow", highlight=False, markup=False)
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    if sentences:
        console.print()
    console.print(_terminal_table("Summary", summary, SUMMARY, console.width))
    console.print()
    console.print(_terminal_table("Runs", runs, RUNS, console.width))
    console.print()
    console.print(f"tables   {results.summary_csv}, {results.runs_csv}", highlight=False)
    if bool(runs["replay"].any()):
        console.print(
            "[bold]These runs are a replay:[/] recordings played in the model's place. Nothing was"
            " paid; the cost is what such calls would have cost."
        )
    if bool(runs["adopted"].any()):
        console.print(
            "[bold]Adopted:[/] runs that plain cooperbench made. Their calls were not"
            " recorded: the cost is a lower bound."
        )


def _terminal_table(
    title: str, frame: pd.DataFrame, columns: tuple[Column, ...], width: int
) -> Table:
    from rich.table import Table  # here: the headline tables need no terminal

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown = [column for column in columns if width >= WIDE or not column.wide]
    for column in shown:
        table.add_column(column.head, justify=column.justify, overflow="fold")
    for row in frame.to_dict("records"):
        table.add_row(*(column.text(row) for column in shown))
    return fit_table(table, width, DROP, "outcome" if columns is RUNS else "")


def _name(row: Row) -> str:
    name = str(row["run_name"])
    for label in ("replay", "adopted"):
        if row[label] and label not in name:
            name = f"{name} ({label})"
    return name


def _outcome(row: Row) -> str:
    style = STYLES.get(str(row["outcome"]), "dim")
    note = " ".join(str(row[key]) for key in ("reason", "caveat") if row[key])
    return f"[{style}]{row['outcome']}[/] {note}"


def _cost(row: Row) -> str:
    return f"${row['cost_usd']:.2f}" + ("" if row["cost_complete"] else "+")


def _percent(value: float) -> str:
    return formats.percent(value, digits=0)


def _interval(row: Row) -> str:
    return f"{_percent(row['ci_low'])} - {_percent(row['ci_high'])}"


def _of(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


SUMMARY = (
    Column("run name", _name),
    Column("runs", _of("runs"), "right"),
    Column("pass", _of("pass"), "right"),
    Column("fail", _of("fail"), "right"),
    Column("infra", _of("infra_error"), "right"),
    Column("pass rate", lambda row: _percent(row["pass_rate"]), "right"),
    Column("95 %", _interval, "right"),
    Column("without caveat", _of("pass_strict"), "right", wide=True),
    Column("conflicts", _of("conflicts"), "right", wide=True),
    Column("messages", _of("messages_sent"), "right", wide=True),
    Column("tokens in", lambda row: formats.count(row["input_tokens"]), "right", wide=True),
    Column("out", lambda row: formats.count(row["output_tokens"]), "right", wide=True),
    Column("cost", _cost, "right"),
)
RUNS = (
    Column("run name", _name),
    Column("task", lambda row: f"{str(row['repo']).removesuffix('_task')}/{row['task_id']}"),
    Column("pair", _of("features")),
    Column("outcome", _outcome),
    Column("merge", _of("merge_status"), wide=True),
    Column("tries", _of("attempts"), "right"),
    Column("steps", _of("steps"), "right", wide=True),
    Column("messages", _of("messages_sent"), "right", wide=True),
    Column("cost", _cost, "right"),
)


def tables(plan: Plan, runs: pd.DataFrame) -> dict[Path, pd.DataFrame]:
    """Return every table of figures by its path, from the table of runs."""
    results = plan.results
    small = breakdowns.tables(runs, plan.config.dataset.languages)
    return {
        results.comparison_csv: comparison.table(runs),
        **{results.table(f"{name}.csv"): table for name, table in small.items()},
        **communication_tables.by_path(communication_tables.collect(plan, runs), results),
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
