"""Runs that plain cooperbench made, in our tables; and our results, read by upstream's tools."""

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
from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Plan
from cooperflow.upstream import releases

# Handmade documents: those that are read, and those that must be refused.


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[Path, Callable[..., Plan]]:
    """A folder with one run of plain cooperbench, and what makes a plan that adopts it."""
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
        return plan.make(config.parse(raw))

    return folder, make


Theirs = tuple[Path, Callable[..., Plan]]


def result(made: Plan) -> dict[str, Any]:
    (run,) = made.runs
    document: dict[str, Any] = json.loads(run.folder(made.results).result.read_text())
    return document


def test_only_named_settings_and_pairs_that_are_there(theirs: Theirs) -> None:
    _, make = theirs
    made = make()
    assert [one.run_name for one in made.experiments] == ["a-coop-comm"]
    assert made.runs == ()
    assert "1 runs imported, 0 with their evaluation; 0 imported before; 1 pairs missing" in (
        adoption.adopt(made)
    )
    taken = result(make())["workflow"]
    assert taken["outcome"] is None
    assert taken["adopted"] is True
    assert (taken["steps"], taken["cost_usd"], taken["cost_complete"]) == (14, 0.2, False)
    assert taken["ended"] - taken["started"] == 300.0
    assert taken["upstream_version"] == "before 0.0.22"
    assert taken["caveats"] == ["history_leaked"]
    known = json.loads(made.results.experiment("a-coop-comm").read_text())["adopted"]
    assert known["upstream_version"] == "before 0.0.22"


def test_the_summary_names_the_features_that_the_release_could_not_evaluate(
    theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, make = theirs
    broken = {(INVENTORY, 1): (frozenset({2, 7}), "no test is selected")}
    monkeypatch.setattr(releases, "NOT_EVALUABLE_FEATURES", broken)
    summary = adoption.adopt(make())
    assert "caveat history_leaked: 1 runs were made before 0.0.23" in summary
    assert f"made before 0.0.29, which could not evaluate the features {INVENTORY}/1 2" in summary
    taken = result(make())["workflow"]
    assert taken["not_evaluable"] == [2]
    assert taken["caveats"] == ["history_leaked", "not_evaluable"]


def test_a_grading_that_broke_is_not_taken_over(theirs: Theirs) -> None:
    folder, make = theirs
    (folder / "eval.json").write_text(json.dumps({"both_passed": False, "error": "no image"}))
    assert "1 runs imported, 0 with their evaluation" in adoption.adopt(make())


def test_an_errors_grading_is_not_believed(theirs: Theirs) -> None:
    folder, make = theirs
    (folder / "eval.json").write_text(json.dumps({"both_passed": False, "error": None}))
    end = {"status": "Error", "steps": 0, "error": "the model does not answer"}
    made = make(agents={"agent1": end, "agent2": {**end, "status": "Submitted"}})
    assert "1 with their evaluation" in adoption.adopt(made)
    (run,) = make().runs
    graded = json.loads(run.folder(made.results).eval.read_text())["workflow"]
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
def test_what_is_not_upstreams_is_left(theirs: Theirs, changes: Any, words: str) -> None:
    folder, make = theirs
    (folder / "agent1_traj.json").write_text('{"messages": 3}')
    made = make(**changes)
    said = adoption.adopt(made)
    assert f"result.json is not upstream's: {words}" in said
    assert not list(made.results.root.rglob("*.patch"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "other"}, "model is 'other' there, 'm' in the config"),
        ({"agent_framework": "codex"}, "agent_framework is 'codex' there"),
        ({"setting": "team"}, "setting is 'team' there"),
    ],
)
def test_another_experiment_is_refused(theirs: Theirs, changes: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        adoption.adopt(theirs[1](**changes))


@pytest.mark.parametrize("broken", ["half", "another pair", "no time", "no patch"])
def test_what_cannot_be_read_is_left_out_and_named(theirs: Theirs, broken: str) -> None:
    folder, make = theirs
    made = make(
        **{"another pair": {"features": [1, 3]}, "no time": {"ended_at": None}}.get(broken, {})
    )
    if broken == "half":
        (folder / "result.json").write_text('{"repo": "demo')
    if broken == "no patch":
        (folder / "agent1.patch").unlink()
    said = adoption.adopt(made)
    assert "0 runs imported" in said
    assert f"left out: {folder}" in said
    assert not list(made.results.runs.rglob("result.json"))


def test_several_folders_of_a_setting_are_repeats(theirs: Theirs, tmp_path: Path) -> None:
    raw = theirs[1]().config.model_dump()
    first = tmp_path / "plain"
    second = tmp_path / "again"
    shutil.copytree(first, second)
    raw["models"]["a"]["adopt"] = {"coop-comm": [str(first), str(second)]}
    raw["repeats"] = 1
    made = plan.make(config.parse(raw))
    names = [one.run_name for one in made.experiments]
    assert names == ["a-coop-comm", "a-coop-comm-r2"]
    said = adoption.adopt(made)
    assert said.count("1 runs imported") == 2
    assert [run.experiment.repeat for run in plan.make(config.parse(raw)).runs] == [1, 2]
    for name, source in zip(names, (first, second), strict=True):
        told = json.loads(made.results.experiment(name).read_text())
        assert told["adopted"]["from"] == str(source)


@pytest.mark.parametrize(("folders", "words"), [([], "names no folder"), (["x", "x"], "twice")])
def test_folders_of_repeats_are_checked(theirs: Theirs, folders: list[str], words: str) -> None:
    raw = theirs[1]().config.model_dump()
    raw["models"]["a"]["adopt"] = {"coop-comm": folders}
    with pytest.raises(UserError, match=words):
        plan.make(config.parse(raw))


def test_tokens_of_claude_code_include_the_cached_ones(theirs: Theirs) -> None:
    _, make = theirs
    end = {"status": "Submitted", "steps": 7, "input_tokens": 20, "output_tokens": 5}
    end |= {"cache_read_tokens": 4000, "cache_write_tokens": 100, "error": None}
    made = make(
        agents={"agent1": end, "agent2": end}, agent_framework="claude_code", messages_sent=0
    )
    raw = made.config.model_dump()
    raw["agent"]["name"] = "claude_code"
    made = plan.make(config.parse(raw))
    adoption.adopt(made)
    told = result(plan.make(config.parse(raw)))["workflow"]
    assert (told["input_tokens"], told["cached_tokens"]) == (2 * 4120, 8000)
