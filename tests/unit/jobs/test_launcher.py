"""The modules that the launchers and their client import."""

from __future__ import annotations

import os
import subprocess
import sys

from cooperflow.jobs import launcher


def test_the_launcher_for_tables_imports_what_the_planned_jobs_need() -> None:
    every = ["cooperflow.jobs.entry_points", *launcher.TABLE_MODULES.values()]
    assert launcher._table_modules("") == [*every, *launcher.LATE_MODULES]
    assert launcher._table_modules("aggregate") == [
        "cooperflow.jobs.entry_points",
        "cooperflow.tables.run_table",
    ]
    modules = launcher._table_modules("aggregate,plots")
    assert "cooperflow.plots.specifications" in modules
    assert "cooperflow.report.build" not in modules
    assert set(launcher.LATE_MODULES) < set(modules)


def test_the_client_imports_little() -> None:
    program = "import sys; from cooperflow.jobs import launcher; print(*sys.modules)"
    command = [sys.executable, "-S", "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(launcher.SCRIPTS)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not {"dataclasses", "inspect", "typing", "asyncio"} & set(process.stdout.split())
