"""Adoption of runs that plain cooperbench made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment_client import INVENTORY

from cooperflow.archive import adoption
from cooperflow.errors import UserError
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.experiment.plan import Plan
from cooperflow.upstream import releases

# Handwritten documents, valid and invalid.


@pytest.fixture
def upstream_run(tmp_path: Path) -> tuple[Path, Callable[..., Plan]]:
    """A folder with one run of plain cooperbench, and a function that makes a plan to adopt it."""
    source = tmp_path / "plain"
    folder = source / "coop" / INVENTORY / "1" / "f1_f2"
    folder.mkdir(parents=True)
    end = {"status": "Submitted", "steps": 7, "cost": 0.1, "input_tokens": 0, "error": None}
    document = {
        "repo": INVENTORY,
        "task_id": 1,
        "features": [1, 2],
        "setting": "coop",
        "agent_framework": "mini_swe_agent_v2",
        "model": "m",
        "started_at": "2026-01-01T10:00:00.5",
        "ended_at": "2026-01-01T10:05:00.5",
        "duration_seconds": 300.0,
        "agents": {"agent1": {"feature_id": 1, **end}, "agent2": {"feature_id": 2, **end}},
        "total_cost": 0.2,
        "messages_sent": 3,
    }
    (folder / "result.json").write_text(json.dumps(document))
    for number in (1, 2):
        (folder / f"agent{number}.patch").write_text("diff --git a/x b/x\n")

    def make(**changes: Any) -> Plan:
        written = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**written, **changes}))
        raw = {
            "results": str(tmp_path / "results"),
            "dataset": {"dir": "demo/dataset", "subset": str(tmp_path / "pairs.csv")},
            "models": {"a": {"model": "m", "adopt": {"coop-comm": str(source)}}},
            "settings": {
                "coop-comm": ["--setting", "coop"],
                "coop-nocomm": ["--setting", "coop", "--no-messaging"],
            },
            "repeats": 2,
        }
        (tmp_path / "pairs.csv").write_text(
            f"repo,task_id,feature_a,feature_b\n{INVENTORY},1,1,2\n{INVENTORY},1,2,3\n"
        )
        return planning.make(config.parse(raw))

    return folder, make


Theirs = tuple[Path, Callable[..., Plan]]


def result(plan: Plan) -> dict[str, Any]:
    (run,) = plan.runs
    document: dict[str, Any] = json.loads(run.folder(plan.results).result.read_text())
    return document


def test_only_configured_settings_and_existing_pairs_are_adopted(upstream_run: Theirs) -> None:
    _, make = upstream_run
    plan = make()
    assert [experiment.run_name for experiment in plan.experiments] == ["a-coop-comm"]
    assert plan.runs == ()
    assert "1 runs imported, 0 with their evaluation; 0 imported before; 1 pairs missing" in (
        adoption.adopt(plan)
    )
    workflow = result(make())["workflow"]
    assert workflow["outcome"] is None
    assert workflow["adopted"] is True
    assert (workflow["steps"], workflow["cost_usd"], workflow["cost_complete"]) == (14, 0.2, False)
    assert workflow["ended"] - workflow["started"] == 300.0
    assert workflow["upstream_version"] == "before 0.0.22"
    assert workflow["caveats"] == ["history_leaked"]
    record = json.loads(plan.results.experiment("a-coop-comm").read_text())["adopted"]
    assert record["upstream_version"] == "before 0.0.22"


def test_the_summary_names_the_features_that_the_release_could_not_evaluate(
    upstream_run: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, make = upstream_run
    broken = {f"{INVENTORY}/1": (frozenset({2, 7}), "no test is selected")}
    monkeypatch.setattr(releases, "not_evaluable_features", lambda: broken)
    summary = adoption.adopt(make())
    assert "caveat history_leaked: 1 runs were made before 0.0.23" in summary
    assert f"made before 0.0.29, which could not evaluate the features {INVENTORY}/1 2" in summary
    workflow = result(make())["workflow"]
    assert workflow["not_evaluable"] == [2]
    assert workflow["caveats"] == ["history_leaked", "not_evaluable"]


def test_a_broken_evaluation_is_not_adopted(upstream_run: Theirs) -> None:
    folder, make = upstream_run
    (folder / "eval.json").write_text(json.dumps({"both_passed": False, "error": "no image"}))
    assert "1 runs imported, 0 with their evaluation" in adoption.adopt(make())


def test_a_run_with_an_agent_error_is_an_infra_error(upstream_run: Theirs) -> None:
    folder, make = upstream_run
    (folder / "eval.json").write_text(json.dumps({"both_passed": False, "error": None}))
    end = {"status": "Error", "steps": 0, "error": "the model does not answer"}
    plan = make(agents={"agent1": end, "agent2": {**end, "status": "Submitted"}})
    assert "1 with their evaluation" in adoption.adopt(plan)
    (run,) = make().runs
    graded = json.loads(run.folder(plan.results).eval.read_text())["workflow"]
    assert (graded["outcome"], graded["reason"]) == ("infra_error", "agent_error")
    assert graded["caveat"] == "history_leaked"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agents": "x"}, "agents: "),
        ({"agents": {"agent1": {"steps": "many"}}}, "agents.agent1.steps: "),
        ({"duration_seconds": "abc"}, "duration_seconds: "),
    ],
)
def test_invalid_upstream_documents_are_skipped(
    upstream_run: Theirs, changes: Any, words: str
) -> None:
    folder, make = upstream_run
    (folder / "agent1_traj.json").write_text('{"messages": 3}')
    plan = make(**changes)
    summary = adoption.adopt(plan)
    assert f"result.json is not upstream's: {words}" in summary
    assert not list(plan.results.root.rglob("*.patch"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "other"}, "model is 'other' there, 'm' in the config"),
        ({"agent_framework": "codex"}, "agent_framework is 'codex' there"),
        ({"setting": "team"}, "setting is 'team' there"),
    ],
)
def test_another_experiment_is_refused(upstream_run: Theirs, changes: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        adoption.adopt(upstream_run[1](**changes))


@pytest.mark.parametrize("broken", ["half", "another pair", "no time", "no patch"])
def test_unreadable_runs_are_skipped_and_named(upstream_run: Theirs, broken: str) -> None:
    folder, make = upstream_run
    plan = make(
        **{"another pair": {"features": [1, 3]}, "no time": {"ended_at": None}}.get(broken, {})
    )
    if broken == "half":
        (folder / "result.json").write_text('{"repo": "demo')
    if broken == "no patch":
        (folder / "agent1.patch").unlink()
    summary = adoption.adopt(plan)
    assert "0 runs imported" in summary
    assert f"left out: {folder}" in summary
    assert not list(plan.results.runs.rglob("result.json"))


def test_several_folders_of_a_setting_are_repeats(upstream_run: Theirs, tmp_path: Path) -> None:
    raw = upstream_run[1]().config.model_dump()
    first = tmp_path / "plain"
    second = tmp_path / "again"
    shutil.copytree(first, second)
    raw["models"]["a"]["adopt"] = {"coop-comm": [str(first), str(second)]}
    raw["repeats"] = 1
    plan = planning.make(config.parse(raw))
    names = [experiment.run_name for experiment in plan.experiments]
    assert names == ["a-coop-comm", "a-coop-comm-r2"]
    summary = adoption.adopt(plan)
    assert summary.count("1 runs imported") == 2
    assert [run.experiment.repeat for run in planning.make(config.parse(raw)).runs] == [1, 2]
    for name, source in zip(names, (first, second), strict=True):
        document = json.loads(plan.results.experiment(name).read_text())
        assert document["adopted"]["from"] == str(source)


@pytest.mark.parametrize(("folders", "words"), [([], "names no folder"), (["x", "x"], "twice")])
def test_folders_of_repeats_are_checked(
    upstream_run: Theirs, folders: list[str], words: str
) -> None:
    raw = upstream_run[1]().config.model_dump()
    raw["models"]["a"]["adopt"] = {"coop-comm": folders}
    with pytest.raises(UserError, match=words):
        planning.make(config.parse(raw))


def test_tokens_of_claude_code_include_the_cached_ones(upstream_run: Theirs) -> None:
    _, make = upstream_run
    end = {"status": "Submitted", "steps": 7, "input_tokens": 20, "output_tokens": 5}
    end |= {"cache_read_tokens": 4000, "cache_write_tokens": 100, "error": None}
    plan = make(
        agents={"agent1": end, "agent2": end}, agent_framework="claude_code", messages_sent=0
    )
    raw = plan.config.model_dump()
    raw["agent"]["name"] = "claude_code"
    plan = planning.make(config.parse(raw))
    adoption.adopt(plan)
    workflow = result(planning.make(config.parse(raw)))["workflow"]
    assert (workflow["input_tokens"], workflow["cached_tokens"]) == (2 * 4120, 8000)
