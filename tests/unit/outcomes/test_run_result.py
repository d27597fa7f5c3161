"""Published results of attempts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cooperflow import atomic_io, layout
from cooperflow.experiment import config, plan
from cooperflow.layout import Results, RunFolder
from cooperflow.outcomes import run_result
from cooperflow.outcomes.judgement import Verdict


def test_a_removed_result_is_restored_from_its_attempt(tmp_path: Path) -> None:
    demo = layout.REPOSITORY / "config" / "demo.yaml"
    run = plan.make(config.load([demo])).runs[0]
    folder = RunFolder(tmp_path)
    assert run_result.restore(run, folder) is None
    atomic_io.write_json(folder.attempt(1) / "result.json", {"workflow": {"outcome": None}})
    upstream = run_result.upstream_folder(run, folder.attempt(1))
    upstream.mkdir(parents=True)
    (upstream / "solo.patch").write_text("+1\n")
    # Twice: a kill in its middle is made good by doing it again.
    for _ in range(2):
        assert run_result.restore(run, folder) is not None
        assert json.loads(folder.result.read_text()) == {"workflow": {"outcome": None}}
        assert (folder.path / "solo.patch").read_text() == "+1\n"
        folder.result.unlink()


def test_stale_tables_are_older_than_the_evaluation_at_any_clock_time(tmp_path: Path) -> None:
    results = Results(tmp_path)
    evaluation = tmp_path / "eval.json"
    for path in (results.runs_csv, results.summary_csv, evaluation):
        path.write_text("x")
    os.utime(results.summary_csv, (4_000_000_000, 4_000_000_000))
    run_result.make_stale(results, evaluation)
    assert results.summary_csv.stat().st_mtime < evaluation.stat().st_mtime


def test_calls_that_are_not_recorded_cost_what_upstream_reports(tmp_path: Path) -> None:
    """claude_code calls Anthropic from its container: no call is in the call log."""
    folder = RunFolder(tmp_path)
    agent = {"steps": 7, "input_tokens": 100, "output_tokens": 20, "cache_read_tokens": 900}
    document = {"agent": agent, "total_cost": 0.5, "agent_framework": "claude_code"}
    atomic_io.write_json(folder.attempt(1) / "upstream" / "result.json", document)
    written = folder.attempt(2) / "logs" / "m-solo" / "solo" / "a_task" / "1" / "f1_f2"
    atomic_io.write_json(written / "result.json", document)
    usage = run_result.usage_of_run(folder, "claude_code")
    assert (usage.calls, usage.input_tokens, usage.cached_tokens) == (14, 2000, 1800)
    assert (usage.cost_usd, usage.cost_complete, usage.cost_bound_usd) == (1.0, False, None)
    # A killed attempt left no document: its cost is unknown.
    folder.attempt(3).mkdir()
    assert run_result.usage_of_run(folder, "claude_code").cost_usd == 1.0
    alone = RunFolder(tmp_path / "alone")
    alone.attempt(1).mkdir(parents=True)
    assert not run_result.usage_of_run(alone, "codex").cost_complete
    assert run_result.usage_of_run(alone, "mini_swe_agent_v2").cost_complete


@pytest.mark.parametrize("broke", [True, False])
def test_a_broken_evaluation_never_lacks_its_redo_marker(
    broke: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its document alone would be taken for final by the next session."""
    results = Results(tmp_path)
    path, marked = tmp_path / "eval.json", []
    write = atomic_io.write_json

    def watched(target: Path, document: Any) -> None:
        marked.append(len(list(results.redo_markers.glob("run.*"))))
        write(target, document)

    monkeypatch.setattr(atomic_io, "write_json", watched)
    run_result.write_evaluation(results, path, {}, "run", "key", True)
    run_result.write_evaluation(results, path, {}, "run", "key", broke)
    assert marked == [1, 2 if broke else 1]
    assert len(list(results.redo_markers.iterdir())) == broke


def test_a_caveat_of_the_run_is_that_of_its_evaluation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    atomic_io.write_json(folder.result, {"workflow": {"cut_answers": 2}})
    verdict = Verdict("pass", caveat="lead_alone")
    assert run_result._merge_caveats(folder, verdict, ()) == "lead_alone;output_limit"
    atomic_io.write_json(folder.result, {"workflow": {}})  # as commit b9ce344 wrote it
    assert run_result._merge_caveats(folder, Verdict("fail"), ()) == ""
