"""Tables that keep names in one piece on a narrow terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def fit(table: Table, width: int, drop: Sequence[str] = (), flexible: str = "") -> Table:
    """Remove columns until the table fits; no cell but those of ``flexible`` is broken or cut.

    Args:
        drop: the headings of the columns that can be missed, the first to go first.
        flexible: the heading of the column whose cells may take several lines.
    """
    for column in table.columns:
        column.no_wrap = column.header != flexible
    for heading in drop:
        if _natural_width(table) <= width:
            return table
        table.columns[:] = [column for column in table.columns if column.header != heading]
    # Nothing is left to leave out: rather continue cells on the next line than cut them.
    fixed = Console(width=10_000).measure(table).minimum
    if fixed > width:
        for column in table.columns:
            column.no_wrap, column.overflow = False, "fold"
    return table


def _natural_width(table: Table) -> int:
    return Console(width=10_000).measure(table).maximum
