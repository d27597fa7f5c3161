"""The main tables runs.csv (one row per run) and summary.csv (one row per experiment)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from cooperflow import atomic_io
from cooperflow.analysis import losses
from cooperflow.errors import UserError, listed
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import Pair, Results
from cooperflow.outcomes import judgement, patch_text, run_result
from cooperflow.outcomes.run_result import EvalRecord, RunRecord
from cooperflow.tables import oracle, stats
from cooperflow.upstream import result_files
from cooperflow.upstream.result_files import Evaluation

EXPERIMENT = ("run_name", "model", "setting")
# Columns of runs.csv and their types in the file; a verdict is True, False or empty.
RUN_COLUMNS: Mapping[str, type] = {
    "run_name": str,
    "model": str,
    "setting": str,
    "mode": str,
    "repeat": int,
    "repo": str,
    "task_id": int,
    "features": str,
    "outcome": str,
    "reason": str,
    "caveat": str,
    "attempts": int,
    "feature1_passed": str,
    "feature2_passed": str,
    "merge_status": str,
    "merge_strategy": str,
    "own1_passed": str,
    "own2_passed": str,
    "loss": str,
    **dict.fromkeys(patch_text.OVERLAP_COLUMNS, float),
    "steps": int,
    "messages_sent": int,
    "input_tokens": int,
    "output_tokens": int,
    "cached_tokens": int,
    "cache_write_tokens": int,
    "reasoning_tokens": int,
    "cost_usd": float,
    "cost_complete": bool,
    "cost_bound_usd": float,
    "duration_s": float,
    "model_s": float,
    "waited_s": float,
    "eval_s": float,
    "patch_lines": int,
    "started": str,
    "ended": str,
    "replay": bool,
    "adopted": bool,
    "framework": str,
    "git": bool,
    **dict.fromkeys(result_files.TEAM_COLUMNS, float),
    "team_features": str,
}
SUMMARY_COLUMNS = (
    *EXPERIMENT,
    *("runs", "pass", "fail", "infra_error"),
    *("pass_rate", "ci_low", "ci_high", "pass_rate_all", "pass_strict"),
    *("conflicts", "messages_sent"),
    *("input_tokens", "output_tokens", "cache_write_tokens", "reasoning_tokens"),
    *("cost_usd", "cost_complete", "duration_s", "replay", "adopted"),
)
# Default values of columns that older versions did not write.
_SINCE: dict[str, Any] = {
    "own1_passed": "",
    "own2_passed": "",
    "loss": "",
    **dict.fromkeys(patch_text.OVERLAP_COLUMNS, float("nan")),
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "framework": "",
    "git": False,
    "team_features": "",
    **dict.fromkeys(result_files.TEAM_NUMBERS, float("nan")),
}
# Numeric columns that may be empty.
_EMPTY = ("cost_bound_usd", *patch_text.OVERLAP_COLUMNS, *result_files.TEAM_NUMBERS)
# Outcome of a started run in the table of an unfinished experiment.
UNFINISHED = "unfinished"


def run_row(
    run: Run,
    result: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
    version: str = "",
    own: Mapping[str, Any] | None = None,
    patches: Sequence[bytes | None] = (),
) -> dict[str, Any]:
    """Return the row of a run, which is unfinished if its documents are missing.

    Args:
        version: version of cooperbench, which contains the agents.
        own: own.json of a coop run.
        patches: patches of agent 1 and agent 2 of a coop run, None for a missing patch.
    """
    a, b = run.pair.sorted_features
    record = RunRecord.read(result) or RunRecord()
    final = EvalRecord.read(evaluation)
    tested = Evaluation.read(evaluation or {})
    is_tested = final.tests_passed is not None and record.outcome is None
    return {
        "run_name": run.experiment.run_name,
        "model": run.experiment.model_name,
        "setting": run.experiment.setting.name,
        "mode": run.experiment.setting.mode,
        "repeat": run.experiment.repeat,
        "repo": run.pair.repo,
        "task_id": run.pair.task_id,
        "features": f"{a},{b}",
        "outcome": final.outcome or UNFINISHED,
        "reason": final.reason,
        "caveat": final.caveat,
        "attempts": record.attempts,
        "feature1_passed": tested.passed[0] if is_tested else None,
        "feature2_passed": tested.passed[1] if is_tested else None,
        "merge_status": tested.merge_status,
        "merge_strategy": tested.merge_strategy,
        **_own_columns(run, own, final.outcome, tested.merge_status),
        **patch_text.overlap_columns(*patches),
        "steps": record.steps,
        "messages_sent": record.messages_sent,
        "input_tokens": record.usage.input_tokens,
        "output_tokens": record.usage.output_tokens,
        "cached_tokens": record.usage.cached_tokens,
        "cache_write_tokens": record.usage.cache_write_tokens,
        "reasoning_tokens": record.usage.reasoning_tokens,
        "cost_usd": round(record.usage.cost_usd, 6),
        "cost_complete": record.usage.cost_complete,
        "cost_bound_usd": record.usage.cost_bound_usd,
        "duration_s": record.seconds,
        "model_s": record.model_seconds,
        "waited_s": record.waited_seconds,
        "eval_s": final.seconds,
        "patch_lines": record.patch_lines,
        "started": _moment(record.started),
        "ended": _moment(record.ended),
        "replay": run.experiment.model.replay is not None,
        "adopted": run.experiment.adopted,
        "framework": f"{run.experiment.agent.name} (cooperbench {version or 'unknown'})",
        "git": "--git" in run.experiment.setting.flags,
        **result_files.team_columns(
            (result or {}) if run.experiment.setting.mode == "team" else {}
        ),
    }


def _own_columns(
    run: Run, document: Mapping[str, Any] | None, outcome: str, merge_status: str
) -> dict[str, Any]:
    """Return the columns of the own features, which only coop runs have."""
    if run.experiment.setting.mode != "coop":
        return {"own1_passed": None, "own2_passed": None, "loss": ""}
    # Without patches, nothing is known about the own features.
    no_patches = run.experiment.has_outcomes_only
    own = (None, None) if no_patches else losses.read_document(document)
    loss = losses.loss(outcome, own, merge_status)
    return {"own1_passed": own[0], "own2_passed": own[1], "loss": loss}


def _moment(seconds: float | None) -> str:
    """Return a time as ISO 8601 in UTC; empty if unknown."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def runs_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table with its columns in order."""
    table = pd.DataFrame(list(rows), columns=list(RUN_COLUMNS))
    # A type that keeps integers in columns with empty cells.
    return table.astype(dict.fromkeys(patch_text.OVERLAP_COLUMNS, "Int64"))


