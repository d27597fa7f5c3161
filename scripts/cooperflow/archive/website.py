"""Outcomes in the form of CooperBench's website: index.json by setting, and leaderboard rows. Pure.

upstream/published.py reads the same form of index.json; the website has a file for solo and a file
for coop. A repeat is a separate model `NAME-r2`. Infrastructure errors are left out.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from cooperflow import layout
from cooperflow.outcomes import judgement
from cooperflow.tables import difficulty
from cooperflow.upstream import result_files

NOTE = "Recorded answers were played, no model answered. Not a result of any model."


def index(runs: pd.DataFrame) -> dict[str, Any]:
    """Return index.json of the runs of one setting."""
    tasks: dict[tuple[Any, ...], dict[str, Any]] = {}
    done = runs[runs["outcome"].isin([judgement.PASS, judgement.FAIL])]
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
        if row["mode"] != difficulty.SOLO:
            result["hasConflict"] = bool(row["merge_status"] == result_files.CONFLICTS)
        if bool(row["replay"]):
            result["replay"] = True
        task["results"][_name(row)] = result
    document: dict[str, Any] = {"tasks": list(tasks.values())}
    return {"note": NOTE, **document} if bool(done["replay"].any()) else document


def leaderboard(runs: pd.DataFrame, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each experiment: model, framework, git, score and its Wilson interval."""
    first = runs.drop_duplicates("run_name").set_index("run_name")
    rows = []
    for row in summary.to_dict("records"):
        run = first.loc[row["run_name"]]
        scored = int(row["pass"]) + int(row["fail"])
        rows.append(
            {
                "model": str(row["model"]),
                "framework": str(run["framework"]),
                "git": bool(run["git"]),
                "setting": str(row["setting"]),
                "repeat": int(run["repeat"]),
                "pairs": scored,
                "passed": int(row["pass"]),
                "infraErrors": int(row["infra_error"]),
                "score": float(row["pass_rate"]) if scored else None,
                "ciLow": float(row["ci_low"]) if scored else None,
                "ciHigh": float(row["ci_high"]) if scored else None,
                "replay": bool(row["replay"]),
                "adopted": bool(row["adopted"]),
            }
        )
    return rows


def _name(row: dict[Any, Any]) -> str:
    return f"{row['model']}{layout.repeat_suffix(int(row['repeat']))}"
