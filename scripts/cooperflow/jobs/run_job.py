"""The run job: makes one attempt at a run and publishes result.json."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, environment, layout, processes, redaction, session_state
from cooperflow.attempt import container_monitor, supervisor
from cooperflow.attempt.attempt import Attempt, attempt_secrets
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import verification
from cooperflow.jobs import admission, notification
from cooperflow.jobs.job import DONE, HALTED, Conclusion, Job, Try
from cooperflow.outcomes import judgement, run_result, usage
from cooperflow.outcomes.judgement import Evidence, Verdict
from cooperflow.outcomes.run_result import AttemptRecord
from cooperflow.processes import Interrupted

# Maximum pause because of a provider's Retry-After, seconds.
LONGEST_PAUSE = 600


class RunJob(Job):
    """One attempt at a run."""

    def __init__(self, plan: Plan, run: Run, this_try: Try) -> None:
        super().__init__(plan, run.key, this_try)
        self._run = run
        self._folder = run.folder(plan.results)

    def folders(self) -> Iterable[Path]:
        folder = self._folder
        if atomic_io.read_json(folder.result) is not None:
            return ()
        attempts = [folder.attempt(number) for number in folder.attempt_numbers()]
        return folder.path, *attempts, *(path / layout.UPSTREAM for path in attempts)

    def is_finished(self) -> bool:
        run, folder = self._run, self._folder
        if atomic_io.read_json(folder.result) is not None:
            return True
        self._finish_earlier_attempts()
        if run_result.restore(run, folder) is None and not self._publish_ended():
            return False
        print(f"{run.key}: result.json was missing; restored from its attempt at no cost.")
        return True

    def _publish_ended(self) -> bool:
        """Publish an attempt whose job was killed before it did; return whether one exists."""
        ended = run_result.find_unpublished(self._run, self._folder)
        if ended is None:
            return False
        self._publish(ended.record, ended.document, ended.evidence)
        return True

    def _publish(
        self, record: AttemptRecord, document: Mapping[str, Any] | None, evidence: Evidence
    ) -> int:
        run = self._run
        experiment = atomic_io.read_object(self.plan.results.experiment(run.experiment.run_name))
        fingerprint = experiment.get("fingerprint")
        run_result.publish(run, self._folder, record, document, evidence, fingerprint)
        outcome = record.outcome or "ready for evaluation"
        print(f"{run.key}: {outcome} {record.reason}".rstrip())
        return DONE

    def _finish_earlier_attempts(self) -> None:
        """Finish killed attempts: remove the key from their files, and compress the files.

        This job holds the claim of the run, so no process of an earlier attempt runs.
        """
        for number in self._folder.attempt_numbers():
            attempt = self._folder.attempt(number)
            record = AttemptRecord.read(self._folder, number)
            if record.state == run_result.RUNNING:
                redaction.redact_files(
                    attempt, attempt_secrets(self.plan, self._run.experiment.model)
                )
                _write_record(attempt, dataclasses.replace(record, state=run_result.INTERRUPTED))
            run_result.move_upstream_files(self._run, attempt)
            run_result.compress_attempt(attempt)

    def prepare(self) -> None:
        """Before a second or third try, pause; longer if the provider requests it."""
        if self.this_try.number == 1:
            return
        environment.remove_stale_runtime_files()
        folder = self._folder
        pause = self.plan.config.limits.pause_seconds * 2 ** (self.this_try.number - 2)
        last = [run_result.attempt_calls(folder.attempt(n)) for n in folder.attempt_numbers()[-1:]]
        requested = max((usage.requested_pause(calls, time.time()) for calls in last), default=0.0)
        seconds = max(pause * random.uniform(0.5, 1.5), min(requested, LONGEST_PAUSE))
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and not session_state.halt_message(self.plan.results):
            processes.raise_if_orphaned()
            time.sleep(min(0.5, max(limit - time.monotonic(), 0)))

    def admission(self) -> contextlib.AbstractContextManager[None]:
        return admission.breaker_admission(self.plan, self._run)

    def execute(self) -> Conclusion:
        if session_state.halt_message(self.plan.results):
            print(f"{self.key}: not started: the session starts no more runs.")
            return Conclusion("", False, lambda: HALTED)
        with admission.budget_admission(self.plan, self._run) as refusal:
            if not refusal:
                record = _record_start(self._folder)
        if refusal:
            return Conclusion("", False, lambda: self._halt_over_budget(refusal))
        return self._attempt(record)

    def _halt_over_budget(self, message: str) -> int:
        """Halt the session unless another run has done so."""
        results = self.plan.results
        if not session_state.halt_message(results) and session_state.declare_halt(
            results, self.key, admission.BUDGET_REASON, message
        ):
            print(message)
            notification.send(self.plan, notification.BUDGET, message)
        return HALTED

    def _attempt(self, record: AttemptRecord) -> Conclusion:
        plan, run = self.plan, self._run
        folder = self._folder.attempt(record.number)
        image, failure = _image(plan, run)
        document: dict[str, Any] | None = None
        try:
            if failure is not None:
                evidence = failure
            else:
                attempt = Attempt.create(plan, run, folder)
                evidence = supervisor.run_attempt(attempt)
                document = run_result.read_upstream_document(run, folder)
        except OSError as error:  # a limit of processes, open files or space is reached
            is_full = supervisor.is_full(folder)
            evidence = Evidence(False, exit_code=None, disk_full=is_full, detail=str(error))
        except Interrupted:
            _write_record(
                folder, dataclasses.replace(record, state=run_result.INTERRUPTED, ended=time.time())
            )
            raise
        verdict = judgement.judge_run(evidence)
        if evidence.detail:
            print(f"{run.key}: {evidence.detail}")
        final_record = dataclasses.replace(
            record,
            state=run_result.ENDED,
            ended=time.time(),
            outcome=verdict.outcome,
            reason=verdict.reason,
            evidence=dataclasses.asdict(evidence),
            image_id=image or None,
        )
        _write_record(folder, final_record)
        admission.record_end(plan.results, run, verdict.reason if verdict.again else "")
        if verdict.halts:
            return Conclusion("", False, lambda: self._halt(verdict, folder))

        summary = f"attempt {record.number}: {verdict.outcome} {verdict.reason}"
        return Conclusion(
            summary, verdict.again, lambda: self._publish(final_record, document, evidence)
        )

    def _halt(self, verdict: Verdict, folder: Path) -> int:
        message = _halt_message(self._run, verdict, folder)
        if session_state.declare_halt(self.plan.results, self.key, verdict.reason, message):
            print(message)
            notification.send(self.plan, notification.HALTED, message)
        else:
            print(f"{self.key}: also refused: {verdict.reason}.")
        return HALTED


def _record_start(folder: layout.RunFolder) -> AttemptRecord:
    """Create the folder of the next attempt and record it as running."""
    number = max(folder.attempt_numbers(), default=0) + 1
    folder.attempt(number).mkdir(parents=True)
    record = AttemptRecord(number, run_result.RUNNING, time.time(), str(processes.this_process()))
    _write_record(folder.attempt(number), record)
    return record


def _write_record(folder: Path, record: AttemptRecord) -> None:
    atomic_io.write_json(folder / layout.ATTEMPT, record.as_dict())


def _image(plan: Plan, run: Run) -> tuple[str | None, Evidence | None]:
    """Return the id of the run's verified image, or the evidence that it cannot be used.

    On Modal the id is None, since images are not local.
    """
    docker = plan.config.docker
    try:
        identity = session_state.results_identity(plan.results)
        container_monitor.remove_stale_containers(docker, identity, run.key)
        return verification.ensure_verified(plan, run.image) if docker else "", None
    except EngineError as error:
        detail = f"Docker does not answer: {error}" if docker else str(error)
        return None, Evidence(False, engine_lost=True, detail=detail)
    except UserError as error:
        return None, Evidence(False, image_missing=True, detail=str(error))


def _halt_message(run: Run, verdict: Verdict, folder: Path) -> str:
    if verdict.reason == judgement.SETUP_ERROR:
        log = folder / "cooperbench.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return (
            f"The session starts no more runs: {verdict.reason} ({run.key}).\n"
            f"{lines[-1] if lines else ''}\n{session_state.HALT_ADVICE[verdict.reason]} See {log}."
        )
    calls = [c for c in run_result.attempt_calls(folder) if c.kind != usage.ANSWERED]
    message = calls[-1].error if calls else ""
    advice = session_state.HALT_ADVICE[verdict.reason].format(
        key=run.experiment.model.api_key or "(none is configured)",
        model=run.experiment.model_name,
    )
    return (
        f"The session starts no more runs: {verdict.reason} ({run.key}).\n"
        f"The provider's answer: {message[:300]}\n{advice} "
        "Then start again: finished runs are kept."
    )
