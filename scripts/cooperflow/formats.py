"""Text for numbers: rates, money, durations, sizes and times. Pure."""

from __future__ import annotations

import math
import time
from typing import Any

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


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
    """Return a whole number with separators."""
    number = parse_number(value)
    return MISSING if number is None else f"{int(number):,}"


def seconds(value: Any) -> str:
    """Return a duration."""
    number = parse_number(value)
    if number is None:
        return MISSING
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(octets: float) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{octets / 1e9:.1f} GB" if octets >= 1e9 else f"{octets / 1e6:.1f} MB"


def moment(value: Any) -> str:
    """Return a time as UTC: the same text wherever the report is made."""
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
