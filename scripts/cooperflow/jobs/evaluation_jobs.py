"""Evaluation jobs (rules eval, own and oracle_pair): run the benchmark's tests on patches."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout
from cooperflow.analysis import losses
from cooperflow.analysis.losses import OwnFeature
from cooperflow.attempt import supervisor
from cooperflow.attempt.supervisor import Subject
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import disk_space, verification
from cooperflow.jobs import admission
from cooperflow.jobs.job import DONE, FAILED, Conclusion, Job, Try, corrupt_result
from cooperflow.layout import Pair
from cooperflow.outcomes import judgement, patch_text, run_result
from cooperflow.outcomes.judgement import Verdict
from cooperflow.outcomes.run_result import RunRecord
from cooperflow.tables import oracle
from cooperflow.tables.oracle import Probe
from cooperflow.upstream import result_files

SCHEMA = 1


class _RunEvaluation(Job):
    """Base of the jobs that evaluate the patches of one run."""

    def __init__(
        self, plan: Plan, run: Run, key: str, this_try: Try, lock: str | None = None
    ) -> None:
        super().__init__(plan, key, this_try, lock)
        self._run = run
        self._folder = run.folder(plan.results)

    def admission(self) -> contextlib.AbstractContextManager[None]:
        return admission.breaker_admission(self.plan, self._run, evaluation=True)


class EvalJob(_RunEvaluation):
    """The evaluation of one run."""

    def __init__(self, plan: Plan, run: Run, this_try: Try) -> None:
        super().__init__(plan, run, run.key, this_try, lock=f"eval {run.key}")

    def folders(self) -> Iterable[Path]:
        folder = self._folder
        # The run may have been killed after its result was written, while it compressed its
        # attempt.
        return folder.path, folder.evals, *map(folder.attempt, folder.attempt_numbers())

    def execute(self) -> Conclusion:
        folder, run = self._folder, self._run
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is None:
            return corrupt_result(folder.result)
        if record.outcome is not None:
            final = Verdict(record.outcome, record.reason)
            return Conclusion("", False, lambda: self._publish(None, final, 0.0))
        start = time.monotonic()
        subject = Subject(
            key=run.key,
            run_name=run.experiment.run_name,
            mode=run.experiment.setting.mode,
            pair=run.pair,
            files={p.name: p for p in [folder.result, *folder.path.glob("*.patch")]},
        )
        document = supervisor.run_evaluation(self.plan, subject, next_folder(folder.evals))
        verdict = run_result.verdict_of(document, folder.path, record.reason)

        def publish() -> int:
            return self._publish(document, verdict, time.monotonic() - start, verbose=True)

        return Conclusion(f"evaluation: {verdict.outcome} {verdict.reason}", verdict.again, publish)

    def _publish(
        self,
        document: Mapping[str, Any] | None,
        verdict: Verdict,
        seconds: float,
        verbose: bool = False,
    ) -> int:
        run = self._run
        complete = document or run_result.untested_document(run, verdict)
        run_result.publish_verdict(self.plan.results, run, complete, verdict, seconds)
        if verbose:
            print(f"{run.key}: {verdict.outcome} {verdict.reason} {verdict.caveat}".rstrip())
            if judgement.NO_TESTS_RUN in verdict.caveat:
                print(f"{run.key}: no test ran for feature {_untested_features(run, complete)}.")
        return DONE

    def release(self) -> None:
        for image in dict.fromkeys((self._run.image, self._run.pair.image)):
            disk_space.remove_unneeded(self.plan, image)


def _untested_features(run: Run, document: Mapping[str, Any]) -> str:
    """Return the data set's numbers of the features for which no test ran."""
    numbered = enumerate(run.pair.sorted_features, start=1)
    counts = {f: judgement.count_tests(result_files.output_of(document, n)) for n, f in numbered}
    return " and ".join(str(feature) for feature, count in counts.items() if not count)


