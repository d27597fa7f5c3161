"""Published results of attempts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cooperflow import atomic_io, layout
from cooperflow.experiment import config, plan
from cooperflow.layout import Results, RunFolder
from cooperflow.outcomes import run_result


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
