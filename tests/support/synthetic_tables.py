"""Synthetic tables of runs, of any size."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cooperflow.analysis.communication import SIXTH_COLUMNS
from cooperflow.tables import communication_tables, run_table

PAIRS = Path(__file__).parents[2] / "config" / "pairs"
MODES = {"solo": "solo", "coop-comm": "coop", "coop-nocomm": "coop"}


def pairs(subset: str = "lite") -> list[tuple[str, int, str]]:
    """Return the pairs of a shipped subset as (repo, task, features)."""
    with (PAIRS / f"{subset}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [(r["repo"], int(r["task_id"]), f"{r['feature_a']},{r['feature_b']}") for r in rows]


def experiment(
    chosen: Sequence[tuple[str, int, str]],
    outcomes: Sequence[str],
    model: str = "m",
    setting: str = "solo",
    repeat: int = 1,
    **columns: object,
) -> pd.DataFrame:
    """Return the rows of one experiment with these outcomes."""
    name = f"{model}-{setting}" + ("" if repeat == 1 else f"-r{repeat}")
    frame = pd.DataFrame(
        {
            "run_name": name,
            "model": model,
            "setting": setting,
            "mode": MODES.get(setting, "coop"),
            "repeat": repeat,
            "repo": [pair[0] for pair in chosen],
            "task_id": [pair[1] for pair in chosen],
            "features": [pair[2] for pair in chosen],
            "outcome": list(outcomes),
        }
    )
    plain: dict[str, object] = {
        "reason": "",
        "caveat": "",
        "attempts": 1,
        "feature1_passed": True,
        "feature2_passed": True,
        "merge_status": "",
        "merge_strategy": "",
        "own1_passed": None,
        "own2_passed": None,
        "loss": "",
        "files_both": None,
        "hunks_overlapping": None,
        "hunks_near": None,
        "changed1_lines": None,
        "changed2_lines": None,
        "steps": 10,
        "messages_sent": 0,
        "input_tokens": 1000,
        "output_tokens": 100,
        "cached_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "cost_usd": 0.1,
        "cost_complete": True,
        "cost_bound_usd": 0.1,
        "duration_s": 60.0,
        "model_s": 30.0,
        "waited_s": 0.0,
        "eval_s": 10.0,
        "patch_lines": 20,
        "started": "2026-01-01T00:00:00.000+00:00",
        "ended": "2026-01-01T00:01:00.000+00:00",
        "replay": False,
        "adopted": False,
        "framework": "mini_swe_agent_v2 (cooperbench 0.0.29)",
        "git": False,
        "team_features": "",
        "team_tasks": None,
        "team_tasks_done": None,
        "team_unowned": None,
        "team_first_claim_s": None,
    }
    for column, value in {**plain, **columns}.items():
        frame[column] = value
    return frame[list(run_table.RUN_COLUMNS)]


def communication(runs: pd.DataFrame, seed: int = 7) -> pd.DataFrame:
    """Return plausible measures of messages for the runs other than solo."""
    coop = runs[runs["mode"] != "solo"]
    generator = np.random.default_rng(seed)
    count = len(coop)
    keys = ["run_name", "model", "setting", "repo", "task_id", "features", "outcome"]
    table = coop[[*keys, "replay", "adopted"]].reset_index(drop=True)
    table["messaging"] = table["setting"] != "coop-nocomm"
    table["conflict"] = pd.Series(generator.random(count) < 0.4, dtype=object).where(
        table["outcome"] != "infra_error", None
    )
    table["turns"] = generator.integers(15, 60, count)
    table["messages"] = np.where(table["messaging"], generator.poisson(4, count), 0)
    table["events"] = table["turns"] + table["messages"]
    table["message_share"] = (table["messages"] / table["events"]).round(6)
    remaining = table["messages"].to_numpy()
    for column in SIXTH_COLUMNS:
        table[column] = generator.binomial(remaining, 1 / 4)
        remaining = remaining - table[column].to_numpy()
    for column in ("plans", "questions", "late", "with_files", "with_lines"):
        table[column] = generator.binomial(table["messages"], 0.4)
    table["unanswered"] = generator.binomial(table["questions"], 0.3)
    table["first_message_s"] = 1.5
    table["first_message_plan"] = pd.Series(generator.random(count) < 0.5, dtype=object).where(
        table["messages"] > 0, None
    )
    table["files_touched"] = generator.integers(1, 5, count)
    table["files_announced_touched"] = generator.binomial(table["files_touched"], 0.6)
    table["files_announced"] = table["files_announced_touched"] + generator.integers(0, 2, count)
    return table[list(communication_tables.RUN_COLUMNS)]


def joined(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)


def random(models: int, subset: str = "lite", repeats: int = 1, seed: int = 7) -> pd.DataFrame:
    """Return a plausible experiment: tasks differ, coop is worse, and a few runs break."""
    chosen = pairs(subset)
    generator = np.random.default_rng(seed)
    tasks = {pair[:2]: generator.normal(0, 1.2) for pair in chosen}
    ease = np.array([tasks[pair[:2]] for pair in chosen]) + generator.normal(0, 0.7, len(chosen))
    rate = {"solo": 0.3, "coop-comm": -0.6, "coop-nocomm": -0.9}
    parts = []
    clock = 0.0
    for setting, shift in rate.items():
        for repeat in range(1, repeats + 1):
            for number in range(models):
                logits = ease + shift + 0.3 * number
                passed = generator.random(len(chosen)) < 1 / (1 + np.exp(-logits))
                lost = generator.random(len(chosen)) < 0.03
                outcomes = np.where(lost, "infra_error", np.where(passed, "pass", "fail"))
                seconds = generator.gamma(4, 60, len(chosen))
                begun = np.zeros(len(chosen))
                slots = [clock] * 4
                for i, length in enumerate(seconds):
                    slot = slots.index(min(slots))
                    begun[i] = slots[slot]
                    slots[slot] += length
                clock = max(slots)
                parts.append(
                    experiment(
                        chosen,
                        outcomes.tolist(),
                        f"model{number}",
                        setting,
                        repeat,
                        reason=np.where(lost, "api_timeout", np.where(passed, "", "tests_failed")),
                        steps=generator.integers(5, 60, len(chosen)),
                        messages_sent=generator.poisson(6, len(chosen))
                        if setting == "coop-comm"
                        else 0,
                        cost_usd=(seconds / 2000).round(6),
                        duration_s=seconds.round(3),
                        waited_s=(seconds * 0.05).round(3),
                        patch_lines=generator.integers(0, 400, len(chosen)),
                        started=_moments(begun),
                        ended=_moments(begun + seconds),
                    )
                )
    return joined(*parts)


def _moments(seconds: np.ndarray) -> list[str]:
    day = pd.Timestamp("2026-01-01", tz="UTC")
    return [(day + pd.Timedelta(seconds=s)).isoformat(timespec="milliseconds") for s in seconds]
