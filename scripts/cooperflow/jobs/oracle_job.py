"""Job of the rule `oracle_pair`: one repetition of the evaluations of a pair's gold patches."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cooperflow import atomic_io, layout
from cooperflow.attempt import evaluation
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan
from cooperflow.images import disk_space, verification
from cooperflow.jobs.job import DONE, Conclusion, Job, Try
from cooperflow.layout import Pair
from cooperflow.outcomes import oracle, patch_text, run_result
from cooperflow.outcomes.oracle import Probe

SCHEMA = 1


@dataclass(frozen=True)
class Repetition:
    """A repetition of the evaluations of a pair's gold patches."""

    pair: Pair
    number: int


def find(plan: Plan, key: str) -> Repetition:
    """Return the repetition with a key of the form oracle/{pair}/{number}.

    Raises:
        UserError: the config has no such pair.
    """
    folder, _, number = key.removeprefix("oracle/").rpartition("/")
    return Repetition(plan.pair(folder), int(number))


def perform(plan: Plan, repetition: Repetition, this_try: Try) -> int:
    """Evaluate the gold patches of a pair; return the exit code of the job."""
    return OracleJob(plan, repetition, this_try).perform()


class OracleJob(Job):
    """One repetition of a pair's oracle."""

    def __init__(self, plan: Plan, repetition: Repetition, this_try: Try) -> None:
        pair, number = repetition.pair, repetition.number
        super().__init__(plan, f"oracle/{pair.folder}/{number}", this_try)
        self._pair, self._number = pair, number

    def execute(self) -> Conclusion:
        plan, pair = self.plan, self._pair
        patches, kind = gold_patches(Path(plan.config.dataset.dir), pair)
        image, refusal = _image(plan, pair)
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
        caveats = patch_text.all_caveats(
            content for files in patches.values() for content in files.values()
        )
        return Conclusion(summary, again, lambda: self._publish(probes, image, kind, caveats))

    def _publish(
        self, probes: Mapping[str, Probe], image: str | None, kind: str, caveats: object
    ) -> int:
        plan, pair, number = self.plan, self._pair, self._number
        document = {
            "schema": SCHEMA,
            "repo": pair.repo,
            "task_id": pair.task_id,
            "features": list(pair.sorted_features),
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
        run_result.mark_broken(plan.results, marker, str(pair), is_broken)
        atomic_io.write_json(plan.results.oracle_repeat(pair, number), document)
        row = oracle.row(pair, [document])
        print(f"{self.key}: {row['status']} {row['reason']} ({row['seconds']} s for solo)")
        return DONE

    def _probe(self, name: str, patches: Mapping[str, bytes], image: str | None) -> Probe:
        """Evaluate one set of patches, or return the result of an interrupted try."""
        pair = self._pair
        folder = self.plan.results.oracle(pair) / str(self._number) / name
        previous = atomic_io.read_json(folder / "probe.json")
        if isinstance(previous, dict) and previous.get("image_id", image) == image:
            return Probe.parse(previous)
        mode = oracle.COOP if name == oracle.COOP else oracle.SOLO
        shutil.rmtree(folder / "patches", ignore_errors=True)
        (folder / "patches").mkdir(parents=True)
        files = {}
        result = evaluation.minimal_result(pair, mode)
        for file, content in {**patches, "result.json": result}.items():
            files[file] = folder / "patches" / file
            files[file].write_bytes(content)
        started = time.monotonic()
        subject = evaluation.Subject(f"{self.key}/{name}", "oracle", mode, pair, files)
        document = evaluation.evaluate(self.plan, subject, evaluation.next_folder(folder / "evals"))
        probe = oracle.probe(document, time.monotonic() - started)
        if not probe.broke:
            atomic_io.write_json(folder / "probe.json", {"image_id": image, **probe.as_dict()})
        return probe

    def release(self) -> None:
        disk_space.remove_unneeded(self.plan, self._pair.image)


def _image(plan: Plan, pair: Pair) -> tuple[str | None, str]:
    """Return the id of the pair's image on the engine, or the reason why it must not be used."""
    if not plan.config.docker:
        return (atomic_io.read_json(plan.results.sentinel(pair.image)) or {}).get("id"), ""
    try:
        return verification.ensure_same(plan, pair.image), ""
    except (EngineError, UserError) as error:
        return None, str(error)


def gold_patches(root: Path, pair: Pair) -> tuple[dict[str, dict[str, bytes]], str]:
    """Return each probe's patches by upstream's file names, and the kind of the solo patch.

    The data set's combined.patch has all features of a task and is the solution that its authors
    verified. For a task without it the patches of the two features are concatenated, which
    `git apply` accepts as long as they do not change the same lines.
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
