"""Laboratory: an experiment in a separate clone whose models fail on request."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from experiment_client import (
    ALL_PAIRS,
    COMMON,
    INVENTORY,
    KEY,
    KEY_NAME,
    PAIR,
    REPOSITORY,
    TEXTKIT,
    Experiment,
    PairOfDemo,
    Session,
    clone_of,
    config_document,
    read_csv,
    write_pairs,
)
from process_groups import MARKER, kill_marked, marked_processes, wait_for
from replay_client import Server, start_server

__all__ = ["ALL_PAIRS", "COMMON", "INVENTORY", "KEY", "KEY_NAME", "PAIR", "TEXTKIT"]
__all__ += ["Lab", "Server", "Session", "clone_to", "laboratory", "wait_for", "write_pairs"]

# Time after which a session counts as hung, seconds.
PATIENCE = 1200

Rules = Sequence[Mapping[str, Any]]


@dataclass
class Lab(Experiment):
    """An experiment of a few runs with all of its files in one folder."""

    folder: Path = Path()
    document: dict[str, Any] = field(default_factory=dict)  # the config
    servers: dict[str, Server] = field(default_factory=dict)
    docker_host: str | None = None
    variables: dict[str, str] = field(default_factory=dict)  # additional variables of every session
    bystanders: list[str] = field(default_factory=list)  # containers that do not belong to its runs

    @property
    def logs(self) -> Path:
        return self.folder

    @property
    def pairs(self) -> Path:
        return self.clone / "pairs.csv"

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def environment(self) -> dict[str, str]:
        variables = {k: v for k, v in os.environ.items() if not k.startswith("COOPERFLOW")}
        variables.update({**self.mark, KEY_NAME: KEY, "TMPDIR": str(self.temporary)})
        variables["XDG_RUNTIME_DIR"] = str(self.runtime)
        variables["XDG_CACHE_HOME"] = str(self.folder / "cache")
        if self.docker_host:
            variables["DOCKER_HOST"] = self.docker_host
        return {**variables, **self.variables}

    def write_config(self) -> None:
        self.config.write_text(yaml.safe_dump(self.document, sort_keys=False))

    def start(self, *arguments: str) -> Session:
        """Start Snakemake with the current config."""
        self.write_config()
        return super().start(*arguments)

    def run(self, *arguments: str, seconds: float = PATIENCE) -> Session:
        return super().run(*arguments, seconds=seconds)

    def targets(self) -> list[str]:
        """Return the targets of `all` without figures and report, which make no calls."""
        paths = [self.results / "summary.csv"]
        for model in [name for name, entry in self.document["models"].items() if entry]:
            for setting in [name for name, flags in self.document["settings"].items() if flags]:
                for row in read_csv(self.pairs):
                    where = (row["repo"], *map(int, [*row.values()][1:]))
                    folder = self.run_folder(setting, where, model)  # type: ignore[arg-type]
                    paths += [folder / "result.json", folder / "eval.json"]
        return [str(path.relative_to(self.clone)) for path in paths]

    def correct_addresses(self, names: Sequence[str], url: str) -> None:
        """Set the address of models without a server; the experiment stays the same."""
        for name in names:
            self.document["models"][name]["api_base"] = url
        self.document["accept"] = [f"{name}-{setting}" for name in names for setting in COMMON]

    def retry_infra(self) -> None:
        done = self.script("retry_infra", seconds=PATIENCE)
        assert done.returncode == 0, done.stdout

    def run_folder(self, setting: str, pair: PairOfDemo = PAIR, model: str = "tested") -> Path:
        repo, task, *features = pair
        mode = setting if setting in ("solo", "team") else "coop"
        low, high = sorted(features)
        name = f"{model}-{setting}"
        return self.results / "runs" / name / mode / repo / str(task) / f"f{low}_f{high}"

    def processes(self) -> list[tuple[int, str]]:
        """Return all running processes that this laboratory's sessions have started."""
        return marked_processes(self.mark[MARKER])

    def docker(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment() | {MARKER: "none"},
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

    def end(self) -> None:
        """End everything that remains, so that one case does not disturb the next."""
        super().end()
        kill_marked(self.mark[MARKER])
        for server in self.servers.values():
            server.end()
        with contextlib.suppress(Exception):
            left = [*self.containers(), *self.bystanders]
            if left:
                self.docker("rm", "-f", *left, check=False)


def clone_to(folder: Path) -> None:
    """Copy the files of this repository that a session needs, in their current state."""
    clone_of(folder, skip=("tests/", "docs/", "logs/", ".ci/"))


# Generous limits, because a busy machine is not a fault.
LIMITS = {
    "run_seconds": 400,
    "eval_seconds": 400,
    "test_seconds": 30,
    "call_seconds": 20,
    "call_tries": 2,
    "pause_seconds": 0,
}


@contextlib.contextmanager
def laboratory(
    *,
    pairs: Sequence[PairOfDemo] = (PAIR,),
    settings: Sequence[str] = ("solo",),
    models: Mapping[str, Rules] | None = None,
    bases: Mapping[str, str] | None = None,
    delay: str = "0",
    docker_host: str | None = None,
    recordings: str = "recordings",
    **config: Any,
) -> Iterator[Lab]:
    """Yield a laboratory.

    Args:
        models: the fault rules of each model; each model has a separate server.
        bases: the addresses of models without a server.
    """
    # Short, because the path of a unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="cflab-", dir="/tmp"))
    clone, servers = folder / "clone", {}
    for name, rules in ({"tested": ()} if models is None else models).items():
        played = REPOSITORY / "demo" / recordings
        servers[name] = start_server(folder / "servers" / name, "--delay", delay, recordings=played)
        servers[name].faults(*rules)
    urls = {name: server.cohere_url for name, server in servers.items()} | dict(bases or {})
    config = {"limits": {}, "images": {}, "evaluation": {}, **config}
    config["limits"] = {**LIMITS, **config["limits"]}
    config["images"] = {"free_gb": 0, **config["images"]}
    config["evaluation"] = {"own_features": True, **config["evaluation"]}
    laboratory = Lab(
        clone,
        clone / "results",
        clone / "lab.yaml",
        next(iter(servers.values())),
        folder=folder,
        document=config_document("results", "pairs.csv", urls, settings, **config),
        servers=servers,
        docker_host=docker_host,
    )
    for path in (laboratory.runtime, laboratory.temporary):
        path.mkdir(mode=0o700)
    clone_to(clone)
    write_pairs(laboratory.pairs, pairs)
    try:
        yield laboratory
    finally:
        laboratory.end()
        if os.environ.get("COOPERFLOW_KEEP_LABS") != "1":
            shutil.rmtree(folder, ignore_errors=True)
