"""How the headline tables look in a paper and on a page. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
_LATEX = {
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
    MINUS: "$-$",
    "≥": r"$\geq$",
    NONE: "--",
}


@dataclass(frozen=True)
class Headline:
    """A table as text: what stands in its cells, and what is said under it."""

    name: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str

    def markdown(self) -> str:
        """Return the table in GitHub's form, its columns padded to be read as they are."""
        cells = [[_plain(c) for c in row] for row in (self.columns, *self.rows)]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(self.columns))]

        def line(row: list[str]) -> str:
            padded = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self.numeric, strict=True)
            ]
            return f"| {' | '.join(padded)} |"

        rule = [
            f"{'-' * (width - 1)}:" if right else "-" * width
            for width, right in zip(widths, self.numeric, strict=True)
        ]
        lines = [line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])]
        return "\n".join([*lines, "", self.caption, ""])

    def latex(self) -> str:
        """Return the table for LaTeX; needs the package booktabs."""
        columns = "".join("r" if right else "l" for right in self.numeric)
        body = [" & ".join(escaped(cell) for cell in row) + r" \\" for row in self.rows]
        return "\n".join(
            [
                "% needs \\usepackage{booktabs}",
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{escaped(self.caption)}}}",
                rf"  \label{{tab:{self.name}}}",
                rf"  \begin{{tabular}}{{{columns}}}",
                r"    \toprule",
                f"    {' & '.join(escaped(c) for c in self.columns)} \\\\",
                r"    \midrule",
                *(f"    {row}" for row in body),
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def escaped(text: str) -> str:
    """Return ``text`` so that LaTeX sets it as it is."""
    return "".join(_LATEX.get(character, character) for character in _single(text))


def _plain(text: str) -> str:
    """Return ``text`` so that a Markdown table holds it as it is."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", _single(text))


def _single(text: str) -> str:
    return " ".join(text.split())


def summary(table: pd.DataFrame) -> Headline:
    """Return the table of the experiments."""
    columns = ("Run", "n", "Pass", "Fail", "Infra", "Pass rate (95 % CI)", "Strict", "Cost (USD)")
    rows = []
    for row in table.to_dict("records"):
        rate, low, high = (_number(row[key]) for key in ("pass_rate", "ci_low", "ci_high"))
        complete = str(row["cost_complete"]) == "True"
        rows.append(
            (
                str(row["run_name"]),
                *(str(row[key]) for key in ("runs", "pass", "fail", "infra_error")),
                _interval(rate, low, high),
                str(row["pass_strict"]),
                f"{'' if complete else '≥ '}{float(row['cost_usd']):.2f}",
            )
        )
    caption = (
        "Pass rates by model and setting: passes among the graded pairs, with Wilson intervals; "
        "infrastructure errors (Infra) are left out of the rate. Strict: passes without a caveat "
        "on the tests." + _labels(table)
    )
    return Headline("summary", columns, (False, *[True] * 7), tuple(rows), caption)


def comparison(table: pd.DataFrame) -> Headline:
    """Return the table of the paired differences."""
    columns = (
        "a",
        "b",
        "Pairs",
        "Both",
        "Only a",
        "Only b",
        "Neither",
        "Difference (95 % CI)",
        "Clustered CI",
        "p",
        "p (Holm)",
    )
    rows = []
    for row in table.to_dict("records"):
        rows.append(
            (
                str(row["a"]),
                str(row["b"]),
                *(str(row[k]) for k in ("pairs", "both", "only_a", "only_b", "neither")),
                _interval(row["diff"], row["ci_low"], row["ci_high"], signed=True),
                _range(row["cluster_low"], row["cluster_high"], signed=True),
                _p(row["p"]),
                _p(row["p_holm"]),
            )
        )
    caption = (
        "Paired differences of pass rates, a minus b, in percentage points, with Newcombe's "
        "interval and a bootstrap interval clustered by task; exact McNemar test, Holm-adjusted "
        "over all rows. Pairs that either side did not grade are left out." + _labels(table)
    )
    return Headline("comparison", columns, (False, False, *[True] * 9), tuple(rows), caption)


def _labels(table: pd.DataFrame) -> str:
    """Return what is to be said of rows that are no runs of a model by this workflow."""

    def some(label: str) -> bool:
        return any(str(value) == "True" for value in table[label])

    text = ""
    if some("replay"):
        text += " Replay: recorded answers, not a model's; says nothing about any model."
    if some("adopted"):
        text += " Adopted: some runs were made by plain cooperbench, their calls are not recorded."
    return text


def _number(value: object) -> float:
    return float("nan") if value == "" else float(str(value))


def _percent(value: float, signed: bool = False) -> str:
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    if text in ("+0.0", "-0.0"):
        text = "0.0"
    return text.replace("-", MINUS)


def _interval(value: float, low: float, high: float, signed: bool = False) -> str:
    if value != value:
        return NONE
    unit = "" if signed else " %"
    return f"{_percent(value, signed)}{unit} {_range(low, high, signed)}"


def _range(low: float, high: float, signed: bool = False) -> str:
    if low != low or high != high:
        return NONE
    return f"({_percent(low, signed)} to {_percent(high, signed)})"


def _p(value: float) -> str:
    if value != value:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
