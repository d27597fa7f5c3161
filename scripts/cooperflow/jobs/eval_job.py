"""Job of the rule `eval`: the benchmark's tests on a run's published patches, up to eval.json."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cooperflow import atomic_io
from cooperflow.attempt import evaluation
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import disk_space
from cooperflow.jobs import circuit_breaker
from cooperflow.jobs.job import DONE, Conclusion, Job, Try, corrupt_result
from cooperflow.layout import RunFolder
from cooperflow.outcomes import judgement, patch_text, run_result
from cooperflow.outcomes.judgement import Verdict
from cooperflow.outcomes.run_result import EvalRecord, RunRecord
from cooperflow.upstream import result_files


def perform(plan: Plan, run: Run, this_try: Try) -> int:
    """Evaluate ``run`` and return the exit code of the job."""
    return EvalJob(plan, run, this_try).perform()


class EvalJob(Job):
    """The evaluation of one run."""

    def __init__(self, plan: Plan, run: Run, this_try: Try) -> None:
        super().__init__(plan, run.key, this_try, lock=f"eval {run.key}")
        self._run = run
        self._folder = run.folder(plan.results)

    def folders(self) -> Iterable[Path]:
        return self._folder.path, self._folder.evals

    def admission(self) -> contextlib.AbstractContextManager[None]:
        return circuit_breaker.admission(self.plan, self._run, evaluation=True)

    def execute(self) -> Conclusion:
        folder, run = self._folder, self._run
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is None:
            return corrupt_result(folder.result)
        if record.outcome is not None:
            final = Verdict(record.outcome, record.reason)
            return Conclusion("", False, lambda: self._publish(None, final, 0.0))
        started = time.monotonic()
        subject = evaluation.Subject(
            key=run.key,
            run_name=run.experiment.run_name,
            mode=run.experiment.setting.mode,
            pair=run.pair,
            files={p.name: p for p in [folder.result, *folder.path.glob("*.patch")]},
        )
        document = evaluation.evaluate(self.plan, subject, evaluation.next_folder(folder.evals))
        verdict = judge_document(document, folder.path, record.reason)

        def publish() -> int:
            return self._publish(document, verdict, time.monotonic() - started, verbose=True)

        return Conclusion(f"evaluation: {verdict.outcome} {verdict.reason}", verdict.again, publish)

    def _publish(
        self,
        document: Mapping[str, Any] | None,
        verdict: Verdict,
        seconds: float,
        verbose: bool = False,
    ) -> int:
        run = self._run
        complete = document or untested_document(run, verdict)
        publish_verdict(self.plan, run, self._folder, complete, verdict, seconds)
        if verbose:
            print(f"{run.key}: {verdict.outcome} {verdict.reason} {verdict.caveat}".rstrip())
            if judgement.NO_TESTS_RUN in verdict.caveat:
                print(f"{run.key}: no test ran for feature {_untested_features(run, complete)}.")
        return DONE

    def release(self) -> None:
        for image in dict.fromkeys((self._run.image, self._run.pair.image)):
            disk_space.remove_unneeded(self.plan, image)


def _untested_features(run: Run, document: Mapping[str, Any]) -> str:
    """Return the data set's numbers of the features for which no test passed."""
    numbered = enumerate(run.pair.sorted_features, start=1)
    counts = {f: judgement.count_tests(result_files.output_of(document, n)) for n, f in numbered}
    return " and ".join(str(feature) for feature, count in counts.items() if not count)


def judge_document(document: Mapping[str, Any] | None, patches: Path, reason: str) -> Verdict:
    """Return the verdict of upstream's document about the patches in the folder ``patches``."""
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
    """Write eval.json with the run's final outcome, and make the tables older than it.

    Args:
        caveats: those of the run where its result.json is not written yet.
    """
    assert verdict.outcome is not None
    outputs = [result_files.output_of(document, number) for number in (1, 2)]
    record = EvalRecord(
        outcome=verdict.outcome,
        reason=verdict.reason,
        caveat=_merge_caveats(folder, verdict, caveats),
        seconds=round(seconds, 3),
        tests_passed=(judgement.count_tests(outputs[0]), judgement.count_tests(outputs[1])),
    )
    atomic_io.write_json(folder.eval, {**document, "workflow": record.as_dict()})
    run_result.make_stale(plan.results, folder.eval)
    is_broken = verdict.reason == judgement.EVAL_ERROR
    run_result.mark_broken(plan.results, run.dashed, run.key, is_broken)


def _merge_caveats(folder: RunFolder, verdict: Verdict, others: Sequence[str]) -> str:
    """Return the caveats of the evaluation and of the run."""
    record = RunRecord.read(atomic_io.read_json(folder.result)) or RunRecord()
    limit = [judgement.OUTPUT_LIMIT] if record.cut_answers else []
    caveats = [*filter(None, [verdict.caveat]), *limit, *(record.caveats or others)]
    return ";".join(dict.fromkeys(caveats))


def untested_document(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Return a document in upstream's form for a run that was not tested."""
    feature = {"passed": False, "test_output": ""}
    has_error = verdict.outcome == judgement.INFRA_ERROR
    return {
        "repo": run.pair.repo,
        "task_id": run.pair.task_id,
        "features": list(run.pair.sorted_features),
        "setting": run.experiment.setting.mode,
        "merge": None,
        "feature1": feature,
        "feature2": feature,
        "both_passed": False,
        "error": f"{verdict.outcome}: {verdict.reason}" if has_error else None,
        "evaluated_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
