"""CooperBench's public record as adopted experiments: outcomes only, compared pair by pair."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import synthetic

from cooperflow import atomic_io, layout
from cooperflow.analysis import losses
from cooperflow.archive import adoption
from cooperflow.errors import UserError
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.experiment.plan import Plan
from cooperflow.report import build
from cooperflow.tables import comparison, run_table
from cooperflow.upstream import published


def entry(plan: Plan, number: int, **results: dict[str, Any]) -> dict[str, Any]:
    """Return a task of a record in the website's format."""
    pair = plan.pairs[number]
    a, b = (f"feature{feature}" for feature in pair.sorted_features)
    return {"repo": pair.repo, "taskId": f"task{pair.task_id}", "features": f"{a}_{b}",
            "f1": a, "f2": b, "results": results}  # fmt: skip


def outcome(passed: bool, conflict: bool) -> dict[str, bool]:
    return {"passed": passed, "hasConflict": conflict}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A finished experiment, and the plan that adopts three pairs of a published model with it."""
    own = synthetic.make_plan(tmp_path / "results", "flash", first=10)
    record = {
        "models": ["ours", "theirs"],
        "tasks": [
            entry(own, 0, ours=outcome(True, False), theirs=outcome(False, False)),
            entry(own, 1, ours=outcome(True, True)),
            entry(own, 2, ours=outcome(False, True), theirs=outcome(True, False)),
        ],
    }
    (tmp_path / "index.json.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    raw = own.config.model_dump(mode="json")
    source = f"{tmp_path}/index.json.gz#ours"
    raw["models"]["published"] = {"model": "published", "adopt": {"coop-comm": source}}
    plan = planning.make(config.parse(raw))
    synthetic.finish(own)
    return plan


def test_outcomes_become_runs_in_the_same_tables(plan: Plan) -> None:
    summary = adoption.adopt(plan)
    assert "published-coop-comm: 3 runs" in summary
    assert "7 pairs missing" in summary
    adopted_plan = planning.make(plan.config)
    run_table.make(adopted_plan)
    with adopted_plan.results.runs_csv.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["model"] == "published"]
    assert [(r["outcome"], r["reason"], r["merge_status"]) for r in rows] == [
        ("pass", "", "clean"),
        ("pass", "", "conflicts"),
        ("fail", "merge_conflict", "conflicts"),
    ]
    for row in rows:
        assert (row["adopted"], row["caveat"]) == ("True", "public_record")
        assert (row["cost_complete"], row["cost_bound_usd"]) == ("False", "")
        assert (row["feature1_passed"], row["started"]) == ("", "")
    comparisons = comparison.table(run_table.read_runs(adopted_plan.results.runs_csv)).to_dict(
        "records"
    )
    (row,) = [r for r in comparisons if "published-coop-comm" in (r["a"], r["b"])]
    assert row["compared"] == "models"
    assert row["pairs"] + row["infra_excluded"] == 3
    assert row["adopted"]
    assert "0 runs" in adoption.adopt(plan)  # and not a second time


def test_the_report_lists_adopted_outcomes(plan: Plan) -> None:
    adoption.adopt(plan)
    adopted_plan = planning.make(plan.config)
    run_table.make(adopted_plan)
    build.build(adopted_plan)
    assert "published-coop-comm" in (adopted_plan.results.report / "index.html").read_text()


SAMPLE = layout.REPOSITORY / "tests" / "support" / "public_record.json"


def test_a_model_is_compared_pair_by_pair_with_the_models_of_the_sample(
    make_plan: Any, tmp_path: Path
) -> None:
    """Two models of the bundled sample on the demo's pairs: the statistics are of the pairs."""
    models = {
        name: {"model": name, "adopt": {"coop-nocomm": f"{SAMPLE}#{name}"}}
        for name in ("strong", "weak")
    }
    settings = {"coop-nocomm": ["--setting", "coop", "--no-messaging"]}
    summary = adoption.adopt(make_plan(models=models, settings=settings))
    assert "strong-coop-nocomm: 4 runs imported" in summary
    assert "weak-coop-nocomm: 3 runs imported" in summary
    plan = make_plan(models=models, settings=settings)
    # The record has no patches, so nothing is known of each agent's own feature.
    for run in plan.runs:
        own = {name: losses.OwnFeature(1, False, losses.NO_PATCH) for name in losses.AGENTS}
        atomic_io.write_json(run.folder(plan.results).own, losses.make_document({}, own))
    run_table.make(plan)
    with plan.results.runs_csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(r["own1_passed"], r["own2_passed"]) for r in rows} == {("", "")}
    assert {r["loss"] for r in rows if r["outcome"] == "fail"} == {losses.UNKNOWN}
    (row,) = comparison.table(run_table.read_runs(plan.results.runs_csv)).to_dict("records")
    assert (row["a"], row["b"]) == ("strong-coop-nocomm", "weak-coop-nocomm")
    # Of the three pairs that both have: both pass one, the strong model alone two.
    assert row["pairs"] == 3
    assert (row["both"], row["only_a"], row["only_b"], row["neither"]) == (1, 2, 0, 0)
    assert row["p"] == 0.5  # McNemar, exact: both discordant pairs are of one side


def test_a_mapping_of_pairs_is_also_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    names = ["go_chi_task_task26_feature1_feature2", "go_chi_task/26/f4_f2"]
    path.write_text(json.dumps({name: {"m": {"passed": True}} for name in names}))
    outcomes = published.read_record(path, "m")
    assert set(outcomes) == {("go_chi_task", 26, (1, 2)), ("go_chi_task", 26, (2, 4))}
    assert outcomes["go_chi_task", 26, (1, 2)] == published.Outcome(True, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "Expecting value"),
        ("3", "no `tasks`"),
        ('{"tasks": []}', "no task with results"),
        ('{"tasks": [{"repo": "x", "results": {}}]}', "is not a pair"),
        ('{"go_chi_task/26/f1_f2": {"m": {"passed": 1}}}', "`passed` is not true or false"),
        ('{"go_chi_task/26/f1_f2": {"a": {"passed": true}}}', "no model 'm'; it has a"),
    ],
)
def test_an_invalid_record_is_refused(text: str, words: str, plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    raw = plan.config.model_dump(mode="json")
    raw["models"]["published"]["adopt"] = {"coop-comm": f"{path}#m"}
    with pytest.raises(UserError, match=words):
        adoption.adopt(planning.make(config.parse(raw)))
    raw["models"]["published"]["adopt"] = {"coop-comm": f"{tmp_path}/none.json#m"}
    with pytest.raises(UserError, match="No such file"):
        adoption.adopt(planning.make(config.parse(raw)))
