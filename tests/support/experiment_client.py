"""Client of the workflow for tests: runs the user's commands and reads the results."""

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
# A key that no file, log, container or command line may hold, and the variable that has it.
# Each process of a test run has its own: tests search the whole machine for theirs.
KEY = f"sk-test-{uuid.uuid4().hex}-never-written-down"
KEY_NAME = "TESTED_KEY"
MODEL = "command-a-03-2025"
INVENTORY = "demo_inventory_task"
TEXTKIT = "demo_textkit_task"
# Repo, number of the task, its two features.
PairOfDemo = tuple[str, int, int, int]
PAIR: PairOfDemo = (INVENTORY, 1, 1, 2)
# All pairs of the demo; its subset has the last one out of order as well.
ALL_PAIRS = (PAIR, (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2), (TEXTKIT, 2, 3, 2))
COMMON = {
    "solo": ["--setting", "solo"],
    "coop-comm": ["--setting", "coop"],
    "coop-nocomm": ["--setting", "coop", "--no-messaging"],
}
# Those of single tests too.
SETTINGS = {
    **COMMON,
    "team": ["--setting", "team"],
    "coop-git": ["--setting", "coop", "--no-messaging", "--git"],
}
# Time limit for a session to end after SIGINT, seconds.
PATIENCE = 60


def clone_of(folder: Path, skip: tuple[str, ...] = (), environment: bool = True) -> Path:
    """Copy the files that git knows to ``folder``, but those below ``skip``.

    The clone shares the checkout's installed parts; ``environment``: its .venv too.
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
    """All containers that carry the label of a results folder, running or not."""
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
    """Return the config of an experiment, with short limits and nothing pulled.

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
        "preflight": "light",  # else its call of one token is in the server's ledger
        "images": {"pull": False, "build": True, "free_gb": 1},
        # Two containers more for each coop run; the demo's test has them.
        "evaluation": {"own_features": False},
    }
    for key, value in keys.items():
        both = isinstance(document.get(key), dict) and isinstance(value, dict)
        document[key] = {**document[key], **value} if both else value
    return document


@dataclass
class Session:
    """A `snakemake` that was started, in a process group as by a terminal, with its output."""

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
        """Return the exit code when it has ended by itself."""
        return self.process.wait(seconds)


@dataclass
class Experiment:
    """An experiment on some pairs of the demo, its model played by a replay server."""

    clone: Path
    results: Path
    config: Path
    server: Server
    # What is requested: the tables; plots and report are far slower.
    target: str = "all"
    sessions: list[Session] = field(default_factory=list)
    mark: dict[str, str] = field(default_factory=new_mark)
    wrapper: tuple[str, ...] = ()  # a program that Snakemake is started through

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
        """Where the output of its sessions is."""
        return self.results.parent

    def targets(self) -> list[str]:
        return [self.target]

    def environment(self) -> dict[str, str]:
        return {**self.mark, **os.environ, KEY_NAME: KEY}

    def start(self, *arguments: str) -> Session:
        """Start Snakemake, as a user does; default: for the targets, with four cores."""
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
        """Run Snakemake to its end."""
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

    def until(self, session: Session, what: Callable[[], Any], seconds: float = 60) -> None:
        """Wait until ``what`` is true; fail with the session's output if it ends before."""

        def settled() -> bool:
            return bool(what()) or session.poll() is not None

        try:
            wait_for(settled, seconds, every=0.2)  # the call logs are read each time
        except TimeoutError:
            os.killpg(session.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                session.wait(PATIENCE)
            kill_group(session.process)
            raise AssertionError(f"not within {seconds} s:\n{session.stdout}") from None
        # The condition may have become true with the process's last step.
        assert what(), f"ended before:\n{session.stdout}"

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
        """Input and output tokens of runs.csv."""
        rows = self.rows()
        return sum(int(r["input_tokens"]) for r in rows), sum(int(r["output_tokens"]) for r in rows)

    def recorded(self) -> int:
        """Return the number of model calls recorded as started so far."""
        return sum(record["event"] == "start" for log in self.call_logs() for record in log)

    def unanswered(self) -> int:
        """How many recorded calls have no answer."""
        logs = self.call_logs()
        return sum(call.kind != usage.ANSWERED for log in logs for call in usage.calls(log))

    def call_logs(self, but: str = "") -> Iterator[list[dict[str, Any]]]:
        """The records of each call log, of finished attempts too; ``but``: not of this run name."""
        for folder in (self.results / "runs").rglob("attempts/*"):
            if not (but and but in folder.parts):
                yield atomic_io.read_lines(folder / layout.CALLS)


def ledger_tokens(server: Server) -> tuple[int, int]:
    """Input and output tokens of all calls that a replay server answered."""
    answered = [line for line in server.ledger() if line["answered"]]
    return (
        sum(line["input_tokens"] for line in answered),
        sum(line["output_tokens"] for line in answered),
    )
