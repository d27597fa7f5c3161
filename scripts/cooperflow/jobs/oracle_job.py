"""One repetition of a pair's oracle: its gold patches and the control, through upstream's eval."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cooperflow import atomic_io, locks, session_lock
from cooperflow.attempt import evaluation
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan
from cooperflow.images import local_image, rolling
from cooperflow.jobs.attempt_number import DONE, INTERRUPTED, TRY_AGAIN, Try, claim_seconds
from cooperflow.layout import Pair
from cooperflow.outcomes import oracle, patch_text
from cooperflow.outcomes.oracle import Probe
from cooperflow.processes import Interrupted

SCHEMA = 1


@dataclass(frozen=True)
class Repetition:
    """One of several times that the gold patches of a pair are graded."""

    pair: Pair
    number: int


def find(plan: Plan, key: str) -> Repetition:
    """Return the repetition of that key: oracle/, a pair's path, and the number.

    Raises:
        UserError: the config has no such pair.
    """
    folder, _, number = key.removeprefix("oracle/").rpartition("/")
    return Repetition(plan.pair(folder), int(number))


def perform(plan: Plan, this_one: Repetition, this: Try) -> int:
    """Grade the gold patches of a pair once more; return the job's exit code."""
    pair, number = this_one.pair, this_one.number
    key = f"oracle/{pair.folder}/{number}"
    try:
        if orphaned := session_lock.orphaned(plan.results):
            print(f"{key}: not begun: {orphaned}.")
            return INTERRUPTED
        with locks.claim(plan.results.claims, key, claim_seconds(plan)):
            code = _repetition(plan, pair, number, key, this)
        rolling.release(plan, pair.image)
        return code
    except Interrupted as why:
        print(f"{key}: ended: {why}")
        return INTERRUPTED


def _repetition(plan: Plan, pair: Pair, number: int, key: str, this: Try) -> int:
    folder = plan.results.oracle(pair)
    place = folder / str(number)
    patches, kind = gold_patches(Path(plan.config.dataset.dir), pair)
    probes: dict[str, Probe] = {}
    image, refused = _image(plan, pair)
    if refused:
        print(f"{key}: not evaluated: {refused}")
        if not this.last:
            return TRY_AGAIN
        probes = dict.fromkeys(oracle.PROBES, Probe.without_verdict(refused))
    for name in oracle.PROBES if not refused else ():
        probes[name] = _probe(plan, pair, key, name, patches[name], place / name, image)
        if probes[name].broke and not this.last:
            print(f"{key}: {name}: grading broke ({probes[name].broke}); tried again.")
            return TRY_AGAIN
    document = {
        "schema": SCHEMA,
        "repo": pair.repo,
        "task_id": pair.task_id,
        "features": list(pair.sorted_features),
        "repeat": number,
        "solo_patch": kind,
        "task_hash": dataset.task_hash(Path(plan.config.dataset.dir), pair.repo, pair.task_id),
        "image_id": image,
        "patch_text": patch_text.all_caveats(
            content for files in patches.values() for content in files.values()
        ),
        "probes": {name: probe.as_dict() for name, probe in probes.items()},
        "time": time.time(),
    }
    _note(plan, pair, number, any(probe.broke for probe in probes.values()))
    atomic_io.write_json(plan.results.oracle_repeat(pair, number), document)
    told = oracle.row(pair, [document])
    print(f"{key}: {told['status']} {told['reason']} ({told['seconds']} s for solo)")
    return DONE


def _image(plan: Plan, pair: Pair) -> tuple[str | None, str]:
    """Return the id of the pair's image as the engine gives it, or why it must not be used."""
    if not plan.config.docker:
        return (atomic_io.read_json(plan.results.sentinel(pair.image)) or {}).get("id"), ""
    try:
        return local_image.ensure(plan, pair.image), ""
    except (EngineError, UserError) as error:
        return None, str(error)


def _probe(
    plan: Plan,
    pair: Pair,
    key: str,
    name: str,
    patches: Mapping[str, bytes],
    place: Path,
    image: str | None,
) -> Probe:
    """Evaluate one set of patches, or return what an interrupted try found with this image."""
    done = atomic_io.read_json(place / "probe.json")
    if isinstance(done, dict) and done.get("image_id", image) == image:
        return Probe.parse(done)
    mode = oracle.COOP if name == oracle.COOP else oracle.SOLO
    shutil.rmtree(place / "patches", ignore_errors=True)
    (place / "patches").mkdir(parents=True)
    files = {}
    for file, content in {**patches, "result.json": _result(pair, mode)}.items():
        files[file] = place / "patches" / file
        files[file].write_bytes(content)
    begun = time.monotonic()
    subject = evaluation.Subject(f"{key}/{name}", "oracle", mode, pair, files)
    document = evaluation.grade(plan, subject, evaluation.new_place(place / "evals"))
    found = oracle.probe(document, time.monotonic() - begun)
    if not found.broke:
        atomic_io.write_json(place / "probe.json", {"image_id": image, **found.as_dict()})
    return found


def gold_patches(root: Path, pair: Pair) -> tuple[dict[str, dict[str, bytes]], str]:
    """Return the patches of each probe by upstream's file names, and what the solo one is made of.

    The data set's combined.patch has all features of a task and is the solution that its makers
    verified. Where a task has none, the patches of the two features stand one after the other in
    one file, which `git apply` takes as long as they do not touch the same lines.
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
        oracle.CONTROL: {"solo.patch": oracle.CONTROL_PATCH.encode()},
    }
    return patches, kind


def _result(pair: Pair, mode: str) -> bytes:
    """Return the document beside the patches, without which upstream finds no run."""
    a, b = pair.sorted_features
    text = f'{{"repo": "{pair.repo}", "task_id": {pair.task_id}, "features": [{a}, {b}], '
    return (text + f'"setting": "{mode}", "workflow": "oracle"}}\n').encode()


def name_of(pair: Pair, number: int) -> str:
    """Return the name of a repetition's note, should its grading break to the end."""
    return f"oracle--{pair.folder.replace('/', '--')}--{number}"


def _note(plan: Plan, pair: Pair, number: int, broke: bool) -> None:
    """Leave a note of a broken grading: newer than the document, so that it is done again."""
    for note in plan.results.broken_evals.glob(f"{name_of(pair, number)}.*"):
        note.unlink(missing_ok=True)
    if broke:
        name = f"{name_of(pair, number)}.{time.time_ns()}"
        atomic_io.write_text(plan.results.broken_evals / name, f"{pair}\n")
