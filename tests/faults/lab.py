"""Laboratory: a separate clone with separate results, and a model with faults on request."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from experiment_client import INVENTORY as INVENTORY
from experiment_client import REPOSITORY, clone_of
from experiment_client import TEXTKIT as TEXTKIT
from process_groups import MARKER, kill_marked, marked_processes, new_mark, wait_for

KEY_NAME = "LAB_PROVIDER_KEY"
KEY = "sk-lab-5e1f0d7c2b9a4e63-never-written-down"
MODEL = "command-a-03-2025"
PAIR = (INVENTORY, 1, (1, 2))
SETTINGS = {
    "solo": ["--setting", "solo"],
    "coop-comm": ["--setting", "coop"],
    "coop-nocomm": ["--setting", "coop", "--no-messaging"],
}
# Settings of single cases.
MORE_SETTINGS = {
    "team": ["--setting", "team"],
    "coop-git": ["--setting", "coop", "--no-messaging", "--git"],
}
# Time after which the campaign counts a session as hung, seconds.
PATIENCE = 1200

Rules = Sequence[Mapping[str, Any]]


class Server:
    """A replay server: the model of a laboratory, its faults and its ledger."""

    def __init__(
        self,
        folder: Path,
        delay: str = "0",
        name: str = "model",
        port: int = 0,
        recordings: str = "recordings",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ledger = folder / f"{name}.ledger.jsonl"
        port_file = folder / f"{name}.port"
        command = [sys.executable, str(REPOSITORY / "demo" / "replay_server.py")]
        command += ["--recordings", str(REPOSITORY / "demo" / recordings), "--delay", delay]
        command += ["--port-file", str(port_file), "--ledger", str(self._ledger)]
        command += ["--port", str(port)]
        with (folder / f"{name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(port_file.exists, 60, "the replay server")
        self.port = int(port_file.read_text())
        self.url = f"http://127.0.0.1:{self.port}/v2/chat"

    def fail(self, rules: Rules) -> None:
        """Put fault rules in force instead of those before."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/_control/faults",
            json.dumps(list(rules)).encode(),
            method="PUT",
        )
        urllib.request.urlopen(request, timeout=20).read()

    def ledger(self) -> list[dict[str, Any]]:
        """Return every call that ever reached this server, by the file it keeps."""
        if not self._ledger.exists():
            return []
        return [json.loads(line) for line in self._ledger.read_text().splitlines()]

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@dataclass
class Start:
    """A `snakemake` that was started."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def finished(self, seconds: float = PATIENCE) -> int:
        """Return the exit code when it has ended by itself."""
        return self.process.wait(seconds)


@dataclass
class Lab:
    """One experiment of a few runs, with all that it makes below one folder."""

    folder: Path
    config: dict[str, Any]
    docker_host: str | None = None
    servers: dict[str, Server] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    mark: dict[str, str] = field(default_factory=new_mark)
    starts: list[Start] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)  # over those of every session
    wrapper: tuple[str, ...] = ()  # a program that Snakemake is started through
    bystanders: list[str] = field(default_factory=list)  # containers that are not of its runs

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    @property
    def results(self) -> Path:
        return self.clone / str(self.config["results"])

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("COOPERFLOW")}
        kept.update({**self.mark, KEY_NAME: KEY, "TMPDIR": str(self.temporary)})
        kept["XDG_RUNTIME_DIR"] = str(self.runtime)
        kept["XDG_CACHE_HOME"] = str(self.folder / "cache")
        if self.docker_host:
            kept["DOCKER_HOST"] = self.docker_host
        return {**kept, **self.variables}

    def write_config(self) -> None:
        (self.clone / "lab.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    def start(self, *arguments: str, configfile: bool = True) -> Start:
        """Start Snakemake, as a user does, in a separate process session.

        Its targets are those of `all` but figures and report, which call nothing.
        """
        self.write_config()
        log = self.folder / f"start-{len(self.starts) + 1}.log"
        command = [*self.wrapper, sys.executable, "-m", "snakemake"]
        command += [*(arguments or ("-j", "4", *self.targets()))]
        command += ["--configfile", "lab.yaml"] if configfile else []
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        begun = Start(process, log)
        self.starts.append(begun)
        return begun

    def targets(self) -> list[str]:
        """Return summary.csv and the two documents of each run."""
        made = [f"{self.config['results']}/summary.csv"]
        with contextlib.suppress(ValueError, KeyError):
            tasks = json.loads((self.clone / "pairs.json").read_text())["tasks"]
            for model in [name for name, entry in self.config["models"].items() if entry]:
                for setting in [name for name, flags in self.config["settings"].items() if flags]:
                    for task in tasks:
                        for pair in task["pairs"]:
                            where = (task["repo"], task["task_id"], tuple(pair))
                            folder = self.run_folder(setting, where, model).relative_to(self.clone)
                            made += [f"{folder}/result.json", f"{folder}/eval.json"]
        return made

    def run(self, *arguments: str, seconds: float = PATIENCE) -> Start:
        """Start and wait for the end."""
        begun = self.start(*arguments)
        begun.finished(seconds)
        return begun

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script that a user calls by hand."""
        return subprocess.run(
            [sys.executable, f"scripts/commands/{name}.py", *arguments],
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def script_edit(self, bases: Mapping[str, str | None], url: str) -> None:
        """Correct the addresses of models without a server; the experiment stays the same."""
        for name in bases:
            self.config["models"][name]["api_base"] = url
        names = [f"{name}-{setting}" for name in bases for setting in SETTINGS]
        self.config["accept"] = names

    def retry_infra(self) -> None:
        done = self.script("retry_infra", "--configfile", "lab.yaml")
        assert done.returncode == 0, done.stdout + done.stderr

    def rows(self) -> list[dict[str, str]]:
        return read_csv(self.results / "runs.csv")

    def summary(self) -> list[dict[str, str]]:
        return read_csv(self.results / "summary.csv")

    def run_folder(self, setting: str, pair: Any = PAIR, model: str = "lab") -> Path:
        repo, task, (a, b) = pair
        mode = setting if setting in ("solo", "team") else "coop"
        low, high = sorted((a, b))
        name = f"{model}-{setting}"
        return self.results / "runs" / name / mode / repo / str(task) / f"f{low}_f{high}"

    def processes(self) -> list[tuple[int, str]]:
        """Return every living process that this laboratory's starts brought about."""
        return marked_processes(self.mark[MARKER])

    def docker(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment | {MARKER: "none"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode:
            raise RuntimeError(f"docker {arguments}: {done.stderr}")
        return done.stdout

    @property
    def identity(self) -> str:
        path = self.results / ".state" / "id"
        return path.read_text().strip() if path.exists() else "none"

    def containers(self) -> list[str]:
        chosen = f"label=cooperflow.results={self.identity}"
        return self.docker("ps", "-aq", "--no-trunc", "--filter", chosen).split()

    def stop(self) -> None:
        """End whatever is left, so that one case does not disturb the next."""
        for start in self.starts:
            if start.process.poll() is None:
                start.process.kill()
                start.process.wait()
        kill_marked(self.mark[MARKER])
        for server in self.servers.values():
            server.end()
        with contextlib.suppress(Exception):
            left = [*self.containers(), *self.bystanders]
            if left:
                self.docker("rm", "-f", *left, check=False)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def clone_to(folder: Path) -> None:
    """Copy what a session needs of this repository, in its current state."""
    clone_of(folder, skip=("tests/", "docs/", "logs/", ".ci/"), environment=False)


def config_of(
    bases: Mapping[str, str], pairs: Sequence[Any], settings: Sequence[str], **more: Any
) -> dict[str, Any]:
    """Return the config of a laboratory: all limits short, nothing pulled."""
    config: dict[str, Any] = {
        "results": "results",
        "dataset": {"dir": "demo/dataset", "subset": "pairs.json"},
        "models": {"command-a": None}
        | {
            name: {"model": MODEL, "api_base": base, "api_key": KEY_NAME}
            for name, base in bases.items()
        },
        "settings": {name: (SETTINGS[name] if name in settings else None) for name in SETTINGS}
        | {name: MORE_SETTINGS[name] for name in settings if name in MORE_SETTINGS},
        "limits": {
            "run_seconds": 400,  # a busy machine does not count as a fault
            "eval_seconds": 400,
            "test_seconds": 30,
            "call_seconds": 20,
            "call_tries": 2,
            "pause_seconds": 0,
        },
        "preflight": "light",  # the faults are to strike runs, not the look before them
        "images": {"pull": False, "build": True, "free_gb": 0},
    }
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            config[key] = {**config[key], **value}
        else:
            config[key] = value
    return config


def write_pairs(path: Path, pairs: Sequence[Any]) -> None:
    """Write a subset file."""
    tasks: dict[tuple[Any, Any], list[Any]] = {}
    for repo, task, features in pairs:
        tasks.setdefault((repo, task), []).append(list(features))
    path.write_text(
        json.dumps(
            {"tasks": [{"repo": r, "task_id": t, "pairs": p} for (r, t), p in tasks.items()]}
        )
    )


@contextlib.contextmanager
def laboratory(
    *,
    pairs: Sequence[Any] = (PAIR,),
    settings: Sequence[str] = ("solo",),
    models: Mapping[str, Rules] | None = None,
    bases: Mapping[str, str] | None = None,
    delay: str = "0",
    docker_host: str | None = None,
    recordings: str = "recordings",
    **config: Any,
) -> Iterator[Lab]:
    """Give a laboratory; ``models``: the fault rules of each model, which has its own server."""
    # Short: the path of a unix socket has 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="cflab-", dir="/tmp"))
    servers: dict[str, Server] = {}
    for name, rules in ({"lab": ()} if models is None else models).items():
        servers[name] = Server(folder / "servers", delay, name, recordings=recordings)
        if rules:
            servers[name].fail(rules)
    urls = {name: server.url for name, server in servers.items()} | dict(bases or {})
    lab = Lab(folder, config_of(urls, pairs, settings, **config), docker_host, servers, urls)
    for path in (lab.runtime, lab.temporary):
        path.mkdir(mode=0o700)
    clone_to(lab.clone)
    write_pairs(lab.clone / "pairs.json", pairs)
    try:
        yield lab
    finally:
        lab.stop()
        if os.environ.get("COOPERFLOW_KEEP_LABS") != "1":
            shutil.rmtree(folder, ignore_errors=True)
