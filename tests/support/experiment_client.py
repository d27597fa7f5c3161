"""How the tests run the workflow: as a user does, with its own commands, and read what it left."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import yaml
from process_groups import (
    kill_group,
    run_group,
    start_group,
    wait_for,
)
from replay_client import Server

from cooperflow import atomic_io, layout
from cooperflow.engine.containers import RESULTS_LABEL
from cooperflow.outcomes import usage

PYTHON = ".venv/bin/python"
REPOSITORY = Path(__file__).resolve().parents[2]
# A key that no file, log or container may hold.
KEY = "not-a-real-key-5f1d0c"
INVENTORY = "demo_inventory_task"
TEXTKIT = "demo_textkit_task"
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
    found = subprocess.run(
        ["docker", "ps", "-aq", "--filter", chosen], check=True, capture_output=True, text=True
    )
    return found.stdout.split()


@dataclass
class Experiment:
    """An experiment on some pairs of the demo, its model played by a replay server."""

    clone: Path
    results: Path
    config: Path
    server: Server
    # What is asked for: the tables, or, far slower, the plots and the report too.
    target: str = "all"
    started: list[Popen[str]] = field(default_factory=list)

    @classmethod
    def new(
        cls,
        clone: Path,
        folder: Path,
        server: Server,
        pairs: Sequence[tuple[str, int, int, int]] = ((INVENTORY, 1, 1, 2),),
        settings: Sequence[str] = ("solo",),
        whole: bool = False,
        **config: Any,
    ) -> Experiment:
        """Write an experiment's config; ``whole``: request all targets instead of the tables."""
        folder.mkdir(parents=True)
        table = folder / "pairs.csv"
        rows = ["repo,task_id,feature_a,feature_b", *(",".join(map(str, p)) for p in pairs)]
        table.write_text("\n".join(rows) + "\n")
        every = ("solo", "coop-comm", "coop-nocomm")
        document: dict[str, Any] = {
            "results": str(folder / "results"),
            "dataset": {"dir": "demo/dataset", "subset": str(table)},
            "models": {
                "command-a": None,
                "tested": {
                    "model": "command-a-03-2025",
                    "api_base": f"{server.url}/v2/chat",
                    "api_key": "TESTED_KEY",
                },
            },
            "settings": {name: None for name in every if name not in settings},
            "limits": {"pause_seconds": 0, "call_tries": 2},
            "preflight": "light",  # else its call of one token is in the server's ledger
            "images": {"pull": False, "build": True, "free_gb": 1},
            # Two containers more for each coop run; the demo's test has them.
            "evaluation": {"own_features": False},
        }
        for key, value in config.items():
            both = isinstance(document.get(key), dict)
            document[key] = {**document[key], **value} if both else value
        (folder / "config.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        results = folder / "results"
        target = "all" if whole else str(results / "summary.csv")
        return cls(clone, results, folder / "config.yaml", server, target)

    def command(self, *arguments: str) -> list[str]:
        return [".venv/bin/snakemake", *arguments, "--configfile", str(self.config)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "TESTED_KEY": KEY}

    def run(self, *arguments: str, seconds: float = 400) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end."""
        command = self.command(*(arguments or ("-j", "4", self.target)))
        return run_group(command, seconds, cwd=self.clone, env=self.environment())

    def dry_run(self) -> str:
        """Return the pending jobs that Snakemake prints."""
        return self.run("--dry-run", self.target).stdout

    def start(self, *arguments: str) -> Popen[str]:
        """Start Snakemake in a process group, as a terminal does."""
        command = self.command(*(arguments or ("-j", "4", self.target)))
        process = start_group(command, cwd=self.clone, env=self.environment())
        self.started.append(process)
        return process

    def until(self, process: Popen[str], what: Callable[[], Any], seconds: float = 60) -> None:
        """Wait until ``what`` is true; fail with the process's output if it ends before."""

        def settled() -> bool:
            return bool(what()) or process.poll() is not None

        try:
            wait_for(settled, seconds)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            kill_group(process)
            raise AssertionError(f"not within {seconds} s:\n{process.communicate()[0]}") from None
        # The condition may have become true with the process's last step.
        assert what(), f"ended before:\n{process.communicate()[0]}"

    def script(
        self, name: str, *arguments: str, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the workflow."""
        command = [PYTHON, f"scripts/commands/{name}.py", "--configfile", str(self.config)]
        return run_group([*command, *arguments], seconds, cwd=self.clone, env=self.environment())

    def end(self) -> None:
        for process in self.started:
            kill_group(process)
            if process.stdout is not None and not process.stdout.closed:
                process.communicate()

    def rows(self) -> list[dict[str, str]]:
        with (self.results / "runs.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def summary(self) -> list[dict[str, str]]:
        with (self.results / "summary.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def books(self) -> tuple[int, int]:
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

    def call_logs(self) -> Iterator[list[dict[str, Any]]]:
        """The records of each call log, of finished attempts too."""
        for folder in (self.results / "runs").rglob("attempts/*"):
            yield atomic_io.read_lines(folder / layout.CALLS)


def ledger_tokens(server: Server) -> tuple[int, int]:
    """Input and output tokens of all calls that a replay server answered."""
    lines = [json.loads(line) for line in server.ledger_file.read_text().splitlines()]
    answered = [line for line in lines if line["answered"]]
    return (
        sum(line["input_tokens"] for line in answered),
        sum(line["output_tokens"] for line in answered),
    )
