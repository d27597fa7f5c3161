"""The evaluation of a run."""

from __future__ import annotations

from pathlib import Path

from cooperflow import atomic_io
from cooperflow.jobs import evaluation_jobs
from cooperflow.layout import RunFolder
from cooperflow.outcomes.judgement import Verdict


def test_a_caveat_of_the_run_is_that_of_its_evaluation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    atomic_io.write_json(folder.result, {"workflow": {"cut_answers": 2}})
    verdict = Verdict("pass", caveat="lead_alone")
    assert evaluation_jobs._merge_caveats(folder, verdict, ()) == "lead_alone;output_limit"
    atomic_io.write_json(folder.result, {"workflow": {}})  # as commit b9ce344 wrote it
    assert evaluation_jobs._merge_caveats(folder, Verdict("fail"), ()) == ""
