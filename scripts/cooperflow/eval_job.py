"""A run's grading from claim to eval.json: upstream's `eval` on the published patches."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cooperflow import (
    atomic,
    attempt,
    breaker,
    child,
    containers,
    guard,
    layout,
    outcome,
    processes,
    publish,
    runtime,
)
from cooperflow.containers import EngineError, Labels
from cooperflow.layout import RunFolder
from cooperflow.outcome import Verdict
from cooperflow.plan import Plan, Run
from cooperflow.processes import Interrupted
from cooperflow.records import EvalRecord
from cooperflow.run_job import CLAIM_SECONDS, DONE, INTERRUPTED, TRY_AGAIN, Try


def perform(plan: Plan, run: Run, this: Try) -> int:
    """Grade ``run`` and return the exit code of the job."""
    folder = run.folder(plan.results)
    try:
        with processes.claim(plan.results.claims, f"eval {run.key}", CLAIM_SECONDS):
            for place in (folder.path, folder.evals):
                atomic.sweep(place)
            with breaker.passage(plan, run, graded=True):
                return _grade(plan, run, folder, this)
    except Interrupted as why:
        print(f"{run.key}: grading ended: {why}")
        return INTERRUPTED


def _grade(plan: Plan, run: Run, folder: RunFolder, this: Try) -> int:
    result = atomic.read_json(folder.result)
    if not isinstance(result, dict) or "workflow" not in result:
        print(f"{folder.result} is not whole; remove it to have the run looked at again.")
        return 1
    told = result["workflow"]
    if told["outcome"] is not None:
        verdict = Verdict(told["outcome"], told["reason"])
        _publish(plan, run, folder, _not_graded(run, verdict), verdict, 0.0)
        return DONE
    begun = time.monotonic()
    document = _test(plan, run, folder)
    verdict = outcome.judge_eval(document, empty_patches(folder), told["reason"])
    if verdict.again and not this.last:
        print(f"{run.key}: grading: {verdict.outcome} {verdict.reason}; tried again.")
        return TRY_AGAIN
    whole = document or _not_graded(run, verdict)
    _publish(plan, run, folder, whole, verdict, time.monotonic() - begun)
    print(f"{run.key}: {verdict.outcome} {verdict.reason} {verdict.caveat}".rstrip())
    return DONE


def _test(plan: Plan, run: Run, folder: RunFolder) -> dict[str, Any] | None:
    """Have upstream test the patches; return its document, None if it broke on the way."""
    experiment, pair = run.experiment, run.pair
    number = max((int(p.name) for p in _numbered(folder.evals)), default=0) + 1
    place = folder.evals / str(number)
    logs = place / "logs"
    staged = logs / experiment.run_name / experiment.setting.mode / pair.folder
    staged.mkdir(parents=True)
    for path in [folder.result, *folder.path.glob("*.patch")]:
        (staged / path.name).symlink_to(os.path.relpath(path.resolve(), staged.resolve()))
    labels = Labels.new(guard.identity(plan.results), f"eval {run.key}", attempt.new_token())
    a, b = pair.features
    arguments = ["eval", "-n", experiment.run_name, "-r", pair.repo, "-t", str(pair.task_id)]
    arguments += ["-f", f"{a},{b}", "--backend", plan.config.backend]
    arguments += ["--dataset-dir", str(Path(plan.config.dataset.dir).resolve())]
    arguments += ["--log-dir", str(logs.resolve()), "-c", "1"]
    with runtime.scratch() as scratch:
        stop_note = scratch / "put-away"
        stop_note.touch()
        try:
            client = containers.engine()
            containers.sweep(client, labels.results, labels.run)
            client.close()
        except EngineError as error:
            print(f"Docker does not answer: {error}")
            return None
        watched = attempt.watch(
            child.Command(
                arguments=arguments,
                log=place / "cooperbench.log",
                stop_note=stop_note,
                labels=labels.as_dict(),
                sdk_arguments=containers.limits(plan.config.containers)[1],
                command_seconds=plan.config.limits.test_seconds,
            ),
            labels,
            plan.config.limits.eval_seconds,
        )
    document = atomic.read_json(staged / layout.EVAL)
    with contextlib.suppress(OSError):
        os.replace(staged / layout.EVAL, place / layout.EVAL)
    shutil.rmtree(logs, ignore_errors=True)
    trouble = {
        "time limit": watched.timed_out,
        "disk full": watched.disk_full,
        "docker": watched.engine_lost or watched.engine_stalled > watched.seconds / 2,
        "container died": watched.fates.died > 0,
        "out of memory": watched.fates.oom > 0,
        f"exit code {watched.exit_code}": bool(watched.exit_code),
        "no whole document": not isinstance(document, dict),
    }
    found = [name for name, is_so in trouble.items() if is_so]
    if found:
        print(f"{run.key}: grading broke: {', '.join(found)}; see {place}")
        return None
    return document


def empty_patches(folder: RunFolder) -> list[bool]:
    """Return for each patch of a run whether there is nothing in it."""
    return [not path.read_bytes().strip() for path in sorted(folder.path.glob("*.patch"))]


def _publish(
    plan: Plan,
    run: Run,
    folder: RunFolder,
    document: Mapping[str, Any],
    verdict: Verdict,
    seconds: float,
) -> None:
    assert verdict.outcome is not None
    outputs = [str((document.get(f"feature{n}") or {}).get("test_output") or "") for n in (1, 2)]
    record = EvalRecord(
        outcome=verdict.outcome,
        reason=verdict.reason,
        caveat=verdict.caveat,
        seconds=round(seconds, 3),
        tests_passed=(outcome.count_tests(outputs[0]), outcome.count_tests(outputs[1])),
    )
    atomic.write_json(folder.eval, {**document, "workflow": record.as_dict()})
    for note in plan.results.broken_evals.glob(f"{run.dashed}.*"):
        if verdict.reason != outcome.EVAL_ERROR:
            note.unlink(missing_ok=True)
    publish.make_stale(plan.results, folder.eval)
    if verdict.reason == outcome.EVAL_ERROR:
        # A later start takes this note for a newer input, and so grades the run again.
        atomic.write_text(
            plan.results.broken_evals / f"{run.dashed}.{time.time_ns()}", run.key + "\n"
        )


def _not_graded(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Return a document of upstream's form for a run that was not tested, or could not be."""
    nothing = {"passed": False, "test_output": ""}
    broke = verdict.outcome == outcome.INFRA_ERROR
    return {
        "repo": run.pair.repo,
        "task_id": run.pair.task_id,
        "features": list(run.pair.sorted_features),
        "setting": run.experiment.setting.mode,
        "merge": None,
        "feature1": nothing,
        "feature2": nothing,
        "both_passed": False,
        "error": f"{verdict.outcome}: {verdict.reason}" if broke else None,
        "evaluated_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def _numbered(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
