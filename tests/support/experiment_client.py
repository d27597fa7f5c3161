"""Client of the workflow for tests: runs the commands of a user and reads the results."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import yaml
from process_groups import MARKER, kill_group, kill_marked, new_mark, run_group, wait_for
from replay_client import Server

from cooperflow import atomic_io, layout
from cooperflow.engine.containers import RESULTS_LABEL
from cooperflow.outcomes import usage

PYTHON = ".venv/bin/python"
REPOSITORY = Path(__file__).resolve().parents[2]
# A key that no file, log, container or command line may contain, and its variable. Each process of
# a test run has a different key, because tests search the entire machine for theirs.
KEY = f"sk-test-{uuid.uuid4().hex}-never-written-down"
KEY_NAME = "TESTED_KEY"
MODEL = "command-a-03-2025"
INVENTORY = "demo_inventory_task"
TEXTKIT = "demo_textkit_task"
# Repo, task number, and both features.
PairOfDemo = tuple[str, int, int, int]
PAIR: PairOfDemo = (INVENTORY, 1, 1, 2)
# All pairs of the demo; the last pair is out of order, as in the subset.
ALL_PAIRS = (PAIR, (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2), (TEXTKIT, 2, 3, 2))
COMMON = {
    "solo": ["--setting", "solo"],
    "coop-comm": ["--setting", "coop"],
    "coop-nocomm": ["--setting", "coop", "--no-messaging"],
}
# Also includes the settings of single tests.
SETTINGS = {
    **COMMON,
    "team": ["--setting", "team"],
    "coop-git": ["--setting", "coop", "--no-messaging", "--git"],
}
# Time limit for a session to end after SIGINT, seconds.
PATIENCE = 60


def clone_of(folder: Path, skip: tuple[str, ...] = (), environment: bool = True) -> Path:
    """Copy the files that git tracks to ``folder``, except those below ``skip``.

    The clone shares the checkout's installed tools and, with ``environment``, its .venv.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file() and not name.startswith(skip):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    if environment:
        (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    (folder / ".tools").mkdir()
    (folder / ".tools" / "openhands").symlink_to(REPOSITORY / ".tools" / "openhands")
    return folder


def docker_answers() -> bool:
    """True if a Docker engine answers."""
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0


def containers_of(results: Path) -> list[str]:
    """Return all containers with the label of a results folder, running or not."""
    identity = results / ".state" / "id"
    if not identity.exists():
        return []
    chosen = f"label={RESULTS_LABEL}={identity.read_text().strip()}"
    result = subprocess.run(
        ["docker", "ps", "-aq", "--filter", chosen], check=True, capture_output=True, text=True
    )
    return result.stdout.split()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_pairs(path: Path, pairs: Sequence[PairOfDemo]) -> None:
    """Write a table of pairs."""
    rows = ["repo,task_id,feature_a,feature_b", *(",".join(map(str, pair)) for pair in pairs)]
    path.write_text("\n".join(rows) + "\n")


def config_document(
    results: str, subset: str, bases: Mapping[str, str], settings: Sequence[str], **keys: Any
) -> dict[str, Any]:
    """Return the config of an experiment with short limits and without pulls.

    Args:
        bases: the address of each model.
        keys: keys of the config; the entries of a mapping are merged.
    """
    document: dict[str, Any] = {
        "results": results,
        "dataset": {"dir": "demo/dataset", "subset": subset},
        "models": {"command-a": None}
        | {
            name: {"model": MODEL, "api_base": base, "api_key": KEY_NAME}
            for name, base in bases.items()
        },
        "settings": {name: SETTINGS[name] if name in settings else None for name in COMMON}
        | {name: SETTINGS[name] for name in settings if name not in COMMON},
        "limits": {"pause_seconds": 0, "call_tries": 2},
        "preflight": "light",  # a full one adds a call to the ledger
        "images": {"pull": False, "build": True, "free_gb": 1},
        # Own features need two more containers for each coop run; the demo's test includes them.
        "evaluation": {"own_features": False},
    }
    for key, value in keys.items():
        both = isinstance(document.get(key), dict) and isinstance(value, dict)
        document[key] = {**document[key], **value} if both else value
    return document


@dataclass
class Session:
    """A started `snakemake` in its process group, as in a terminal, with its output."""

    process: Popen[bytes]
    log: Path

    @property
    def stdout(self) -> str:
        """The output so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    def poll(self) -> int | None:
        return self.process.poll()

    def wait(self, seconds: float = 400) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(seconds)


@dataclass
class Experiment:
    """An experiment on some pairs of the demo, its model played by a replay server."""

    clone: Path
    results: Path
    config: Path
    server: Server
    # By default the tables only, because plots and report are far slower.
    target: str = "all"
    sessions: list[Session] = field(default_factory=list)
    mark: dict[str, str] = field(default_factory=new_mark)
    wrapper: tuple[str, ...] = ()  # a program that starts Snakemake

    @classmethod
    def new(
        cls,
        clone: Path,
        folder: Path,
        server: Server,
        pairs: Sequence[PairOfDemo] = (PAIR,),
        settings: Sequence[str] = ("solo",),
        **keys: Any,
    ) -> Experiment:
        """Write an experiment's config."""
        folder.mkdir(parents=True)
        table, results, config = folder / "pairs.csv", folder / "results", folder / "config.yaml"
        write_pairs(table, pairs)
        bases = {"tested": server.cohere_url}
        document = config_document(str(results), str(table), bases, settings, **keys)
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        return cls(clone, results, config, server, str(results / "summary.csv"))

    @property
    def logs(self) -> Path:
        """The folder with the output of its sessions."""
        return self.results.parent

    def targets(self) -> list[str]:
        return [self.target]

    def environment(self) -> dict[str, str]:
        return {**self.mark, **os.environ, KEY_NAME: KEY}

    def start(self, *arguments: str) -> Session:
        """Start Snakemake as a user does, by default for the targets with four cores."""
        command = [*self.wrapper, ".venv/bin/snakemake"]
        command += [*(arguments or ("-j", "4", *self.targets())), "--configfile", str(self.config)]
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"session-{len(self.sessions) + 1}.log"
        with log.open("wb") as stream:
            process = Popen(
                command,
                cwd=self.clone,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.sessions.append(Session(process, log))
        return self.sessions[-1]

    def run(self, *arguments: str, seconds: float = 400) -> Session:
        """Run Snakemake until it ends."""
        session = self.start(*arguments)
        try:
            session.wait(seconds)
        except BaseException:
            kill_group(session.process)
            kill_marked(self.environment()[MARKER])
            raise
        return session

    def dry_run(self) -> str:
        """Return the pending jobs that Snakemake prints."""
        return self.run("--dry-run", *self.targets()).stdout

    def wait_until(
        self, session: Session, condition: Callable[[], Any], seconds: float = 60
    ) -> None:
        """Wait until ``condition`` is true; fail with the output if the session ends earlier."""

        def is_settled() -> bool:
            return bool(condition()) or session.poll() is not None

        try:
            wait_for(is_settled, seconds, every=0.2)  # the call logs are read each time
        except TimeoutError:
            os.killpg(session.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                session.wait(PATIENCE)
            kill_group(session.process)
            raise AssertionError(f"not within {seconds} s:\n{session.stdout}") from None
        # The condition may have become true with the process's last step.
        assert condition(), f"ended before:\n{session.stdout}"

    def script(
        self, name: str, *arguments: str, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the workflow."""
        command = [PYTHON, f"scripts/commands/{name}.py", "--configfile", str(self.config)]
        return run_group([*command, *arguments], seconds, cwd=self.clone, env=self.environment())

    def end(self) -> None:
        for session in self.sessions:
            kill_group(session.process)

    def rows(self) -> list[dict[str, str]]:
        return read_csv(self.results / "runs.csv")

    def summary(self) -> list[dict[str, str]]:
        return read_csv(self.results / "summary.csv")

    def recorded_tokens(self) -> tuple[int, int]:
        """Return the input and output tokens in runs.csv."""
        rows = self.rows()
        return sum(int(r["input_tokens"]) for r in rows), sum(int(r["output_tokens"]) for r in rows)

    def count_recorded_calls(self) -> int:
        """Return the number of model calls recorded as started so far."""
        return sum(record["event"] == "start" for log in self.call_logs() for record in log)

    def count_unanswered_calls(self) -> int:
        """Return the number of recorded calls without an answer."""
        logs = self.call_logs()
        return sum(call.kind != usage.ANSWERED for log in logs for call in usage.calls(log))

    def call_logs(self, excluded: str = "") -> Iterator[list[dict[str, Any]]]:
        """Yield the records of each call log, except those of the run name ``excluded``."""
        for folder in (self.results / "runs").rglob("attempts/*"):
            if not (excluded and excluded in folder.parts):
                yield atomic_io.read_lines(folder / layout.CALLS)


def ledger_tokens(server: Server) -> tuple[int, int]:
    """Return input and output tokens of all calls that a replay server answered."""
    answered = [line for line in server.ledger() if line["answered"]]
    return (
        sum(line["input_tokens"] for line in answered),
        sum(line["output_tokens"] for line in answered),
    )
