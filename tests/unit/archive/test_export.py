"""Results in the formats of other tools: complete, without keys and paths, labelled as replay."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import exported_results
import pytest
import synthetic_tables
from exported_results import KEY

from commands import bundle
from cooperflow import layout
from cooperflow.analysis.history import Command, Event, History
from cooperflow.archive import export, provenance, run_formats
from cooperflow.experiment.plan import Plan
from cooperflow.tables import run_table
from cooperflow.upstream import published

AGENT_ONLY = {"model_name", "reasoning_content", "tool_calls", "metrics"}
STEP_FIELDS = {
    "step_id",
    "timestamp",
    "source",
    "message",
    "observation",
    "llm_call_count",
    "extra",
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return exported_results.finished_plan(tmp_path_factory.mktemp("export") / "results")


@pytest.fixture(scope="module")
def exported(plan: Plan) -> Path:
    return exported_results.export_of(plan)


def documents(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.json"))
    }


def test_contents_list_every_file_without_keys_and_paths(plan: Plan, exported: Path) -> None:
    contents = json.loads(plan.results.export_contents.read_text())
    files = {str(p.relative_to(exported)): p for p in exported.rglob("*") if p.is_file()}
    files.pop(layout.EXPORT_CONTENTS)
    assert set(contents["files"]) == set(files)
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        assert KEY not in text, name
        assert str(plan.results.root) not in text, name
        assert contents["files"][name] == provenance.file_hash(path)
    assert "[key]" in "".join(p.read_text() for p in files.values())


def test_each_agent_has_a_trajectory(plan: Plan, exported: Path) -> None:
    runs = run_table.read_runs(plan.results.runs_csv)
    trajectories = documents(exported / "atif")
    agents = runs["mode"].map({"solo": 1, "coop": 2}).sum()
    # A run that met an infrastructure error has the log of its calls.
    assert len(trajectories) == agents
    for name, document in trajectories.items():
        check_atif(document)
        run = f"{document['extra']['run_name']}/{document['extra']['repo']}"
        assert name.startswith(run)
        assert document["trajectory_id"].startswith(document["session_id"])
    evaluated = [d for d in trajectories.values() if d["extra"]["outcome"] != "infra_error"]
    assert all(d["final_metrics"]["total_prompt_tokens"] == 2000 for d in evaluated)


def check_atif(document: dict[str, Any]) -> None:
    """Check the required fields of the RFC; harbor's own models are in another test."""
    assert document["schema_version"] == "ATIF-v1.7"
    assert {"name", "version"} <= set(document["agent"])
    assert [step["step_id"] for step in document["steps"]] == list(
        range(1, len(document["steps"]) + 1)
    )
    assert document["steps"]
    for step in document["steps"]:
        assert step["source"] in ("system", "user", "agent")
        assert isinstance(step["message"], str)
        allowed = STEP_FIELDS | (AGENT_ONLY if step["source"] == "agent" else set())
        assert set(step) <= allowed
        calls = {call["tool_call_id"] for call in step.get("tool_calls", [])}
        results = step.get("observation", {}).get("results", [])
        assert {result["source_call_id"] for result in results} <= calls


STORY = History(
    ("agent1",),
    (
        Event("agent1", 100.0, "received", text="[Message from agent2]: hi"),
        Event("agent1", 101.0, "step", 1, "I look.", (
            Command("ls", "a.py\n", 0), Command('{"path": "a.py"}', None, is_shell=False),
        ), input_tokens=10, output_tokens=2, cost=0.1, thought="Where?"),
        Event("agent1", 101.0, "message", text="hello", to="agent2"),
        Event("agent1", 102.0, "error", text="rate_limited: 429"),
        Event("agent1", 103.0, "summary", text="## FILES", input_tokens=5, cost=0.05),
        Event("agent2", 103.0, "step", 1, "Not mine."),
    ),
    {"agent1": "Do it."},
)  # fmt: skip


def test_a_trajectory_by_hand() -> None:
    about = {"name": "mini", "version": "1", "model_name": run_formats.model_name("m", True)}
    document = run_formats.atif_trajectory(STORY, "agent1", "run/x", about, {"replay": True})
    assert document is not None
    check_atif(document)
    assert [step["source"] for step in document["steps"]] == [
        "user", "user", "agent", "system", "agent",
    ]  # fmt: skip
    turn = document["steps"][2]
    assert turn["timestamp"] == "1970-01-01T00:01:41.000+00:00"
    assert turn["reasoning_content"] == "Where?"
    assert [(c["function_name"], c["arguments"]) for c in turn["tool_calls"]] == [
        ("bash", {"command": "ls"}),
        ("tool", {"arguments": '{"path": "a.py"}'}),
    ]
    assert turn["observation"]["results"] == [
        {"source_call_id": "agent1-1-1", "content": "a.py\n", "extra": {"exit_code": 0}}
    ]
    assert document["final_metrics"] == {
        "total_prompt_tokens": 15,
        "total_completion_tokens": 2,
        "total_cost_usd": 0.15,
        "total_steps": 5,
    }
    assert document["notes"].startswith("Replay")
    assert document["agent"]["model_name"] == "m (replay)"
    assert run_formats.atif_trajectory(History(), "agent1", "run/x", about, {}) is None