class OwnJob(_RunEvaluation):
    """The evaluation of each agent's own feature in one run."""

    def __init__(self, plan: Plan, run: Run, this_try: Try) -> None:
        super().__init__(plan, run, f"own {run.key}", this_try)

    def folders(self) -> Iterable[Path]:
        agents = ("agent1", "agent2")
        return (self._folder.path, *map(self._folder.own_evals, agents))

    def execute(self) -> Conclusion:
        folder, run = self._folder, self._run
        record = RunRecord.read(atomic_io.read_json(folder.result))
        if record is None:
            return corrupt_result(folder.result)
        is_infra = record.outcome == judgement.INFRA_ERROR
        reason = record.reason or judgement.INFRA_ERROR if is_infra else ""
        if run.experiment.has_outcomes_only:
            reason = losses.NO_PATCH  # unknown, not failed, because a public record has no patches
        own: dict[str, OwnFeature] = {}
        for number, feature in enumerate(run.pair.sorted_features, start=1):
            own[f"agent{number}"] = self._evaluate_feature(number, feature, reason)
            if own[f"agent{number}"].broke and not self.this_try.last:
                return Conclusion("evaluation broke", True, lambda: FAILED)
        return Conclusion("", False, lambda: self._publish(own))

    def _evaluate_feature(self, number: int, feature: int, reason: str) -> OwnFeature:
        """Return the verdict on the patch of agent ``number``; run the tests if necessary."""
        run, path = self._run, self._folder.path / result_files.patch_name(feature)
        patch = path.read_bytes() if path.is_file() else None
        untested = losses.judge_untested(feature, patch, reason)
        if untested is not None or patch is None:
            return untested or OwnFeature(feature, None)
        folder = next_folder(self._folder.own_evals(f"agent{number}"))
        folder.mkdir(parents=True)
        document = folder / "solo.json"
        document.write_bytes(minimal_result(run.pair, "solo"))
        subject = Subject(
            key=f"{run.key} agent{number} alone",
            run_name=run.experiment.run_name,
            mode="solo",
            pair=run.pair,
            files={"solo.patch": path, "result.json": document},
        )
        start = time.monotonic()
        tested = supervisor.run_evaluation(self.plan, subject, folder)
        seconds = time.monotonic() - start
        return losses.judge_tested(feature, number, patch, tested, seconds)

    def _publish(self, own: Mapping[str, OwnFeature]) -> int:
        plan, run = self.plan, self._run
        document = losses.make_document(run.pair.identity, own)
        marker = layout.own_marker(run.dashed)
        is_broken = any(verdict.broke for verdict in own.values())
        run_result.write_evaluation(
            plan.results, self._folder.own, document, marker, run.key, is_broken
        )
        run_result.make_stale(plan.results, self._folder.own)
        texts = {True: "passed", False: "failed", None: "unknown"}
        for agent, verdict in own.items():
            print(f"{run.key}: {agent} alone: {texts[verdict.passed]} {verdict.reason}".rstrip())
        return DONE

    def release(self) -> None:
        disk_space.remove_unneeded(self.plan, self._run.pair.image)


@dataclass(frozen=True)
class Repetition:
    """One repetition of the evaluations of a pair's gold patches."""

    pair: Pair
    number: int


