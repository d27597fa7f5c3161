"""Reasons to make an existing file again. docs/what-runs-again.md describes the rules.

A complete document has no inputs in the DAG, so it is made again only for a reason in this module.
The functions write nothing, so that a dry run changes no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cooperflow import atomic_io, layout
from cooperflow.errors import listed
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan
from cooperflow.layout import Results


def is_incomplete(document: Path | str) -> bool:
    """Return whether the document exists and cannot be read in full."""
    path = Path(document)
    return path.exists() and not atomic_io.is_complete(path)


def is_complete(document: Path | str) -> bool:
    """Return whether the document exists and can be read in full."""
    path = Path(document)
    return path.exists() and atomic_io.is_complete(path)


def marked_evaluations(results: Results) -> frozenset[str]:
    """Return the names of the redo markers, one for each evaluation whose last try broke.

    The marker of a run's evaluation is named after the run's key with dashes, that of its own
    features `own--{key}`, and that of an oracle evaluation `oracle--{pair}--{repeat}`.
    """
    try:
        files = os.listdir(results.redo_markers)
    except FileNotFoundError:
        return frozenset()
    return frozenset(name.rpartition(".")[0] for name in files)


def eval_marker(mode_folder: str, pair: str) -> str:
    """Return the name of the redo marker of a run's evaluation.

    Args:
        mode_folder: the experiment's folder, ending in {run_name}/{mode}.
    """
    name, mode = Path(mode_folder).parts[-2:]
    return layout.flatten_path(f"{name}/{mode}/{pair}")


def own_marker(mode_folder: str, pair: str) -> str:
    """Return the name of the redo marker of a run's evaluation of own features."""
    return layout.own_marker(eval_marker(mode_folder, pair))


def gate_is_outdated(plan: Plan) -> bool:
    """Return whether the gate exists although an image that the plan needs has no sentinel.

    The images of added tasks must be verified before the tasks' runs.
    """
    results = plan.results
    return results.gate.exists() and not all(
        results.sentinel(image).exists() for image in plan.images
    )


def tables_are_outdated(plan: Plan, documents: Iterable[str]) -> bool:
    """Return whether the tables exist but were made for another plan or lack a document.

    Args:
        documents: the result.json, eval.json and own.json of every run of the plan.
    """
    results = plan.results
    if not (results.runs_csv.exists() or results.summary_csv.exists()):
        return False
    return not fingerprint.tables_match(plan) or not all(map(os.path.exists, documents))


def missing_outputs(requested: Iterable[str]) -> list[str]:
    """Return the requested files of a session that do not exist, in order."""
    return sorted(path for path in set(requested) if not os.path.exists(path))


def missing_message(missing: Sequence[str]) -> str:
    """Return the message of a session that succeeded although requested files are missing."""
    return (
        f"Not complete: Snakemake reports success, but {len(missing)} requested files do not "
        f"exist: {listed(missing, 20)}.\n"
        "Start the same command again; finished files are kept. If the message appears again, "
        "report it as an error of the workflow."
    )
