"""Pages of single runs: who acted when, in runs whose documents are unusual."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import synthetic

from cooperflow import atomic_io
from cooperflow.analysis import history, losses, run_files
from cooperflow.analysis.losses import OwnFeature
from cooperflow.analysis.run_files import RunFiles
from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import RunFolder
from cooperflow.report import build, pages
from cooperflow.upstream import trajectory as upstream
from cooperflow.upstream.trajectory import Entry, Trajectory


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    subset = tmp_path / "one.json"
    tasks = [{"repo": "pallets_click_task", "task_id": 2068, "pairs": [[4, 10]]}]
    subset.write_text(json.dumps({"tasks": tasks}))
    return synthetic.make_plan(tmp_path / "results", str(subset))


def write_run(plan: Plan, setting: str) -> tuple[Run, RunFolder]:
    run = next(run for run in plan.runs if run.experiment.setting.name == setting)
    synthetic.write_run(plan, run, "pass", synthetic.BEGAN, synthetic.Words(), steps=6)
    return run, run.folder(plan.results)


def page(plan: Plan, run: Run) -> str:
    return pages.run_page(RunFiles(run, run.folder(plan.results)), [], plan.results.report)


def conflicts_of_pair(plan: Plan, run: Run) -> str:
    """Return the section about conflicts on the page of a run's pair."""
    source = RunFiles(run, run.folder(plan.results))
    html = pages.pair_page(run.pair, [source], plan.results.report)
    return html[html.index('id="conflicts"') : html.index('id="patches"')]


def compacted(messages: list[dict[str, Any]], response: str) -> dict[str, Any]:
    """Return a full trajectory: all but the last two turns replaced by a summary."""
    summary = {
        "role": "assistant",
        "content": "## FILE MAP",
        "extra": {
            "summary": True,
            "timestamp": synthetic.BEGAN + 100,
            "response": {"id": response},
        },
    }
    now = [messages[0], summary, *messages[-4:]]
    parts = [
        {"kind": "solver", "messages": messages[:-3]},
        {"kind": "summarizer", "messages": [*messages[:-4], {"role": "user"}, summary]},
        {"kind": "solver", "messages": now},
    ]
    return {"messages": now, "segments": parts}


def test_a_compacted_run_has_two_agents_and_all_their_steps(plan: Plan) -> None:
    run, folder = write_run(plan, "coop-comm")
    for agent in ("agent4", "agent10"):
        path = folder.path / f"{agent}_traj.json"
        document = json.loads(path.read_text())
        full = compacted(document["messages"], f"summary-{agent}")
        (folder.path / f"{agent}_full_traj.json").write_text(json.dumps(full))
        path.write_text(json.dumps({**document, "messages": full["messages"]}))
    history = RunFiles(run, folder).history
    assert history.agents == ("agent4", "agent10")
    for agent in history.agents:
        events = [event for event in history.events if event.agent == agent]
        assert [e.number for e in events if e.kind == "step"] == [1, 2, 3, 4, 5, 6]
        assert [e.kind for e in events].count("summary") == 1
    assert [e.text for e in history.events if e.kind == "message"] == [synthetic.Words().message]
    html = page(plan, run)
    assert 'class="timeline n2"' in html
    assert "conversation compacted" in html


def test_a_quoted_message_is_not_on_the_page(plan: Plan) -> None:
    run, folder = write_run(plan, "coop-comm")
    path = folder.path / "agent4_traj.json"
    document = json.loads(path.read_text())
    document["messages"][1]["content"] = 'I could run send_message agent10 "a quotation".'
    path.write_text(json.dumps(document))
    conversation = json.loads((folder.path / "conversation.json").read_text())
    quoted = {"from": "agent4", "to": "agent10", "message": "a quotation"}
    (folder.path / "conversation.json").write_text(json.dumps([*conversation, quoted]))
    assert [m.text for m in RunFiles(run, folder).messages] == [synthetic.Words().message]


def test_an_ended_run_shows_its_messages_and_both_agents(plan: Plan) -> None:
    """One agent had ended and left a full trajectory; the other was stopped while running."""
    run, folder = write_run(plan, "coop-comm")
    document = json.loads((folder.path / "agent4_traj.json").read_text())
    for name in ("agent4_traj.json", "agent10_traj.json", "conversation.json"):
        (folder.path / name).unlink()
    full = json.dumps(compacted(document["messages"], "s"))
    (folder.path / "agent4_full_traj.json").write_text(full)
    calls = folder.attempt(1) / "calls.jsonl"
    records = [json.loads(line) for line in calls.read_text().splitlines()]
    command = "send_message agent10 <<'MSG'\nI take store.py.\nMSG"
    arguments = json.dumps({"command": command})
    records[0]["message"]["tool_calls"] = [{"function": {"arguments": arguments}}]
    calls.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = RunFiles(run, folder)
    assert set(source.history.agents) == {"agent4", "agent10"}
    assert [(m.sender, m.to, m.text) for m in source.messages] == [
        ("agent4", "agent10", "I take store.py.")
    ]
    assert "message" in {event.kind for event in source.history.events}


def test_patches_are_in_the_order_of_their_features(plan: Plan) -> None:
    run, folder = write_run(plan, "coop-comm")
    names = [patch.name for patch in RunFiles(run, folder).patches]
    assert names == ["agent4.patch", "agent10.patch"]


