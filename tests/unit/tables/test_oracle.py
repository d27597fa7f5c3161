"""The oracle: gold patches through the evaluation, broken gold patches, and flaky tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cooperflow.errors import UserError
from cooperflow.jobs import evaluation_jobs
from cooperflow.jobs.evaluation_jobs import Repetition
from cooperflow.jobs.job import TRY_AGAIN, Try
from cooperflow.layout import Pair
from cooperflow.tables import oracle
from cooperflow.tables.oracle import Probe

PAIR = Pair("demo_textkit_task", 2, (1, 2))


def _probe(passed: tuple[bool, bool] = (True, True), **keys: Any) -> Probe:
    defaults: dict[str, Any] = {
        "tests_passed": (3, 4),
        "merge_status": "",
        "merge_strategy": "",
        "applied": True,
        "seconds": 2.0,
    }
    return Probe(passed=passed, **{**defaults, **keys})


GOOD = {
    "solo": [_probe()],
    "coop": [_probe(merge_status="clean", merge_strategy="naive")],
    "control": [_probe((False, False))],
}


@pytest.mark.parametrize(
    ("changed", "status", "reason"),
    [
        ({}, "ok", ""),
        (
            {"coop": [_probe((False, False), merge_status="conflicts")]},
            "ok",
            "gold_conflict",
        ),
        ({"coop": [_probe((True, False), merge_status="clean")]}, "failed", "coop_gold_failed"),
        (
            {"coop": [_probe((False, False), merge_status="missing_input")]},
            "failed",
            "coop_gold_not_applied",
        ),
        ({"solo": [_probe((False, True))]}, "failed", "solo_gold_failed"),
        ({"solo": [_probe((False, False), applied=False)]}, "failed", "solo_gold_not_applied"),
        ({"solo": [_probe(tests_passed=(0, 3))]}, "failed", "no_tests_run: feature 4"),
        ({"control": [_probe((False, True))]}, "failed", "control_passed: feature 7"),
        # If no test runs, the control passes as well; both are named.
        (
            {"solo": [_probe(tests_passed=(0, 3))], "control": [_probe((True, False))]},
            "failed",
            "no_tests_run: feature 4; control_passed: feature 4",
        ),
        (
            {"solo": [_probe((True, False), built=(True, False))]},
            "failed",
            "solo_build_failed: feature 7",
        ),
        (
            {"solo": [_probe((True, False), tests_run=(3, 0))]},
            "failed",
            "solo_gold_failed; no_tests_run: feature 7",
        ),
        ({"solo": [_probe(), _probe((True, False))]}, "flaky", "solo"),
        (
            {"solo": [_probe((False, False), broke="no daemon\nat all")]},
            "failed",
            "grading_broke: no daemon",
        ),
    ],
)
def test_state_of_a_pair_from_its_probes(changed: Any, status: str, reason: str) -> None:
    assert oracle.judge({**GOOD, **changed}, (4, 7)) == (status, reason)


def _document(probes: Any, number: int = 1) -> dict[str, Any]:
    return {
        "repeat": number,
        "solo_patch": "combined",
        "probes": {name: several[0].as_dict() for name, several in probes.items()},
    }


def test_repeats_of_a_pair_show_flaky_tests() -> None:
    single = oracle.row(PAIR, [_document(GOOD)])
    assert single["flaky"] is None
    assert single["tests_run"] == 7
    bad = {**GOOD, "solo": [_probe((True, False))]}
    flaky = oracle.row(PAIR, [_document(GOOD), _document(bad, 2)])
    assert (flaky["status"], flaky["flaky"], flaky["solo_passed"]) == ("flaky", True, False)
    assert oracle.row(PAIR, [])["status"] == "not run"
    # A probe is read as it was written.
    assert json.loads(json.dumps(GOOD["coop"][0].as_dict()))["merge_status"] == "clean"


def test_pairs_that_fail_stay_in_the_tables_marked() -> None:
    rows = [
        {
            "run_name": name,
            "mode": name.removeprefix("m-"),
            "repo": "a_task",
            "task_id": 1,
            "features": features,
            "outcome": outcome,
        }
        for name, features, outcome in (
            ("m-solo", "1,2", "pass"),
            ("m-solo", "1,3", "fail"),
            ("m-coop", "1,2", "pass"),
            ("m-coop", "1,3", "fail"),
        )
    ]
    probed = oracle.oracle_table(
        [
            oracle.row(Pair("a_task", 1, (1, 2)), [_document(GOOD)]),
            oracle.row(
                Pair("a_task", 1, (1, 3)),
                [_document({**GOOD, "coop": [_probe((False, True), merge_status="clean")]})],
            ),
        ]
    )
    runs = oracle.add_states(pd.DataFrame(rows), probed)
    # Gold patches that merge but break each other take nothing from the solo runs.
    assert list(runs["oracle"]) == ["ok", "ok", "ok", "failed"]
    summary = pd.DataFrame({"run_name": ["m-solo", "m-coop"], "pass_rate": [0.5, 0.5]})
    result = oracle.add_oracle_columns(summary, runs, probed, {"m-solo": "solo", "m-coop": "coop"})
    assert list(result["pass_rate"]) == [0.5, 0.5]
    assert list(result["pass_rate_oracle_ok"]) == [0.5, 1.0]
    assert list(result["oracle_failed"]) == [0, 1]
    assert list(result["gold_ceiling"]) == [1.0, 0.5]
    unprobed = oracle.add_states(pd.DataFrame(rows), oracle.oracle_table([]))
    assert set(unprobed["oracle"]) == {"not run"}


def test_a_row_names_the_features_and_the_patch_that_passed() -> None:
    pair = Pair("a_task", 1, (7, 4))
    alone = _probe((True, True), merge_status="conflicts", merge_strategy="solo-agent1")
    control = _probe((False, True))
    row = oracle.row(pair, [_document({**GOOD, "coop": [alone], "control": [control]})])
    assert (row["coop_passed"], row["lead_alone"]) == (True, True)
    assert (row["control_failed"], row["control_passed"]) == (False, "7")
    assert (row["feature1_tests"], row["feature2_tests"]) == (3, 4)


def test_documents_of_older_versions_are_read() -> None:
    old = {
        key: value for key, value in _probe().as_dict().items() if key not in ("built", "tests_run")
    }
    probe = Probe.parse(json.loads(json.dumps(old)))
    assert (probe.passed, probe.built, probe.tests_run) == ((True, True), (True, True), None)


def test_a_lead_alone_pass_is_not_a_merge(make_plan: Any) -> None:
    plan = make_plan([(PAIR.repo, 2, [[1, 2]])])
    alone = _probe(merge_status="conflicts", merge_strategy="solo-agent1")
    path = plan.results.oracle_repeat(PAIR, 1)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(_document({**GOOD, "coop": [alone]})))
    line = oracle.summary(plan)
    assert "merge and pass: 0;" in line
    assert "patch alone after a conflict: 1" in line


def test_an_image_other_than_the_verified_one_is_not_evaluated(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan([(PAIR.repo, 2, [[1, 2]])])

    def refuse(_plan: Any, image: str) -> str:
        raise UserError(f"{image}: is sha256:2 here, but sha256:1 was verified.")

    monkeypatch.setattr(evaluation_jobs.verification, "ensure_verified", refuse)
    repetition = Repetition(PAIR, 1)
    assert evaluation_jobs.OracleJob(plan, repetition, Try(1, last=False)).perform() == TRY_AGAIN
    assert evaluation_jobs.OracleJob(plan, repetition, Try(3, last=True)).perform() == 0
    (row,) = oracle.rows(plan)
    assert row["status"] == "failed"
    assert "sha256:2 here, but sha256:1 was verified" in row["reason"]


def test_gold_patches_are_the_data_sets_own(dataset: Path) -> None:
    patches, kind = evaluation_jobs.gold_patches(dataset, PAIR)
    task = dataset / PAIR.repo / "task2"
    assert kind == "combined"
    assert patches["solo"]["solo.patch"] == (task / "combined.patch").read_bytes()
    assert set(patches["coop"]) == {"agent1.patch", "agent2.patch"}
    (task / "combined.patch").unlink()
    patches, kind = evaluation_jobs.gold_patches(dataset, PAIR)
    assert kind == "stacked"
    assert patches["solo"]["solo.patch"].count(b"diff --git") >= 2
