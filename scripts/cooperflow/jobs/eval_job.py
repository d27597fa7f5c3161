"""A run's grading from claim to eval.json: upstream's `eval` on the published patches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, locks, session_lock
from cooperflow.attempt import evaluation
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import rolling
from cooperflow.jobs import circuit_breaker
from cooperflow.jobs.attempt_number import DONE, INTERRUPTED, TRY_AGAIN, Try, claim_seconds
from cooperflow.layout import RunFolder
from cooperflow.outcomes import judgement, patch_text, publication
from cooperflow.outcomes.judgement import Verdict
from cooperflow.outcomes.records import EvalRecord
from cooperflow.processes import Interrupted
from cooperflow.upstream import result_files


def perform(plan: Plan, run: Run, this: Try) -> int:
    """Grade ``run`` and return the exit code of the job."""
    folder = run.folder(plan.results)
    try:
        if orphaned := session_lock.orphaned(plan.results):
            print(f"{run.key}: grading not begun: {orphaned}.")
            return INTERRUPTED
        with locks.claim(plan.results.claims, f"eval {run.key}", claim_seconds(plan)):
            for place in (folder.path, folder.evals):
                atomic_io.remove_temporary_files(place)
            with circuit_breaker.passage(plan, run, graded=True):
                code = _grade(plan, run, folder, this)
        for image in dict.fromkeys((run.image, run.pair.image)):
            rolling.release(plan, image)
        return code
    except Interrupted as why:
        print(f"{run.key}: grading ended: {why}")
        return INTERRUPTED


def _grade(plan: Plan, run: Run, folder: RunFolder, this: Try) -> int:
    result = atomic_io.read_json(folder.result)
    if not isinstance(result, dict) or "workflow" not in result:
        print(f"{folder.result} is not whole; remove it to have the run looked at again.")
        return 1
    told = result["workflow"]
    if told["outcome"] is not None:
        verdict = Verdict(told["outcome"], told["reason"])
        publish_verdict(plan, run, folder, not_graded(run, verdict), verdict, 0.0)
        return DONE
    begun = time.monotonic()
    document = _test(plan, run, folder)
    verdict = judged(document, folder.path, told["reason"])
    if verdict.again and not this.last:
        print(f"{run.key}: grading: {verdict.outcome} {verdict.reason}; tried again.")
        return TRY_AGAIN
    whole = document or not_graded(run, verdict)
    publish_verdict(plan, run, folder, whole, verdict, time.monotonic() - begun)
    print(f"{run.key}: {verdict.outcome} {verdict.reason} {verdict.caveat}".rstrip())
    if judgement.NO_TESTS_RUN in verdict.caveat:
        print(f"{run.key}: no test ran for feature {_untested(run, whole)}.")
    return DONE


def _untested(run: Run, document: Mapping[str, Any]) -> str:
    """Return the data set's numbers of the features for which no test passed."""
    numbered = enumerate(run.pair.sorted_features, start=1)
    counts = {f: judgement.count_tests(result_files.output_of(document, n)) for n, f in numbered}
    return " and ".join(str(feature) for feature, count in counts.items() if not count)


def _test(plan: Plan, run: Run, folder: RunFolder) -> dict[str, Any] | None:
    """Have upstream test the patches; return its document, None if it broke on the way."""
    subject = evaluation.Subject(
        key=run.key,
        run_name=run.experiment.run_name,
        mode=run.experiment.setting.mode,
        pair=run.pair,
        files={p.name: p for p in [folder.result, *folder.path.glob("*.patch")]},
    )
    return evaluation.grade(plan, subject, evaluation.new_place(folder.evals))


def judged(document: Mapping[str, Any] | None, patches: Path, reason: str) -> Verdict:
    """Return what upstream's document says of a run whose patches lie in the folder ``patches``."""
    contents = [path.read_bytes() for path in sorted(patches.glob("*.patch"))]
    return judgement.judge_eval(
        document,
        [patch_text.is_empty(content) for content in contents],
        reason,
        max(map(len, contents), default=0),
        patch_text.all_caveats(contents),
    )


def publish_verdict(
    plan: Plan,
    run: Run,
    folder: RunFolder,
    document: Mapping[str, Any],
    verdict: Verdict,
    seconds: float,
    caveats: Sequence[str] = (),
) -> None:
    """Write eval.json with the run's final outcome, and see to it that the tables follow.

    Args:
        caveats: those of the run where its result.json is not written yet.
    """
    assert verdict.outcome is not None
    outputs = [result_files.output_of(document, number) for number in (1, 2)]
    record = EvalRecord(
        outcome=verdict.outcome,
        reason=verdict.reason,
        caveat=_caveat(folder, verdict, caveats),
        seconds=round(seconds, 3),
        tests_passed=(judgement.count_tests(outputs[0]), judgement.count_tests(outputs[1])),
    )
    atomic_io.write_json(folder.eval, {**document, "workflow": record.as_dict()})
    for note in plan.results.broken_evals.glob(f"{run.dashed}.*"):
        if verdict.reason != judgement.EVAL_ERROR:
            note.unlink(missing_ok=True)
    publication.make_stale(plan.results, folder.eval)
    if verdict.reason == judgement.EVAL_ERROR:
        # A later start takes this note for a newer input, and so grades the run again.
        atomic_io.write_text(
            plan.results.broken_evals / f"{run.dashed}.{time.time_ns()}", run.key + "\n"
        )


def _caveat(folder: RunFolder, verdict: Verdict, others: Sequence[str]) -> str:
    """Return the evaluation's caveats and those of the run itself."""
    told = (atomic_io.read_json(folder.result) or {}).get("workflow") or {}
    cut = [judgement.OUTPUT_LIMIT] if told.get("cut_answers") else []
    known = [*filter(None, [verdict.caveat]), *cut, *(told.get("caveats") or others)]
    return ";".join(dict.fromkeys(known))


def not_graded(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Return a document of upstream's form for a run that was not tested, or could not be."""
    nothing = {"passed": False, "test_output": ""}
    broke = verdict.outcome == judgement.INFRA_ERROR
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