def read_runs(path: Path) -> pd.DataFrame:
    """Return runs.csv with the types that were written; empty texts are not missing values.

    Raises:
        UserError: the file was written by another version and lacks a column.
    """
    texts = {column: kind for column, kind in RUN_COLUMNS.items() if kind is str}
    runs = pd.read_csv(
        path, dtype=texts, keep_default_na=False, na_values={c: [""] for c in _EMPTY}
    )
    for column, value in _SINCE.items():
        if column not in runs:
            runs[column] = value
    missing = [column for column in RUN_COLUMNS if column not in runs]
    if missing:
        raise UserError(
            f"{path}: was written by another version and lacks {listed(missing)}. Remove it and"
            " start again: it is regenerated from the runs at no cost."
        )
    for column in ("feature1_passed", "feature2_passed", "own1_passed", "own2_passed"):
        runs[column] = runs[column].map({"True": True, "False": False})
    return runs


def run_key(row: Mapping[Any, Any]) -> str:
    """Return the key of the run of a row of runs.csv."""
    a, b = map(int, str(row["features"]).split(","))
    pair = Pair(str(row["repo"]), int(row["task_id"]), (a, b))
    return f"{row['run_name']}/{row['mode']}/{pair.folder}"


def run_of_row(plan: Plan, row: Mapping[Any, Any]) -> Run:
    """Return the run of a row of runs.csv.

    Raises:
        UserError: the config has no such run.
    """
    return plan.run(run_key(row))