def test_an_agents_error_is_on_its_page(plan: Plan) -> None:
    run, folder = write_run(plan, "coop-comm")
    result = json.loads(folder.result.read_text())
    result["agents"]["agent10"] |= {"status": "Error", "error": "the container <b>is lost</b>"}
    folder.result.write_text(json.dumps(result))
    html = page(plan, run)
    assert "the container &lt;b&gt;is lost&lt;/b&gt;" in html
    assert "agent10" in html


def test_the_hunks_that_meet_are_shown_with_their_authors(plan: Plan) -> None:
    """Overlapping hunks first, both sides beside each other; also each agent's own feature."""
    run, folder = write_run(plan, "coop-nocomm")
    for feature, new in ((4, "4 <b>"), (10, "10 <i>")):
        (folder.path / f"agent{feature}.patch").write_text(
            "diff --git a/store.py b/store.py\n--- a/store.py\n+++ b/store.py\n"
            f"@@ -1,6 +1,{7 if feature == 4 else 6} @@\n def size():\n"
            f"-    return 1\n+    return {new}\n x\n y\n"
            f"{f'+near {feature}' if feature == 4 else ' z'}\n"
            + (" z\n w\n" if feature == 4 else " w\n")
        )
    own = {"agent1": OwnFeature(4, True), "agent2": OwnFeature(10, False, "tests_failed")}
    folder.own.write_text(json.dumps(losses.make_document({}, own)))
    text = page(plan, run)
    section = text[text.index("Overlapping and near changes") :]
    assert section.index("overlap</h4>") < section.index("2 unchanged lines between")
    assert "return 4 &lt;b&gt;" in section and "return 10 &lt;i&gt;" in section
    assert section.count("(feature 4), line 2") == 1
    assert "(feature 4), before line 5" in section
    assert "feature 10, <bdi>tests_failed" in section
    sides = conflicts_of_pair(plan, run)
    assert "the patches merge (clean); 1 overlapping pair of hunks" in sides
    assert "(feature 4), line 2" in sides and "(feature 10), line 2" in sides
    assert "store.py" in sides and "return 4 &lt;b&gt;" in sides and "return 10 &lt;i&gt;" in sides
    assert "unchanged line" not in sides.replace("an unchanged line", "")  # only overlaps
    html = pages.pair_page(run.pair, [RunFiles(run, folder)], plan.results.report)
    assert "Each patch alone" in html and ">Why<" not in html
    assert '<bdi>agent2</bdi> (feature 10): <span class="no">failed' in html
    evaluation = json.loads(folder.eval.read_text())
    failed = {**evaluation, "workflow": {**evaluation["workflow"], "outcome": "fail"}}
    folder.eval.write_text(json.dumps(failed))
    html = pages.pair_page(run.pair, [RunFiles(run, folder)], plan.results.report)
    assert "Lost before the merge: feature 10 fails alone." in html
    folder.eval.write_text(json.dumps({**evaluation, "merge": {"status": "conflicts"}}))
    assert "the patches conflict; 1 overlapping pair of hunks" in conflicts_of_pair(plan, run)
    with_own = run_files.state_of(folder)
    folder.own.unlink()
    assert run_files.state_of(folder) != with_own
    (folder.path / "agent10.patch").write_text("")
    assert "Overlapping and near changes" not in page(plan, run)
    assert "the patches conflict; no hunks overlap by their lines" in conflicts_of_pair(plan, run)
    folder.eval.write_text(json.dumps({**evaluation, "merge": None}))
    assert "the patches were not merged" in conflicts_of_pair(plan, run)
    solo, _ = write_run(plan, "solo")
    source = RunFiles(solo, solo.folder(plan.results))
    assert 'id="conflicts"' not in pages.pair_page(solo.pair, [source], plan.results.report)


def test_thoughts_are_on_the_run_page() -> None:
    """By the answer's id in the trajectory; in a run without one, from the call log alone."""
    records = [
        {"event": "end", "id": "a", "thread": "1", "time": 5.0, "kind": "answered"}
        | {"response_id": "r1", "message": {"content": None}, "thought": "I will look first."}
        | {"finish_reason": "MAX_TOKENS", "refusal": "No."},
        # As commit b9ce344 wrote it.
        {"event": "end", "id": "b", "thread": "1", "time": 6.0, "kind": "answered"}
        | {"response_id": "r2", "message": {"content": "Done."}},
    ]
    trajectory = Trajectory(
        "solo",
        entries=tuple(
            Entry(upstream.TURN, text, float(n), answer_id=f"r{n}")
            for n, text in enumerate(["", "Done."], start=1)
        ),
    )
    from_trajectory = history.from_trajectories({"solo": trajectory}, [])
    for version in (
        history.add_answer_details(from_trajectory, records),
        history.from_calls(records, ["solo"]),
    ):
        first, second = version.events
        assert (first.thought, first.refusal, first.is_cut) == ("I will look first.", "No.", True)
        assert (second.thought, second.text, second.is_cut) == ("", "Done.", False)


def test_forks_write_the_same_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = synthetic.make_plan(tmp_path / "results", first=5)
    synthetic.finish(plan)
    state = plan.results.state / "report-pages.json"
    texts = []
    for processors in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)))
        monkeypatch.setattr(build, "MANY_PAGES", 10)
        monkeypatch.setattr(build, "PART", 2)
        state.unlink(missing_ok=True)
        assert build.build(plan).pages == 15
        paths = sorted(plan.results.report.rglob("*.html"))
        texts.append((atomic_io.read_json(state), [path.read_bytes() for path in paths]))
        for path in paths:
            path.unlink()
    assert len(texts[0][1]) == 15 + 5 + 1
    assert texts[0] == texts[1]
