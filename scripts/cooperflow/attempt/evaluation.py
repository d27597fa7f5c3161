"""One call of upstream's `eval` on the patches of one pair: the one path that all gradings take."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout, processes, runtime_dir, session_lock
from cooperflow.attempt import child_process, container_monitor, supervisor
from cooperflow.engine import containers, modal_sandboxes
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment.plan import Plan
from cooperflow.images import local_image
from cooperflow.layout import Pair


@dataclass(frozen=True)
class Subject:
    """What is graded: patches under the names that upstream gives them, and a result.json."""

    key: str  # names it in messages and on its containers
    run_name: str
    mode: str  # solo, coop, team
    pair: Pair
    files: Mapping[str, Path]


def grade(plan: Plan, subject: Subject, place: Path) -> dict[str, Any] | None:
    """Have upstream test the patches; return its document, None if it broke on the way.

    ``place`` keeps the document, the log and the engine's events of this try.
    """
    pair = subject.pair
    logs = place / "logs"
    staged = logs / subject.run_name / subject.mode / pair.folder
    staged.mkdir(parents=True)
    for name, path in subject.files.items():
        (staged / name).symlink_to(os.path.relpath(path.resolve(), staged.resolve()))
    labels = Labels.new(
        session_lock.identity(plan.results), f"eval {subject.key}", supervisor.new_token()
    )
    with runtime_dir.scratch() as scratch:
        stop_note = scratch / "put-away"
        stop_note.touch()
        try:
            _make_way(plan, labels, pair)
        except (EngineError, UserError) as error:
            print(error)
            return None
        watched = supervisor.watch(
            child_process.Command(
                arguments=_arguments(plan, subject, logs),
                log=place / "cooperbench.log",
                stop_note=stop_note,
                labels=labels.as_dict(),
                tags=None if plan.config.docker else modal_sandboxes.tags(labels),
                sdk_arguments=containers.limits(plan.config.containers)[1],
                command_seconds=plan.config.limits.test_seconds,
            ),
            container_monitor.place(plan.config.docker, place, labels, stop_note, None),
            lambda: float(plan.config.limits.eval_seconds),
        )
    document = _writable(atomic_io.read_json(staged / layout.EVAL))
    with contextlib.suppress(OSError):
        (staged / layout.EVAL).replace(place / layout.EVAL)
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
        print(f"{subject.key}: grading broke: {', '.join(found)}; see {place}")
        return None
    return document


def _writable(document: Any) -> Any:
    """Return a document without halves of surrogate pairs, which no file in UTF-8 can hold.

    They stand for the bytes of a patch that are not UTF-8; upstream quotes patches it merged.
    """
    text = json.dumps(document, ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace"))


def _make_way(plan: Plan, labels: Labels, pair: Pair) -> None:
    """Remove what earlier tries left, and see to the image where the job landed."""
    container_monitor.sweep(plan.config.docker, labels.results, labels.run)
    if plan.config.docker and processes.on_a_node():
        local_image.ensure(plan, pair.image)


def new_place(folder: Path) -> Path:
    """Return a numbered subfolder of ``folder`` for the next try; it is not made yet."""
    numbers = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return folder / str(max(numbers, default=0) + 1)


def _arguments(plan: Plan, subject: Subject, logs: Path) -> list[str]:
    pair = subject.pair
    a, b = pair.features
    arguments = ["eval", "-n", subject.run_name, "-r", pair.repo, "-t", str(pair.task_id)]
    arguments += ["-f", f"{a},{b}", "--backend", plan.config.backend]
    arguments += ["--dataset-dir", str(Path(plan.config.dataset.dir).resolve())]
    return [*arguments, "--log-dir", str(logs.resolve()), "-c", "1"]
