"""runs.csv and summary.csv from the folders of the runs."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from cooperflow import atomic_io
from cooperflow.errors import UserError
from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import Results
from cooperflow.outcomes import publication
from cooperflow.tables import oracle_table, run_table, staleness


def make(plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write both tables of a finished experiment, and return them.

    Raises:
        UserError: a document is missing or incomplete.
    """
    runs, summary = collect(plan)
    write(plan.results, runs, summary)
    staleness.remember(plan)
    return runs, summary


def collect(plan: Plan, partial: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every run of the plan and return the two tables.

    Args:
        partial: accept missing documents; runs that never started have no row.

    Raises:
        UserError: a document is missing or incomplete, and ``partial`` is not set.
    """
    probed = oracle_table.table(oracle_table.rows(plan))
    runs = oracle_table.mark(run_table.runs_table(list(_rows(plan, partial))), probed)
    modes = {experiment.run_name: experiment.setting.mode for experiment in plan.experiments}
    return runs, oracle_table.beside(run_table.summary_table(runs), runs, probed, modes)


def write(results: Results, runs: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Write both tables, each atomically."""
    atomic_io.remove_temporary_files(results.root)
    atomic_io.write_text(results.runs_csv, runs.to_csv(index=False))
    atomic_io.write_text(results.summary_csv, summary.to_csv(index=False))


def _version(plan: Plan, run_name: str) -> str:
    """Return the version of cooperbench that made an experiment, empty if unknown."""
    document = atomic_io.read_json(plan.results.experiment(run_name))
    experiment = document if isinstance(document, dict) else {}
    adopted = experiment.get("adopted") or {}
    resolved = experiment.get("resolved") or {}
    return str(adopted.get("upstream_version") or resolved.get("cooperbench") or "")


def _rows(plan: Plan, partial: bool) -> Iterable[dict[str, object]]:
    versions = {
        experiment.run_name: _version(plan, experiment.run_name) for experiment in plan.experiments
    }
    for run in plan.runs:
        folder = run.folder(plan.results)
        paths = folder.document_names
        result, evaluation = map(atomic_io.read_json, paths)
        if not partial:
            for path, document in zip(paths, (result, evaluation), strict=True):
                if not isinstance(document, dict) or "workflow" not in document:
                    raise UserError(
                        f"{path} is missing or incomplete. Remove it, then start again: it is "
                        "restored from the run's attempts at no cost."
                    )
        elif result is None:
            if not folder.attempt_numbers():
                continue
            result = _unfinished_result(run, plan)
        yield run_table.run_row(run, result, evaluation, versions[run.experiment.run_name])


def _unfinished_result(run: Run, plan: Plan) -> dict[str, object]:
    """Return the usage so far of a run that has attempts but no result."""
    folder = run.folder(plan.results)
    attempts = len(folder.attempt_numbers())
    return {"workflow": {"attempts": attempts, **publication.books(folder).as_dict()}}