def read_table(path: Path) -> pd.DataFrame:
    """Return any other table; names stay texts, because a model may be called `NA`."""
    names = ("run_name", "model", "setting", "a", "b", "repo")
    return pd.read_csv(path, converters=dict.fromkeys(names, str))


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per experiment, in the order of ``runs``.

    pass_rate is pass / (pass + fail), without infrastructure errors and with a Wilson interval of
    95 %; pass_rate_all is pass / runs. Unfinished runs count only in the sums.
    """
    rows = [_summary_row(name, group) for name, group in runs.groupby("run_name", sort=False)]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def _summary_row(name: object, group: pd.DataFrame) -> dict[str, Any]:
    counts = {o: int((group["outcome"] == o).sum()) for o in judgement.OUTCOMES}
    passed, failed = counts[judgement.PASS], counts[judgement.FAIL]
    done = sum(counts.values())
    low, high = stats.wilson(passed, passed + failed)
    strict = (group["outcome"] == judgement.PASS) & group["caveat"].map(judgement.is_strict)
    first = group.iloc[0]
    return {
        "run_name": name,
        "model": first["model"],
        "setting": first["setting"],
        "runs": done,
        **counts,
        "pass_rate": stats.rate(passed, passed + failed),
        "ci_low": low,
        "ci_high": high,
        "pass_rate_all": stats.rate(passed, done),
        "pass_strict": int(strict.sum()),
        "conflicts": int((group["merge_status"] == result_files.CONFLICTS).sum()),
        "messages_sent": int(group["messages_sent"].sum()),
        "input_tokens": int(group["input_tokens"].sum()),
        "output_tokens": int(group["output_tokens"].sum()),
        "cache_write_tokens": int(group["cache_write_tokens"].sum()),
        "reasoning_tokens": int(group["reasoning_tokens"].sum()),
        "cost_usd": round(float(group["cost_usd"].sum()), 6),
        "cost_complete": bool(group["cost_complete"].all()),
        "duration_s": round(float(group["duration_s"].sum()), 3),
        "replay": bool(first["replay"]),
        "adopted": bool(first["adopted"]),
    }


def perform(plan: Plan) -> None:
    """Do the work of rule `aggregate`."""
    runs, summary = make(plan)
    print(f"{plan.results.summary_csv}: {len(summary)} experiments, {len(runs)} runs")


def make(plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write both tables of a finished experiment, and return them.

    Raises:
        UserError: a document is missing or incomplete.
    """
    runs, summary = collect(plan)
    # If a kill interrupts this, the tables belong to no plan.
    plan.results.tables_plan.unlink(missing_ok=True)
    write(plan.results, runs, summary)
    fingerprint.record_tables(plan)
    return runs, summary


def collect(plan: Plan, partial: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every run of the plan and return the two tables.

    Args:
        partial: allow missing documents; runs that have not started have no row.

    Raises:
        UserError: a document is missing or incomplete, and ``partial`` is not set.
    """
    probed = oracle.oracle_table(oracle.rows(plan))
    runs = oracle.add_states(runs_table(list(_rows(plan, partial))), probed)
    modes = {experiment.run_name: experiment.setting.mode for experiment in plan.experiments}
    return runs, oracle.add_oracle_columns(summary_table(runs), runs, probed, modes)


def write(results: Results, runs: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Write both tables, each atomically."""
    atomic_io.remove_temporary_files(results.root)
    atomic_io.write_text(results.runs_csv, runs.to_csv(index=False))
    atomic_io.write_text(results.summary_csv, summary.to_csv(index=False))


def _version(plan: Plan, run_name: str) -> str:
    """Return the cooperbench version that made an experiment, empty if unknown."""
    experiment = atomic_io.read_object(plan.results.experiment(run_name))
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
        version = versions[run.experiment.run_name]
        if run.experiment.setting.mode != "coop":
            yield run_row(run, result, evaluation, version)
            continue
        own = atomic_io.read_json(folder.own)
        patches = [
            _content(folder.path / result_files.patch_name(f)) for f in run.pair.sorted_features
        ]
        yield run_row(run, result, evaluation, version, own, patches)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _unfinished_result(run: Run, plan: Plan) -> dict[str, object]:
    """Return a result with the usage so far, for a run that has attempts but no result."""
    folder = run.folder(plan.results)
    attempts = len(folder.attempt_numbers())
    usage = run_result.usage_of_run(folder, run.experiment.agent.name)
    return {"workflow": {"attempts": attempts, **usage.as_dict()}}
