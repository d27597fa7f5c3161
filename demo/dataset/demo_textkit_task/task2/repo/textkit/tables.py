"""Tables of plain text with aligned columns."""

from collections.abc import Sequence


def format_table(
    rows: Sequence[Sequence[object]],
    headers: Sequence[str] | None = None,
) -> str:
    """The rows as text, two blanks between columns; numbers stand at the right.

    With headers a line of dashes stands below them. All rows must have the same length.
    """
    body = [[str(cell) for cell in row] for row in rows]
    table = [list(headers), *body] if headers is not None else body
    if not table:
        return ""
    columns = len(table[0])
    if any(len(row) != columns for row in table):
        raise ValueError("all rows must have the same number of cells")

    widths = [max(len(row[i]) for row in table) for i in range(columns)]
    numeric = [
        bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(columns)
    ]
    lines = [_line(row, widths, numeric) for row in table]
    if headers is not None:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _line(cells: list[str], widths: list[int], numeric: list[bool]) -> str:
    """One row of the table, without blanks at its end."""
    parts = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric)
    ]
    return "  ".join(parts).rstrip()
