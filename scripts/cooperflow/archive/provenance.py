"""Provenance of the results, and removal of this machine's paths from shared files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, environment, layout, redaction
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import judgement, run_result
from cooperflow.outcomes.run_result import AttemptRecord
from cooperflow.processes import Process

SCHEMA = 1
LOCK = layout.REPOSITORY / "envs" / "requirements.txt"
PACKAGES = ("snakemake", "cooperbench", "litellm", "docker", "pandas", "statsmodels", "scipy")

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^?\s]+)\?\S+")


def collect(plan: Plan) -> dict[str, Any]:
    """Return the document provenance.json, without secrets and paths of this machine."""
    experiments = {
        experiment.run_name: atomic_io.read_json(plan.results.experiment(experiment.run_name))
        for experiment in plan.experiments
    }
    documents = [document for document in experiments.values() if isinstance(document, dict)]
    tasks: dict[str, str] = {}
    revisions: set[str] = set()
    for document in documents:
        resolved = document.get("resolved") or {}
        tasks |= resolved.get("tasks") or {}
        revisions |= (
            {str(resolved["dataset_revision"])} if resolved.get("dataset_revision") else set()
        )
    images = {
        image: atomic_io.read_json(plan.results.sentinel(image)) for image in sorted(plan.images)
    }
    attempts = _Attempts.of(plan)
    facts = {
        "workflow": _version(),
        "git commit": git_commit(layout.REPOSITORY),
        "lock": f"sha256:{file_hash(LOCK)}",
        "data set": f"sha256:{combine_hashes(tasks)}" if tasks else "unknown",
        "data set revision": ", ".join(sorted(revisions)) or "unknown",
        "subset": f"{plan.config.dataset.subset}, {len(plan.pairs)} pairs",
        "Docker": ", ".join(sorted({str(d["docker"]) for d in documents if d.get("docker")}))
        or "?",
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hosts": ", ".join(sorted(attempts.hosts)) or "unknown",
        "attempts": attempts.summary,
        "first attempt": _iso(attempts.first),
        "last attempt": _iso(attempts.last),
        "replay": "yes" if any(d.get("replay") for d in documents) else "no",
        "adopted": ", ".join(str(d["run_name"]) for d in documents if d.get("adopted")) or "none",
    }
    document = {
        "schema": SCHEMA,
        "facts": facts,
        "packages": packages(),
        "config": remove_secrets(plan.config.model_dump()),
        "experiments": remove_secrets(experiments),
        "images": images,
        "tasks": dict(sorted(tasks.items())),
    }
    portable_document: dict[str, Any] = PortablePaths.of(plan).document(document)
    return portable_document


class _Attempts:
    """Counts, hosts and dates of the attempts."""

    def __init__(self) -> None:
        self.hosts: set[str] = set()
        self.count = 0
        self.infra = 0
        self.interrupted = 0
        self.first: float | None = None
        self.last: float | None = None

    @classmethod
    def of(cls, plan: Plan) -> _Attempts:
        counts = cls()
        for run in plan.runs:
            folder = run.folder(plan.results)
            for number in folder.attempt_numbers():
                counts._count(AttemptRecord.read(folder, number))
        return counts

    def _count(self, record: AttemptRecord) -> None:
        self.count += 1
        self.infra += record.outcome == judgement.INFRA_ERROR
        self.interrupted += record.state in (run_result.INTERRUPTED, run_result.RUNNING)
        process = Process.parse(record.process)
        if process is not None:
            self.hosts.add(process.host)
        if record.started:
            self.first = min(self.first or record.started, record.started)
        if record.ended is not None:
            self.last = max(self.last or record.ended, record.ended)

    @property
    def summary(self) -> str:
        return (
            f"{self.count}, of which {self.infra} had an infrastructure error and "
            f"{self.interrupted} were interrupted"
        )


def remove_secrets(value: Any) -> Any:
    """Return a document with users, passwords and queries removed from URLs."""
    if isinstance(value, str):
        return _QUERY.sub(r"\1?...", _CREDENTIALS.sub("...@", value))
    if isinstance(value, dict):
        return {key: remove_secrets(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [remove_secrets(entry) for entry in value]
    return value


def secrets_of(plan: Plan) -> list[str]:
    """Return the keys of the plan's models and the other secrets of the session."""
    return redaction.secrets(plan.config.key_names, os.environ, plan.config.redis.url)


def combine_hashes(hashes: dict[str, str]) -> str:
    """Return one hash of many named hashes."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for part in iter(lambda: stream.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def git_commit(folder: Path) -> str:
    """Return the checked-out commit and whether there are changes."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return "not a git checkout"
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} with changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version() -> str:
    text = (layout.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return f"cooperflow {match[1]}" if match else "cooperflow"


def packages() -> dict[str, str]:
    """Return the versions of the packages that affect the results."""
    return {name: _installed(name) for name in PACKAGES}


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _iso(moment: float | None) -> str:
    if moment is None:
        return "unknown"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def perform(plan: Plan) -> None:
    """Do the work of rule `provenance`."""
    print(write(plan))


def write(plan: Plan) -> Path:
    """Write provenance.json and return its path."""
    path = plan.results.provenance
    atomic_io.write_json(path, collect(plan))
    return path


# Paths that also exist inside containers and therefore do not identify a machine.
_COMMON = ("/", "/root", "/home", "/tmp", "/usr", "/opt", "/var", "/workspace", "/patches")


@dataclass(frozen=True)
class PortablePaths:
    """Replacements of absolute paths by words, the longest path first."""

    words: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, plan: Plan) -> PortablePaths:
        """Return the paths of a plan: its results, data set, recordings, archive and checkout."""
        config = plan.config
        replacements: list[tuple[str | None, str]] = [
            (str(plan.results.root), "results"),
            (config.dataset.dir, "dataset"),
            (config.images.archive, "archive"),
            (str(layout.REPOSITORY), "."),
            (str(layout.REPOSITORY / ".venv"), ".venv"),
            (sys.prefix, ".venv"),
            (str(environment.runtime_folder()), "runtime"),
        ]
        for subset in _as_list(config.dataset.subset):
            if Path(subset).suffix:
                replacements.append((subset, Path(subset).name))
        for model in config.models.values():
            if model is None:
                continue
            adopted = [path for paths in model.adopt.values() for path in _as_list(paths)]
            for path in [*_as_list(model.replay or []), *adopted]:
                replacements.append((path, Path(path).name))
        return cls.named((path, word) for path, word in replacements if path)

    @classmethod
    def named(cls, words_of_paths: Iterable[tuple[str, str]]) -> PortablePaths:
        """Return replacements for the paths, both as given and with links resolved."""
        words: dict[str, str] = {}
        for path, word in words_of_paths:
            for form in (Path(path).absolute(), Path(path).resolve()):
                if str(form) not in _COMMON:
                    words.setdefault(str(form), word)
        return cls(tuple(sorted(words.items(), key=lambda entry: (-len(entry[0]), entry[0]))))

    def text(self, text: str) -> str:
        return self.data(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def data(self, data: bytes) -> bytes:
        """Replace complete occurrences of the paths, also in JSON's encoding."""
        for path, word in self.words:
            for form in dict.fromkeys((path, json.dumps(path)[1:-1])):
                raw = form.encode("utf-8", "surrogateescape")
                if raw in data:
                    data = re.sub(
                        re.escape(raw) + rb"(?![\w-])", word.replace("\\", r"\\").encode(), data
                    )
        return data

    def document(self, value: Any) -> Any:
        """Replace the paths in all strings of a document."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.document(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.document(entry) for entry in value]
        return value


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
