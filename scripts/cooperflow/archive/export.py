"""Export of results to the formats of other tools: ATIF, inspect_ai, and CooperBench's website.

The website has one `index.json` for solo and one for coop, which upstream/published.py can read,
and a table of experiments. In its format a repeat is a separate model `NAME-r2`, and infrastructure
errors are omitted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cooperflow import atomic_io, layout, redaction
from cooperflow.analysis.run_files import RunFiles
from cooperflow.archive import provenance, run_formats
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import judgement
from cooperflow.tables import paper_tables, run_table
from cooperflow.upstream import result_files

ATIF = "atif"
INSPECT = "inspect"
WEBSITE = "website"
WITHOUT_INSPECT = (
    "inspect_ai is not installed: the logs are JSON, which `inspect view` opens too. For .eval"
    " files run `make inspect`, then export again."
)


@dataclass(frozen=True)
class ExportSummary:
    """Summary of an export: numbers of written files."""

    trajectories: int
    without: int  # runs without a recorded event
    logs: int
    notes: tuple[str, ...] = ()


def write(plan: Plan) -> ExportSummary:
    """Write all formats to results/export/, and last the list of the files."""
    folder = plan.results.export
    for name in (ATIF, INSPECT, WEBSITE):
        shutil.rmtree(folder / name, ignore_errors=True)
    writer = _Writer.of(plan)
    runs = run_table.read_runs(plan.results.runs_csv)
    summary = run_table.read_table(plan.results.summary_csv)
    trajectories = without = logs = 0
    python = run_formats.inspect_interpreter()
    packages = provenance.packages()
    for experiment in summary.to_dict("records"):
        rows = runs[runs["run_name"] == experiment["run_name"]].to_dict("records")
        runs_of_rows = [run_table.run_of_row(plan, row) for row in rows]
        sources = [RunFiles(run, run.folder(plan.results)) for run in runs_of_rows]
        for row, source in zip(rows, sources, strict=True):
            count = _write_trajectories(writer, folder / ATIF, row, source)
            trajectories += count
            without += count == 0
        subset = f"{plan.config.dataset.subset}, {len(plan.pairs)} pairs"
        document = run_formats.inspect_log(rows, sources, experiment, subset, packages)
        path = folder / INSPECT / f"{experiment['run_name']}.json"
        writer.write(path, document)
        if python is not None:
            run_formats.pack_inspect_log(python, path, path.with_suffix(".eval"))
            path.unlink()
        logs += 1
    for setting, group in runs.groupby("setting", sort=False):
        writer.write(folder / WEBSITE / str(setting) / "index.json", website_index(group))
    writer.write(folder / WEBSITE / "leaderboard.json", leaderboard_rows(runs, summary))
    notes = () if python is not None else (WITHOUT_INSPECT,)
    files = [str(path.relative_to(folder)) for path in _files(folder)]
    contents = {
        "replay": bool(runs["replay"].any()),
        "files": {name: provenance.file_hash(folder / name) for name in files},
    }
    atomic_io.write_json(plan.results.export_contents, contents)
    return ExportSummary(trajectories, without, logs, notes)


def _write_trajectories(
    writer: _Writer, folder: Path, row: Mapping[Any, Any], source: RunFiles
) -> int:
    """Write a trajectory for each agent and return their number."""
    framework, _, version = str(row["framework"]).partition(" (cooperbench ")
    entries = result_files.agent_entries(source.result)
    count = 0
    for agent in source.history.agents:
        about = {
            "name": framework or "unknown",
            "version": version.rstrip(")") or "unknown",
            "model_name": run_formats.model_name(
                str(source.result.get("model") or row["model"]), bool(row["replay"])
            ),
        }
        document = run_formats.atif_trajectory(
            source.history,
            agent,
            source.run.key,
            about,
            {
                **{key: row[key] for key in ("run_name", "setting", "repo", "features")},
                "task_id": int(row["task_id"]),
                "feature_id": (entries.get(agent) or {}).get("feature_id"),
                **{key: str(row[key]) for key in ("outcome", "reason", "caveat")},
                "replay": bool(row["replay"]),
                "adopted": bool(row["adopted"]),
            },
        )
        if document is not None:
            name = f"{agent.replace('/', '-')}.json"
            writer.write(folder / str(row["run_name"]) / source.run.pair.folder / name, document)
            count += 1
    return count


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            if path != folder / layout.EXPORT_CONTENTS and not name.startswith("."):
                yield path


@dataclass(frozen=True)
class _Writer:
    """Writer of JSON files without keys and without paths of this machine."""

    redactor: redaction.Redactor
    paths: provenance.PortablePaths

    @classmethod
    def of(cls, plan: Plan) -> _Writer:
        keys = redaction.Redactor.of(provenance.secrets_of(plan))
        return cls(keys, provenance.PortablePaths.of(plan))

    def write(self, path: Path, document: Any) -> None:
        text = json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False)
        data = text.encode("utf-8", errors="backslashreplace")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Thousands of files are not synced, because they can be written again at no cost.
        path.write_bytes(self.paths.data(self.redactor.data(data)) + b"\n")


def _plain(value: Any) -> Any:
    """Return a document with NaN replaced by None, since JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if not isinstance(value, str | bool | None) and pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


WEBSITE_NOTE = "Recorded answers were played instead of a model. Not a result of any model."


def website_index(runs: pd.DataFrame) -> dict[str, Any]:
    """Return index.json of the runs of one setting."""
    tasks: dict[tuple[Any, ...], dict[str, Any]] = {}
    done = runs[runs["outcome"].isin(judgement.GRADED)]
    for row in done.to_dict("records"):
        a, b = str(row["features"]).split(",")
        task = tasks.setdefault(
            (row["repo"], row["task_id"], row["features"]),
            {
                "repo": row["repo"],
                "taskId": f"task{row['task_id']}",
                "f1": f"feature{a}",
                "f2": f"feature{b}",
                "results": {},
            },
        )
        result: dict[str, Any] = {"passed": bool(row["outcome"] == judgement.PASS)}
        if row["mode"] != paper_tables.SOLO:
            result["hasConflict"] = bool(row["merge_status"] == result_files.CONFLICTS)
        if bool(row["replay"]):
            result["replay"] = True
        task["results"][f"{row['model']}{layout.repeat_suffix(int(row['repeat']))}"] = result
    document: dict[str, Any] = {"tasks": list(tasks.values())}
    return {"note": WEBSITE_NOTE, **document} if bool(done["replay"].any()) else document


def leaderboard_rows(runs: pd.DataFrame, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each experiment: model, framework, git, score and Wilson interval."""
    first = runs.drop_duplicates("run_name").set_index("run_name")
    rows = []
    for row in summary.to_dict("records"):
        run = first.loc[row["run_name"]]
        graded = int(row["pass"]) + int(row["fail"])
        rows.append(
            {
                "model": str(row["model"]),
                "framework": str(run["framework"]),
                "git": bool(run["git"]),
                "setting": str(row["setting"]),
                "repeat": int(run["repeat"]),
                "pairs": graded,
                "passed": int(row["pass"]),
                "infraErrors": int(row["infra_error"]),
                "score": float(row["pass_rate"]) if graded else None,
                "ciLow": float(row["ci_low"]) if graded else None,
                "ciHigh": float(row["ci_high"]) if graded else None,
                "replay": bool(row["replay"]),
                "adopted": bool(row["adopted"]),
            }
        )
    return rows
