"""Formatting of rates, money, durations, sizes, times and tables for users. Pure functions."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.measure import Measurement
    from rich.table import Table

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"


def percent(value: Any, digits: int = 1) -> str:
    """Return a share between 0 and 1 in percent."""
    number = parse_number(value)
    return MISSING if number is None else f"{100 * number:.{digits}f} %"


def points(value: Any) -> str:
    """Return a difference of rates in percentage points, with its sign; zero has none."""
    number = parse_number(value)
    if number is None:
        return MISSING
    text = f"{100 * number:+.1f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def point_range(low: Any, high: Any) -> str:
    """Return an interval of a difference of rates in percentage points."""
    ends = points(low), points(high)
    return MISSING if MISSING in ends else f"{ends[0]} to {ends[1]}"


def percent_range(low: Any, high: Any, digits: int = 1) -> str:
    """Return an interval of shares in percent, with a single percent sign."""
    ends = percent(low, digits), percent(high, digits)
    return MISSING if MISSING in ends else f"{ends[0].removesuffix(' %')} to {ends[1]}"


def is_true(value: object) -> bool:
    """Return whether a cell is true, as a boolean or as text from a CSV file."""
    return str(value) == "True"


def probability(value: Any) -> str:
    """Return a p value."""
    number = parse_number(value)
    if number is None:
        return MISSING
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def usd(value: Any) -> str:
    """Return an amount of money, with four decimals below a dollar."""
    number = parse_number(value)
    if number is None:
        return MISSING
    return f"${number:,.2f}" if number >= 1 else f"${number:.4f}"


def count(value: Any) -> str:
    """Return an integer with separators."""
    number = parse_number(value)
    return MISSING if number is None else f"{int(number):,}"


_VALUE = re.compile(
    r"\bp [=<] (?=\d)|\d (?:of|to) (?=[+\N{MINUS SIGN}]?\d)|\d (?=%|points?\b|pairs?\b|s\b)"
)


def keep_together(text: str) -> str:
    """Return a text without line breaks inside values such as p = 0.500, 95 % or 3 of 4."""
    return _VALUE.sub(lambda match: match[0].replace(" ", NO_BREAK), text)


def seconds(value: Any, digits: int = 1) -> str:
    """Return a duration in its two largest units; ``digits``: of one below a minute."""
    number = parse_number(value)
    if number is None:
        return MISSING
    if number < 60:
        return f"{number:.{digits}f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(octets: float) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{octets / 1e9:.1f} GB" if octets >= 1e9 else f"{octets / 1e6:.1f} MB"


def moment(value: Any) -> str:
    """Return a time as UTC: the same text on every machine."""
    number = parse_number(value)
    return (
        MISSING if number is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(number))
    )


def parse_number(value: Any) -> float | None:
    """Return a number; None for an empty cell, NaN or text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def fit_table(table: Table, width: int, drop: Sequence[str] = (), flexible: str = "") -> Table:
    """Remove columns until the table fits; only cells of the column ``flexible`` are wrapped.

    Args:
        drop: headings of the optional columns, in the order of their removal.
        flexible: the heading of the column whose cells may take several lines.
    """
    for column in table.columns:
        column.no_wrap = column.header != flexible
    for heading in drop:
        if _unlimited(table).maximum <= width:
            return table
        table.columns[:] = [column for column in table.columns if column.header != heading]
    # All optional columns are removed: wrap cells instead of truncating them.
    if _unlimited(table).minimum > width:
        for column in table.columns:
            column.no_wrap, column.overflow = False, "fold"
    return table


def _unlimited(table: Table) -> Measurement:
    """Return the width of a table without a limit."""
    from rich.console import Console  # here, because jobs need no rich

    return Console(width=10_000).measure(table)
