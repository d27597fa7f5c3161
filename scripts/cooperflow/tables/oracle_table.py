"""oracle.csv, and the oracle's columns in runs.csv and summary.csv."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from cooperflow import atomic_io
from cooperflow.analysis import losses
from cooperflow.experiment.plan import Plan
from cooperflow.layout import Pair
from cooperflow.outcomes import judgement, oracle
from cooperflow.tables import stats


def repeats(plan: Plan, pair: Pair) -> list[dict[str, Any]]:
    """Return the complete documents of a pair's repetitions, sorted by number."""
    documents = [
        document
        for path in sorted(plan.results.oracle(pair).glob("repeat-*.json"))
        if isinstance(document := atomic_io.read_json(path), dict)
    ]
    return sorted(documents, key=lambda document: int(document["repeat"]))


def rows(plan: Plan, pairs: Sequence[Pair] | None = None) -> list[dict[str, Any]]:
    """Return the oracle's row of every pair, including those not run."""
    return [
        mark_loss(oracle.row(pair, repeats(plan, pair)), repeats(plan, pair))
        for pair in pairs or plan.pairs
    ]


def mark_loss(row: dict[str, Any], documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row with the loss of the merged gold patches, as of a coop run."""
    if not documents:
        return {**row, "loss": ""}
    outcome = judgement.PASS if row["coop_passed"] else judgement.FAIL
    if any(document["probes"][oracle.COOP].get("broke") for document in documents):
        outcome = judgement.INFRA_ERROR
    own = row["own1_passed"], row["own2_passed"]
    return {**row, "loss": losses.loss(outcome, own, str(row["merge_status"]))}


def tabulate(plan: Plan) -> str:
    """Write oracle.csv and return its summary in a line."""
    oracle_rows = table(rows(plan))
    atomic_io.write_text(plan.results.oracle_csv, oracle_rows.to_csv(index=False))
    atomic_io.write_text(plan.results.oracle_note, f"{time.time()}\n")
    return summary(plan)


def summary(plan: Plan) -> str:
    """Return the state and the results of the oracle in a line."""
    pair_rows = rows(plan)
    counts = {state: sum(row["status"] == state for row in pair_rows) for state in oracle.STATES}
    if counts[oracle.NOT_RUN] == len(pair_rows):
        return "not run. `snakemake oracle` evaluates the gold patches: no model, no cost."
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    alone = sum(bool(row["lead_alone"]) for row in pair_rows)
    merged = sum(bool(row["coop_passed"]) for row in pair_rows) - alone
    line = f"{', '.join(parts)} of {len(pair_rows)} pairs; gold patches merge and pass: {merged}"
    return f"{line}; pass by agent 1's patch alone after a conflict: {alone}" if alone else line


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table with its columns in order."""
    return pd.DataFrame(list(rows), columns=list(oracle.COLUMNS))


def mark(runs: pd.DataFrame, probed: pd.DataFrame) -> pd.DataFrame:
    """Return the table of runs with the oracle's state of each run's pair in column `oracle`.

    The state is for the run's mode: solo or merged.
    """
    states = {
        mode: dict(zip(_keys(probed), map(str, probed[column]), strict=True))
        for mode, column in ((oracle.SOLO, "solo_status"), (oracle.COOP, "coop_status"))
    }
    modes = [oracle.SOLO if mode == oracle.SOLO else oracle.COOP for mode in runs["mode"]]
    run_states = [
        states[mode].get(key, oracle.NOT_RUN) for mode, key in zip(modes, _keys(runs), strict=True)
    ]
    return runs.assign(oracle=run_states)


def beside(
    summary: pd.DataFrame, runs: pd.DataFrame, probed: pd.DataFrame, modes: Mapping[str, str]
) -> pd.DataFrame:
    """Return the summary with its figures over trusted pairs only, and the gold patches' ceiling.

    Args:
        runs: with column `oracle`.
        probed: the rows of all pairs, including those not run.
        modes: upstream's mode of each experiment, by its run name.
    """
    evaluated = probed[probed["repeats"] > 0]
    gold = {
        mode: dict(zip(_keys(evaluated), map(bool, evaluated[column]), strict=True))
        for mode, column in ((oracle.SOLO, "solo_passed"), (oracle.COOP, "coop_passed"))
    }
    rows = []
    for _, experiment in summary.iterrows():
        group = runs[runs["run_name"] == experiment["run_name"]]
        trusted = group[group["oracle"] == oracle.OK]
        passed = int((trusted["outcome"] == judgement.PASS).sum())
        graded = passed + int((trusted["outcome"] == judgement.FAIL).sum())
        low, high = stats.wilson(passed, graded)
        mode = oracle.SOLO if modes[str(experiment["run_name"])] == oracle.SOLO else oracle.COOP
        reached = [gold[mode][key] for key in _keys(group) if key in gold[mode]]
        counts = {state: int((group["oracle"] == state).sum()) for state in oracle.STATES}
        rows.append(
            {
                "oracle_ok": counts[oracle.OK],
                "oracle_failed": counts[oracle.FAILED],
                "oracle_flaky": counts[oracle.FLAKY],
                "oracle_not_run": counts[oracle.NOT_RUN],
                "pass_oracle_ok": passed,
                "pass_rate_oracle_ok": stats.rate(passed, graded),
                "ci_low_oracle_ok": low,
                "ci_high_oracle_ok": high,
                "gold_ceiling": stats.rate(sum(reached), len(reached)) if reached else math.nan,
            }
        )
    extra = pd.DataFrame(rows, index=summary.index)
    return pd.concat([summary, extra], axis=1)


def _keys(table: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Return the pair of each row, computed by columns: by rows, 20,000 would take seconds."""
    columns = (table["repo"].map(str), table["task_id"].map(int), table["features"].map(str))
    return list(zip(*columns, strict=True))
