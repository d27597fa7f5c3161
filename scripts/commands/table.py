"""Print the tables of an unfinished experiment, with or without a running session."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from rich.console import Console
from rich.table import Table

from cooperflow import formats
from cooperflow.experiment import fingerprint
from cooperflow.formats import fit_table
from cooperflow.jobs import entry_points
from cooperflow.layout import Results
from cooperflow.outcomes import judgement
from cooperflow.tables import findings, run_table

STYLES = {judgement.PASS: "green", judgement.FAIL: "red", judgement.INFRA_ERROR: "yellow"}

# Width of the terminal from which all columns are shown, characters.
WIDE = 130

# The columns that are dropped on a narrow terminal, in this order.
DROP = (
    *("merge", "messages", "steps", "tokens in", "out", "conflicts", "without caveat"),
    *("tries", "95 %", "cost", "runs"),
)

Row = dict[Any, Any]


def main() -> int:
    arguments = entry_points.config_parser(__doc__).parse_args()
    plan = entry_points.load_plan(arguments.configfile)
    runs, summary = run_table.collect(plan, partial=True)
    if runs.empty:
        print(f"No run of this experiment has started in {plan.results.root}.")
        return 0
    run_table.write(plan.results.partial, runs, summary)
    print_tables(
        plan.results.partial,
        runs,
        summary,
        Console(),
        fingerprint.notes(plan),
        findings.describe_plan(plan, runs),
    )
    for entry in findings.notable_runs(plan, runs):
        print(f"look at  {entry.line} {entry.name}")
    rest = "" if len(runs) == len(plan.runs) else "; the others have no row"
    print(f"{len(runs)} of {len(plan.runs)} runs have started{rest}.")
    return 0


@dataclass(frozen=True)
class Column:
    """A column of a table on the terminal."""

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
    """Print notes, findings, summary, runs and file names, with columns that fit the terminal."""
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
            "[bold]These runs are a replay:[/] recordings replaced the model. Nothing was"
            " paid; the cost is that of equivalent real calls."
        )
    if bool(runs["adopted"].any()):
        console.print(
            "[bold]Adopted:[/] runs that plain cooperbench made. Their calls were not"
            " recorded: the cost is a lower bound."
        )


def _terminal_table(
    title: str, frame: pd.DataFrame, columns: tuple[Column, ...], width: int
) -> Table:
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


if __name__ == "__main__":
    entry_points.run_command(main)
