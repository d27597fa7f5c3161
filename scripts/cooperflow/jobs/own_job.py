"""Job of the rule `own`: tests of each agent's own feature on its patch alone, up to own.json."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from cooperflow import atomic_io, layout
from cooperflow.analysis import losses
from cooperflow.analysis.losses import OwnFeature
from cooperflow.attempt import evaluation
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import disk_space
from cooperflow.jobs import circuit_breaker
from cooperflow.jobs.job import DONE, FAILED, Conclusion, Job, Try, corrupt_result
from cooperflow.outcomes import judgement, run_result
from cooperflow.outcomes.run_result import RunRecord
from cooperflow.upstream import result_files


def perform(plan: Plan, run: Run, this_try: Try) -> int:
    """Evaluate the own features of ``run`` and return the exit code of the job."""
    return OwnJob(plan, run, this_try).perform()


class OwnJob(Job):
    """The evaluation of each agent's own feature in one run."""

    def __init__(self, plan: Plan, run: Run, this_try: Try) -> None:
        super().__init__(plan, f"own {run.key}", this_try)
        self._run = run
        self._folder = run.folder(plan.results)

    def folders(self) -> Iterable[Path]:
        return (self._folder.path,)

    def admission(self) -> contextlib.AbstractContextManager[None]:
        return circuit_breaker.admission(self.plan, self._run, evaluation=True)

    def execute(self) -> Conclusion:
        folder, run = self._folder, self._run
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is None:
            return corrupt_result(folder.result)
        is_infra = record.outcome == judgement.INFRA_ERROR
        reason = record.reason or judgement.INFRA_ERROR if is_infra else ""
        own: dict[str, OwnFeature] = {}
        for number, feature in enumerate(run.pair.sorted_features, start=1):
            own[f"agent{number}"] = self._judge(number, feature, reason)
            if own[f"agent{number}"].broke and not self.this_try.last:
                return Conclusion("evaluation broke", True, lambda: FAILED)
        return Conclusion("", False, lambda: self._publish(own))

    def _judge(self, number: int, feature: int, reason: str) -> OwnFeature:
        """Return the verdict on the patch of agent ``number``, tested if necessary."""
        run, path = self._run, self._folder.path / result_files.patch_name(feature)
        patch = path.read_bytes() if path.is_file() else None
        untested = losses.judge_untested(feature, patch, reason)
        if untested is not None or patch is None:
            return untested or OwnFeature(feature, None)
        folder = evaluation.next_folder(self._folder.own_evals(f"agent{number}"))
        folder.mkdir(parents=True)
        document = folder / "solo.json"
        document.write_bytes(evaluation.minimal_result(run.pair, "solo"))
        subject = evaluation.Subject(
            key=f"{run.key} agent{number} alone",
            run_name=run.experiment.run_name,
            mode="solo",
            pair=run.pair,
            files={"solo.patch": path, "result.json": document},
        )
        started = time.monotonic()
        tested = evaluation.evaluate(self.plan, subject, folder)
        seconds = time.monotonic() - started
        return losses.judge_tested(feature, number, patch, tested, seconds)

    def _publish(self, own: Mapping[str, OwnFeature]) -> int:
        plan, run = self.plan, self._run
        base = {
            "repo": run.pair.repo,
            "task_id": run.pair.task_id,
            "features": list(run.pair.sorted_features),
        }
        atomic_io.write_json(self._folder.own, losses.make_document(base, own))
        run_result.make_stale(plan.results, self._folder.own)
        is_broken = any(verdict.broke for verdict in own.values())
        run_result.mark_broken(plan.results, layout.own_marker(run.dashed), run.key, is_broken)
        words = {True: "passed", False: "failed", None: "unknown"}
        for agent, verdict in own.items():
            print(f"{run.key}: {agent} alone: {words[verdict.passed]} {verdict.reason}".rstrip())
        return DONE

    def release(self) -> None:
        disk_space.remove_unneeded(self.plan, self._run.pair.image)