class OracleJob(Job):
    """One repetition of the oracle's evaluations of a pair."""

    def __init__(self, plan: Plan, repetition: Repetition, this_try: Try) -> None:
        pair, number = repetition.pair, repetition.number
        super().__init__(plan, f"oracle/{pair.folder}/{number}", this_try)
        self._pair, self._number = pair, number
        self._folder = plan.results.oracle(pair) / str(number)

    def folders(self) -> Iterable[Path]:
        probes = [self._folder / name for name in (*oracle.PROBES, *oracle.OWN)]
        return (*probes, *(probe / "evals" for probe in probes))

    @staticmethod
    def find(plan: Plan, key: str) -> Repetition:
        """Return the repetition with a key of the form oracle/{pair}/{number}.

        Raises:
            UserError: the config has no such pair.
        """
        folder, _, number = key.removeprefix("oracle/").rpartition("/")
        return Repetition(plan.pair(folder), int(number))

    def execute(self) -> Conclusion:
        plan, pair = self.plan, self._pair
        patches, kind = gold_patches(Path(plan.config.dataset.dir), pair)
        image, refusal = _pair_image(plan, pair)
        probes: dict[str, Probe] = {}
        names = oracle.PROBES + (oracle.OWN if plan.config.evaluation.own_features else ())
        summary, again = f"not evaluated: {refusal}", bool(refusal)
        if refusal:
            probes = dict.fromkeys(names, Probe.without_verdict(refusal))
            if self.this_try.last:
                print(f"{self.key}: {summary}")
        for name in names if not refusal else ():
            probes[name] = self._probe(name, patches[name], image)
            if probes[name].broke and not self.this_try.last:
                summary, again = f"{name}: evaluation broke ({probes[name].broke})", True
                break
        caveats = patch_text.collect_caveats(
            content for files in patches.values() for content in files.values()
        )
        return Conclusion(summary, again, lambda: self._publish(probes, image, kind, caveats))

    def _publish(
        self, probes: Mapping[str, Probe], image: str | None, kind: str, caveats: object
    ) -> int:
        plan, pair, number = self.plan, self._pair, self._number
        document = {
            "schema": SCHEMA,
            **pair.identity,
            "repeat": number,
            "solo_patch": kind,
            "task_hash": dataset.task_hash(Path(plan.config.dataset.dir), pair.repo, pair.task_id),
            "image_id": image,
            "patch_text": caveats,
            "probes": {name: probe.as_dict() for name, probe in probes.items()},
            "time": time.time(),
        }
        marker = layout.oracle_marker(pair.folder, number)
        is_broken = any(probe.broke for probe in probes.values())
        path = plan.results.oracle_repeat(pair, number)
        run_result.write_evaluation(plan.results, path, document, marker, str(pair), is_broken)
        row = oracle.row(pair, [document])
        print(f"{self.key}: {row['status']} {row['reason']} ({row['seconds']} s for solo)")
        return DONE

    def _probe(self, name: str, patches: Mapping[str, bytes], image: str | None) -> Probe:
        """Evaluate one set of patches, or return the result that an interrupted try has left."""
        pair = self._pair
        folder = self._folder / name
        previous = atomic_io.read_json(folder / "probe.json")
        if isinstance(previous, dict) and previous.get("image_id", image) == image:
            return Probe.parse(previous)
        mode = oracle.COOP if name == oracle.COOP else oracle.SOLO
        shutil.rmtree(folder / "patches", ignore_errors=True)
        (folder / "patches").mkdir(parents=True)
        files = {}
        result = minimal_result(pair, mode)
        for file, content in {**patches, "result.json": result}.items():
            files[file] = folder / "patches" / file
            files[file].write_bytes(content)
        start = time.monotonic()
        subject = Subject(f"{self.key}/{name}", "oracle", mode, pair, files)
        document = supervisor.run_evaluation(self.plan, subject, next_folder(folder / "evals"))
        probe = oracle.probe(document, time.monotonic() - start)
        if not probe.broke:
            atomic_io.write_json(folder / "probe.json", {"image_id": image, **probe.as_dict()})
        return probe

    def release(self) -> None:
        disk_space.remove_unneeded(self.plan, self._pair.image)


def _pair_image(plan: Plan, pair: Pair) -> tuple[str | None, str]:
    """Return the id of the pair's local image, and the reason if it must not be used."""
    if not plan.config.docker:
        return atomic_io.read_object(plan.results.sentinel(pair.image)).get("id"), ""
    try:
        return verification.ensure_verified(plan, pair.image), ""
    except (EngineError, UserError) as error:
        return None, str(error)


def gold_patches(root: Path, pair: Pair) -> tuple[dict[str, dict[str, bytes]], str]:
    """Return the patches of each probe by upstream's file names, and the kind of the solo patch.

    The data set's combined.patch contains all features of a task, as its authors verified them. For
    a task without it, the patches of the two features are concatenated, which `git apply` accepts
    if they do not change the same lines.
    """
    folder = dataset.task_folder(root, pair.repo, pair.task_id)
    single = {n: (folder / f"feature{n}" / "feature.patch").read_bytes() for n in pair.features}
    combined = folder / "combined.patch"
    if combined.is_file():
        solo, kind = combined.read_bytes(), "combined"
    else:
        solo = b"".join(single[n].rstrip(b"\n") + b"\n" for n in pair.sorted_features)
        kind = "stacked"
    patches = {
        oracle.SOLO: {"solo.patch": solo},
        oracle.COOP: {f"agent{n}.patch": single[n] for n in pair.features},
        **{
            name: {"solo.patch": single[n]}
            for name, n in zip(oracle.OWN, pair.sorted_features, strict=True)
        },
        oracle.CONTROL: {"solo.patch": oracle.CONTROL_PATCH.encode()},
    }
    return patches, kind


def minimal_result(pair: Pair, mode: str) -> bytes:
    """Return the result.json that upstream's evaluation needs for patches that no run made."""
    return (json.dumps({**pair.identity, "setting": mode}) + "\n").encode()


def next_folder(folder: Path) -> Path:
    """Return the path of the numbered subfolder of ``folder`` for the next try."""
    entries = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    names = [name.removesuffix(atomic_io.ARCHIVE) for name in entries]
    numbers = [int(name) for name in names if name.isdigit()]
    return folder / str(max(numbers, default=0) + 1)
