"""Tables derived from runs.csv and summary.csv: comparison, breakdowns, messages and headlines."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cooperflow import atomic_io
from cooperflow.experiment.plan import Plan
from cooperflow.tables import (
    breakdowns,
    communication_tables,
    comparison,
    run_table,
    text_tables,
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
        text_tables.headline_summary(run_table.read_table(results.summary_csv)),
        text_tables.headline_comparison(frames[results.comparison_csv]),
    ):
        texts[results.table(f"{headline.name}.tex")] = headline.latex()
        texts[results.table(f"{headline.name}.md")] = headline.markdown()
    for path, text in texts.items():
        atomic_io.write_text(path, text)
        print(path)
