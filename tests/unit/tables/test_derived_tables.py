"""The headline tables as LaTeX and Markdown."""

from __future__ import annotations

import synthetic_tables

from cooperflow import formats
from cooperflow.tables import comparison, derived_tables, run_table

PAIRS = [("a_task", 1, "1,2"), ("a_task", 1, "1,3"), ("b_task", 2, "1,2"), ("b_task", 2, "2,3")]
HARD = "x_&%$#{}~^|*<b>"


def test_headlines_are_inert() -> None:
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(PAIRS, ["pass"] * 4, HARD),
        synthetic_tables.experiment(PAIRS, ["fail"] * 4, HARD, "coop-comm"),
    )
    summary = derived_tables.headline_summary(run_table.summary_table(runs))
    latex = summary.latex()
    assert (
        r"x\_\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}|*\textless{}b\textgreater{}" in latex
    )
    assert latex.count(r"\\") == 3
    assert r"Pass rate (95 \% CI)" in latex
    lines = [line for line in summary.markdown().splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert r"x\_&%$#{}~^\|\*\<b\>-solo" in lines[2]


def test_headline_figures() -> None:
    runs = synthetic_tables.joined(
        synthetic_tables.experiment(PAIRS, ["pass"] * 3 + ["fail"], cost_complete=False),
        synthetic_tables.experiment(PAIRS, ["fail"] * 4, setting="coop-comm", replay=True),
    )
    summary = derived_tables.headline_summary(run_table.summary_table(runs))
    assert summary.rows[0] == (
        "m-solo", "4", "3", "1", "0", "75.0 % (30.1 to 95.4)", "3", "≥ 0.40",
    )  # fmt: skip
    assert "Replay" in summary.caption
    row = derived_tables.headline_comparison(comparison.table(runs)).rows[0]
    assert row[:8] == ("m-solo", "m-coop-comm", "4", "0", "3", "0", "1", row[7])
    assert row[7].startswith("+75.0 (")
    assert row[9] == "0.250"
    nothing = derived_tables.headline_comparison(
        comparison.table(runs.assign(outcome="infra_error"))
    )
    assert nothing.rows[0][7:] == (formats.MISSING,) * 4
