"""Job of a run: attempts of jobs that were killed."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import synthetic

from cooperflow import atomic_io, layout
from cooperflow.attempt import supervisor
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import run_job
from cooperflow.jobs.evaluation_jobs import EvalJob
from cooperflow.jobs.job import Try
from cooperflow.jobs.run_job import RunJob
from cooperflow.outcomes import run_result, usage
from cooperflow.outcomes.judgement import AgentEnd, CallsEnd, Evidence
from cooperflow.outcomes.run_result import AttemptRecord, RunRecord


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return synthetic.make_plan(tmp_path / "results", "flash", first=1)


def write_attempt(plan: Plan, run: Run, evidence: Evidence, **record: Any) -> Path:
    """Write an attempt that was not published, with upstream's files."""
    attempt = run.folder(plan.results).attempt(1)
    written = run_result.output_folder(run, attempt)
    written.mkdir(parents=True)
    (written / "solo.patch").write_text("+1\n")
    pair = run.pair
    upstream = {"repo": pair.repo, "task_id": pair.task_id, "features": list(pair.features)}
    (written / layout.RESULT).write_text(json.dumps({**upstream, "agent": {"steps": 4}}))
    document = AttemptRecord(1, started=1.0, evidence=dataclasses.asdict(evidence), **record)
    atomic_io.write_json(attempt / layout.ATTEMPT, document.as_dict())
    return attempt


def test_an_attempt_that_ended_is_published_by_the_next_session(plan: Plan) -> None:
    """A job that is killed between the record of the end and the publication loses nothing."""
    run = plan.runs[0]
    agents, calls = (AgentEnd("solo", "Submitted", steps=4),), (CallsEnd(usage.ANSWERED, 2, 9),)
    evidence = Evidence(True, agents=agents, calls=calls, seconds=9.5)
    write_attempt(plan, run, evidence, state=run_result.ENDED, image_id="sha256:1")
    folder = run.folder(plan.results)
    assert run_result.is_restorable(run, folder)
    assert RunJob(plan, run, Try(1, last=False)).is_finished()
    record = RunRecord.read(atomic_io.read_json(folder.result))
    assert record is not None
    assert (record.outcome, record.attempts, record.steps) == (None, 1, 4)
    assert (record.seconds, record.waited_seconds, record.image_id) == (9.5, 2, "sha256:1")
    assert (folder.path / "solo.patch").read_text() == "+1\n"
    # Damaged documents are made again as well.
    for path in (folder.result, folder.attempt(1) / layout.RESULT):
        path.write_text(path.read_text()[:100])
    assert run_result.is_restorable(run, folder)
    assert RunJob(plan, run, Try(1, last=False)).is_finished()
    assert RunRecord.read(atomic_io.read_json(folder.result)) == dataclasses.replace(
        record, ended=ANY
    )
    upstream = folder.attempt(1) / layout.UPSTREAM / layout.RESULT
    for path in (folder.result, folder.attempt(1) / layout.RESULT, upstream):
        path.write_text(path.read_text()[:20])
    assert not run_result.is_restorable(run, folder)


@pytest.mark.parametrize(
    "record",
    [
        {"state": run_result.ENDED, "outcome": "infra_error", "reason": "api_timeout"},
        {"state": run_result.INTERRUPTED},
        {"state": run_result.RUNNING},
    ],
)
def test_another_attempt_is_not_published(record: dict[str, Any], plan: Plan) -> None:
    run = plan.runs[0]
    attempt = write_attempt(plan, run, Evidence(True), **record)
    folder = run.folder(plan.results)
    assert not run_result.is_restorable(run, folder)
    assert not RunJob(plan, run, Try(1, last=False)).is_finished()
    assert not folder.result.exists()
    # Nothing of it runs: this job holds the claim of the run.
    assert json.loads((attempt / layout.ATTEMPT).read_text())["state"] != run_result.RUNNING


def test_a_machine_without_processes_or_files_left_is_an_infrastructure_error(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan.runs[0]
    job = RunJob(plan, run, Try(1, last=False))

    def refuse(_: Any) -> Evidence:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(run_job, "_image", lambda *_: ("", None))
    monkeypatch.setattr(supervisor, "run_attempt", refuse)
    conclusion = job.execute()
    assert conclusion.again
    record = AttemptRecord.read(run.folder(plan.results), 1)
    assert (record.outcome, record.reason) == ("infra_error", "process_died")


class Killed(BaseException):
    """The end of a process in the middle of its work."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise Killed instead of change number ``step`` of the file system."""
    changes = itertools.count()

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            if next(changes) >= step:
                raise Killed
            return change(*arguments, **options)

        return changed

    for name in ("replace", "rename", "link", "unlink", "mkdir", "rmdir", "utime", "fsync"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_a_publication_that_is_killed_anywhere_is_completed(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after `make retry-infra`: the verdict on the attempt before must not remain."""
    run = plan.runs[0]
    folder = run.folder(plan.results)
    evidence = Evidence(True, agents=(AgentEnd("solo", "Submitted", steps=4),))
    for step in itertools.count():
        shutil.rmtree(folder.path, ignore_errors=True)
        attempt = write_attempt(plan, run, evidence, state=run_result.ENDED)
        (attempt / layout.CALLS).write_text("{}\n" * 5000)
        for name in (layout.EVAL, "old.patch"):
            (folder.path / name).write_text("of the attempt before")
        is_killed = False
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            try:
                RunJob(plan, run, Try(1, last=False)).is_finished()
            except Killed:
                is_killed = True
        job = RunJob(plan, run, Try(1, last=False))
        assert job.is_finished()
        for cleaned in EvalJob(plan, run, Try(1, last=False)).folders():
            atomic_io.remove_temporary_files(cleaned)
        files = {path.name for path in folder.path.iterdir() if path.is_file()}
        assert files == {layout.RESULT, "solo.patch"}
        assert RunRecord.read(atomic_io.read_json(folder.result)) is not None
        assert not list(folder.path.rglob("*.tmp"))
        if not is_killed:
            break
    assert step > 10
