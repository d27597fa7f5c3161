"""Tables derived from runs.csv and summary.csv: comparison, breakdowns, messages and headlines."""

from __future__ import annotations

from cooperflow import atomic_io
from cooperflow.experiment.plan import Plan
from cooperflow.tables import (
    breakdowns,
    communication_tables,
    comparison,
    run_table,
    text_tables,
)


def perform(plan: Plan) -> None:
    """Do the work of rule `derived_tables`."""
    results = plan.results
    runs = run_table.read_runs(results.runs_csv)
    differences = comparison.table(runs)
    texts = {results.comparison_csv: differences.to_csv(index=False)}
    languages = plan.config.dataset.languages
    for name, table in breakdowns.tables(runs, languages).items():
        texts[results.table(f"{name}.csv")] = table.to_csv(index=False)
    talk = communication_tables.collect(plan, runs)
    for path, table in communication_tables.by_path(talk, results).items():
        texts[path] = table.to_csv(index=False)
    for headline in (
        text_tables.headline_summary(run_table.read_table(results.summary_csv)),
        text_tables.headline_comparison(differences),
    ):
        texts[results.table(f"{headline.name}.tex")] = headline.latex()
        texts[results.table(f"{headline.name}.md")] = headline.markdown()
    for path, text in texts.items():
        atomic_io.write_text(path, text)
        print(path)
