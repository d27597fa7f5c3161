"""Evaluation: one call of upstream's `eval` on patches of one pair: a run's, one agent's, gold."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, environment, layout, processes, session_state
from cooperflow.attempt import child_process, container_monitor, supervisor
from cooperflow.attempt.attempt import new_token
from cooperflow.engine import containers, modal_sandboxes
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment.plan import Plan
from cooperflow.images import verification
from cooperflow.layout import Pair


@dataclass(frozen=True)
class Subject:
    """The files of an evaluation: patches under upstream's file names, and a result.json."""

    key: str  # its name in messages and on its containers
    run_name: str
    mode: str  # solo, coop, team
    pair: Pair
    files: Mapping[str, Path]


def minimal_result(pair: Pair, mode: str) -> bytes:
    """Return the result.json that upstream's evaluation needs beside patches of no run."""
    document = {
        "repo": pair.repo,
        "task_id": pair.task_id,
        "features": list(pair.sorted_features),
        "setting": mode,
    }
    return (json.dumps(document) + "\n").encode()


def evaluate(plan: Plan, subject: Subject, folder: Path) -> dict[str, Any] | None:
    """Run upstream's tests on the patches; return its document, None if the evaluation broke.

    ``folder`` keeps the document, the log and the engine's events of this evaluation; it becomes
    an archive unless the evaluation broke.
    """
    pair = subject.pair
    logs = folder / "logs"
    staged = logs / subject.run_name / subject.mode / pair.folder
    staged.mkdir(parents=True)
    for name, path in subject.files.items():
        (staged / name).symlink_to(os.path.relpath(path.resolve(), staged.resolve()))
    labels = Labels.new(
        session_state.results_identity(plan.results), f"eval {subject.key}", new_token()
    )
    with environment.scratch_folder() as scratch:
        stop_note = scratch / "stopped"
        stop_note.touch()
        try:
            _prepare(plan, labels, pair)
        except (EngineError, UserError) as error:
            print(error)
            return None
        report = supervisor.watch(
            child_process.Command(
                arguments=_arguments(plan, subject, logs),
                log=folder / "cooperbench.log",
                stop_note=stop_note,
                labels=labels.as_dict(),
                tags=None if plan.config.docker else modal_sandboxes.tags(labels),
                sdk_arguments=containers.limits(plan.config.containers)[1],
                command_seconds=plan.config.limits.test_seconds,
            ),
            container_monitor.create_monitor(plan.config.docker, folder, labels, stop_note, None),
            lambda: float(plan.config.limits.eval_seconds),
        )
    document = _replace_surrogates(atomic_io.read_json(staged / layout.EVAL))
    with contextlib.suppress(OSError):
        (staged / layout.EVAL).replace(folder / layout.EVAL)
    shutil.rmtree(logs, ignore_errors=True)
    failures = {
        "time limit": report.timed_out,
        "disk full": report.disk_full,
        "docker": report.containers.engine_lost
        or report.containers.engine_stalled > report.seconds / 2,
        "container died": report.containers.fates.died > 0,
        "out of memory": report.containers.fates.oom > 0,
        f"exit code {report.exit_code}": bool(report.exit_code),
        "no complete document": not isinstance(document, dict),
    }
    reasons = [name for name, is_true in failures.items() if is_true]
    if reasons:
        print(f"{subject.key}: evaluation broke: {', '.join(reasons)}; see {folder}")
        return None
    with contextlib.suppress(OSError):  # it stays a folder, which is read as well
        atomic_io.pack_folder(folder)
    return document


def _replace_surrogates(document: Any) -> Any:
    """Return a document without unpaired surrogates, which UTF-8 cannot encode.

    They represent bytes of a patch that are not UTF-8; upstream quotes merged patches.
    """
    text = json.dumps(document, ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace"))


def _prepare(plan: Plan, labels: Labels, pair: Pair) -> None:
    """Remove containers of earlier tries, and on a cluster provide the image on this node."""
    container_monitor.remove_stale_containers(plan.config.docker, labels.results, labels.run)
    if plan.config.docker and processes.on_a_node():
        verification.ensure_same(plan, pair.image)


def next_folder(folder: Path) -> Path:
    """Return the numbered subfolder of ``folder`` for the next try, without creating it."""
    entries = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    names = [name.removesuffix(atomic_io.ARCHIVE) for name in entries]
    numbers = [int(name) for name in names if name.isdigit()]
    return folder / str(max(numbers, default=0) + 1)


def _arguments(plan: Plan, subject: Subject, logs: Path) -> list[str]:
    pair = subject.pair
    a, b = pair.features
    arguments = ["eval", "-n", subject.run_name, "-r", pair.repo, "-t", str(pair.task_id)]
    arguments += ["-f", f"{a},{b}", "--backend", plan.config.backend]
    arguments += ["--dataset-dir", str(Path(plan.config.dataset.dir).resolve())]
    return [*arguments, "--log-dir", str(logs.resolve()), "-c", "1"]
