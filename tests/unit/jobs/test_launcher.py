"""Modules that the launcher for tables imports."""

from __future__ import annotations

from cooperflow.jobs import launcher


def test_the_launcher_for_tables_imports_what_the_planned_jobs_need() -> None:
    every = ["cooperflow.jobs.job", *launcher.TABLE_MODULES.values()]
    assert launcher._table_modules("") == [*every, *launcher.LATE_MODULES]
    assert launcher._table_modules("aggregate") == [
        "cooperflow.jobs.job",
        "cooperflow.tables.run_table",
    ]
    some = launcher._table_modules("aggregate,plots")
    assert "cooperflow.plots.specifications" in some
    assert "cooperflow.report.build" not in some
    assert set(launcher.LATE_MODULES) < set(some)