def test_an_inspect_log_agrees_with_the_tables(plan: Plan, exported: Path) -> None:
    runs = run_table.read_runs(plan.results.runs_csv)
    summary = run_table.read_table(plan.results.summary_csv).set_index("run_name")
    for name, document in documents(exported / "inspect").items():
        row = summary.loc[name.removesuffix(".json")]
        samples = document["samples"]
        scores = [s["scores"]["cooperbench"]["value"] for s in samples if "scores" in s]
        assert scores.count("C") == row["pass"]
        assert scores.count("I") == row["fail"]
        assert len([s for s in samples if "error" in s]) == row["infra_error"]
        (score,) = document["results"]["scores"]
        assert score["metrics"]["accuracy"]["value"] == row["pass_rate"]
        of_run = runs[runs["run_name"] == name.removesuffix(".json")]
        (usage,) = document["stats"]["model_usage"].values()
        assert usage["total_cost"] == pytest.approx(of_run["cost_usd"].sum())


def test_the_website_format_is_read_back(plan: Plan, exported: Path) -> None:
    runs = run_table.read_runs(plan.results.runs_csv)
    for setting in ("solo", "coop-comm", "coop-nocomm"):
        path = exported / "website" / setting / "index.json"
        evaluated = runs[(runs["setting"] == setting) & (runs["outcome"] != "infra_error")]
        back = published.read_record(path, "command-a")
        assert len(back) == len(evaluated)
        for row in evaluated.to_dict("records"):
            a, b = map(int, row["features"].split(","))
            outcome = back[row["repo"], row["task_id"], (a, b)]
            assert outcome.passed == (row["outcome"] == "pass")
            assert outcome.conflict == (None if setting == "solo" else False)


def test_leaderboard_rows_are_those_of_the_summary(plan: Plan, exported: Path) -> None:
    rows = json.loads((exported / "website" / "leaderboard.json").read_text())
    summary = run_table.read_table(plan.results.summary_csv).to_dict("records")
    assert [(row["score"], row["ciLow"], row["ciHigh"]) for row in rows] == [
        (row["pass_rate"], row["ci_low"], row["ci_high"]) for row in summary
    ]
    assert {"model", "framework", "git", "setting", "pairs", "passed"} <= set(rows[0])


def test_replayed_results_are_labelled() -> None:
    pairs = synthetic_tables.pairs("flash")[:2]
    runs = synthetic_tables.experiment(pairs, ["pass", "infra_error"], replay=True)
    index = export.website_index(runs)
    assert "Not a result of any model" in index["note"]
    assert [task["results"] for task in index["tasks"]] == [{"m": {"passed": True, "replay": True}}]
    summary = run_table.summary_table(runs)
    assert export.leaderboard_rows(runs, summary)[0]["replay"] is True
    lost = synthetic_tables.experiment(pairs, ["infra_error"] * 2)
    assert export.leaderboard_rows(lost, run_table.summary_table(lost))[0]["score"] is None
    row = summary.to_dict("records")[0]
    assert run_formats.inspect_log([], [], row, "flash", {})["eval"]["tags"] == ["replay"]


def test_the_bundle_describes_itself(plan: Plan) -> None:
    provenance.write(plan)
    path = bundle.pack(plan, [KEY])
    with tarfile.open(path) as opened:
        names = set(opened.getnames())
        data = {name: opened.extractfile(name) for name in (bundle.CRATE, "results/runs.csv")}
        crate, table = (io.BytesIO(s.read()).getvalue() for s in data.values() if s is not None)
    graph = {entry["@id"]: entry for entry in json.loads(crate)["@graph"]}
    assert graph[bundle.CRATE]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    root = graph["./"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", root["datePublished"])
    assert {"name", "description", "license"} <= set(root)
    parts = {part["@id"] for part in root["hasPart"]}
    assert parts <= set(graph)
    assert len(parts) == len(names - {bundle.CRATE, bundle.MANIFEST})
    assert int(graph["results/runs.csv"]["contentSize"]) == len(table)
    assert not any(name.startswith("results/export") for name in names)
    assert all(check.is_good for check in bundle.check(path) if check.name == "files")
