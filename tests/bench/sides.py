"""The two sides on the same work: upstream's own procedure, and the workflow."""

from __future__ import annotations

import contextlib
import csv
import heapq
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from experiment_client import COMMON, clone_of
from replay_client import server

from cooperflow.attempt.services import find_server

from .cpu import Cost, measure
from .workload import REPOSITORY, Workload

BIN = REPOSITORY / ".venv" / "bin"
SLOTS = 4


@dataclass(frozen=True)
class Side:
    """Duration of one side, and the outcomes of its runs."""

    wall: float
    cpu: float
    passed: dict[str, int]
    eval_s: float = 0.0  # of the evaluations of runs
    own_s: float = 0.0  # of the evaluations of own features


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "COHERE_API_KEY": "bench",
        "BENCH_KEY": "bench",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def upstream(
    work: Workload, folder: Path, delay: str, seed: int, settings: Sequence[str] = tuple(COMMON)
) -> tuple[Side, list[Cost]]:
    """A `cooperbench run -c 4` for each setting, one after the other, then `cooperbench eval -c 4`.

    The evaluations get no subset: with it upstream silently leaves out the
    runs whose pair is not written in ascending order there.
    """
    folder.mkdir()
    log = folder / "log"
    costs = []
    with _served(work, folder, delay, seed) as url, _redis(folder) as redis:
        agent = folder / "agent.yaml"
        agent.write_text(yaml.safe_dump({"config": {"model": {"model_kwargs": {"api_base": url}}}}))
        shared = ["--dataset-dir", str(work.dataset), "--log-dir", str(folder / "logs")]
        shared += ["-c", str(SLOTS), "--backend", "docker"]
        for name in settings:
            command = [str(BIN / "cooperbench"), "run", "-n", name, "-m", "command-a-03-2025"]
            command += [*COMMON[name], *shared, "-s", "bench", "--no-auto-eval", "--redis", redis]
            command += ["--agent-config", str(agent)]
            costs.append(measure(command, folder, environment(), log))
        for name in settings:
            command = [str(BIN / "cooperbench"), "eval", "-n", name, *shared]
            costs.append(measure(command, folder, environment(), log))
    passed = {}
    for name in settings:
        files = (folder / "logs" / name).rglob("eval.json")
        passed[name] = sum(bool(json.loads(f.read_text())["both_passed"]) for f in files)
    return Side(sum(c.wall for c in costs), sum(c.cpu for c in costs), passed), costs


def workflow(
    work: Workload,
    folder: Path,
    delay: str,
    seed: int,
    target: str = "summary.csv",
    own_features: bool = True,
    settings: Sequence[str] = tuple(COMMON),
) -> tuple[Side, list[tuple[float, float]]]:
    """`snakemake -j 4`, its own start and the tables counted; also the runs' own times.

    Args:
        own_features: also evaluate each agent's patch of a coop run alone, as by default.
    """
    folder.mkdir()
    clone = clone_of(folder / "clone")
    results = folder / "results"
    with _served(work, folder, delay, seed) as url:
        config = {
            "results": str(results),
            "dataset": {"dir": str(work.dataset), "subset": str(work.table)},
            "models": {
                "command-a": None,
                "bench": {
                    "model": "command-a-03-2025",
                    "api_base": url,
                    "api_key": "BENCH_KEY",
                },
            },
            "settings": {name: None for name in COMMON if name not in settings},
            "images": {"pull": False, "free_gb": 1},
            "evaluation": {"own_features": own_features},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        command = [str(BIN / "snakemake"), "-j", str(SLOTS), str(results / target)]
        command += ["--configfile", str(folder / "config.yaml")]
        cost = measure(command, clone, environment(), folder / "log")
    if cost.code:
        raise SystemExit(f"the workflow failed, see {folder / 'log'}")
    with (results / "summary.csv").open() as stream:
        passed = {row["setting"]: int(row["pass"]) for row in csv.DictReader(stream)}
    return Side(cost.wall, cost.cpu, passed, *evaluation_seconds(results)), run_times(results)


def evaluation_seconds(results: Path) -> tuple[float, float]:
    """Return the seconds of all evaluations of runs, and of own features."""
    runs = own = 0.0
    for path in (results / "runs").glob("*/*/*/*/*/eval.json"):
        runs += float(json.loads(path.read_text())["workflow"].get("seconds") or 0.0)
    for path in (results / "runs").glob("*/*/*/*/*/own.json"):
        agents = json.loads(path.read_text())["agents"].values()
        own += sum(float(agent.get("seconds") or 0.0) for agent in agents)
    return runs, own


def run_times(results: Path) -> list[tuple[float, float]]:
    """Start, and the seconds of each run's own work by upstream's account, in order of start."""
    times = []
    for path in (results / "runs").glob("*/*/*/*/*/result.json"):
        document = json.loads(path.read_text())
        times.append((document["workflow"]["started"], float(document["duration_seconds"])))
    return sorted(times)


def bound(durations: Sequence[float], slots: int = SLOTS) -> float:
    """Return the makespan of a list schedule: each run starts as soon as a slot is free, in order.

    Source: R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17
    (1969) 416-429.
    """
    free = [0.0] * slots
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


@contextlib.contextmanager
def _served(work: Workload, folder: Path, delay: str, seed: int) -> Iterator[str]:
    options = ["--delay", delay, "--seed", str(seed)]
    with server(folder, *options, recordings=work.recordings) as running:
        yield f"{running.url}/v2/chat"


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [find_server(), "--port", "0", "--unixsocket", str(socket), "--save", ""],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not socket.exists():
            time.sleep(0.05)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait()
