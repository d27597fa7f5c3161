"""Compare two results folders pair by pair."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from cooperflow import formats
from cooperflow.errors import UserError
from cooperflow.formats import fit_table
from cooperflow.jobs import entry_points
from cooperflow.tables import comparison, findings
from cooperflow.tables.comparison import Result, verdict


def print_result(a: str, b: str, result: Result, console: Console) -> None:
    """Print the rows of a comparison, then its limits."""
    table = Table(title=f"A: {a}\nB: {b}", title_justify="left", box=None, pad_edge=False)
    heads = ("experiment", "A", "B", "pairs", "B - A", "95 %", "by task", "p", "p (Holm)", "")
    for head in heads:
        table.add_column(head, justify="left" if head in ("experiment", "") else "right")
    for row in result.rows:
        difference = row.difference
        same = row.a.run_name == row.b.run_name
        table.add_row(
            row.a.run_name if same else f"{row.a.run_name} | {row.b.run_name}",
            *(
                f"{side.passed}/{side.evaluated} {formats.percent(side.rate, digits=0)}"
                for side in (row.a, row.b)
            ),
            str(difference.pairs),
            formats.points(difference.value),
            formats.point_range(difference.low, difference.high),
            formats.point_range(difference.cluster_low, difference.cluster_high),
            formats.probability(difference.p),
            formats.probability(row.p_holm),
            verdict(difference),
        )
    console.print(fit_table(table, console.width, ["p", "by task", "95 %", "p (Holm)"]))
    console.print(
        "\nPercentage points over the pairs that both evaluated: Newcombe's interval, and the one"
        " clustered by task; McNemar's exact test, adjusted over the rows by Holm's method.",
        highlight=False,
    )
    for row in result.rows:
        difference = row.difference
        if difference.pairs and not difference.is_established:
            text = f"{row.a.run_name}: inconclusive; {findings.detectable(difference)}."
            console.print(text, highlight=False, markup=False)
    if result.alone:
        console.print(f"Not compared: {', '.join(result.alone)}.", highlight=False, markup=False)
    for mark in result.marks:
        console.print(f"! {mark}", style="yellow", highlight=False, markup=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("a", type=Path, help="a results folder")
    parser.add_argument("b", type=Path, help="the other results folder")
    parser.add_argument("--anyway", action="store_true", help="mark tasks with other contents")
    arguments = parser.parse_args()
    if arguments.a.resolve() == arguments.b.resolve():
        raise UserError(f"A and B are the same folder: {arguments.a}. Name two folders.")
    a = comparison.read_folder("A", arguments.a)
    b = comparison.read_folder("B", arguments.b)
    result = comparison.compare_folders(a, b, arguments.anyway)
    print_result(a.name, b.name, result, Console())
    return 0


if __name__ == "__main__":
    entry_points.run_command(main)
