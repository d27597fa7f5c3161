"""Invariants under the faults of a cluster: `make slurm` runs these tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import image_servers
import pytest
from experiment_client import (
    INVENTORY,
    TEXTKIT,
    Experiment,
    Session,
    containers_of,
    ledger_tokens,
    wait_for,
)

from .cluster import PROFILES, Cluster, cluster, find_missing_tools

MISSING = find_missing_tools()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not here: {', '.join(MISSING)} (make slurm)"),
]

Make = Callable[..., Experiment]
PAIRS = ((INVENTORY, 1, 1, 2), (TEXTKIT, 2, 1, 2))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of two machines that Slurm's commands talk to."""
    with cluster(tmp_path / "slurm", ("node1", "node2")) as up:
        for name, value in up.environment().items():
            monkeypatch.setenv(name, value)
        yield up


@pytest.fixture(scope="session")
def tars(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images, built once, as a cluster's nodes load them."""
    folder = tmp_path_factory.mktemp("tars")
    subprocess.run(
        [
            *(".venv/bin/snakemake", "images_archive", "--configfile", "config/demo.yaml"),
            *("--config", f"images={{archive: {folder}}}", f"results={folder}/results"),
        ],
        cwd=clone,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


@pytest.fixture
def make(make_experiment: Make, slurm: Cluster, tars: Path) -> Make:
    """Make experiments whose images come from tars."""

    def create(**options: Any) -> Experiment:
        images = {"pull": False, "build": False, "archive": str(tars), "free_gb": 1}
        return make_experiment(**{"pairs": PAIRS, "images": images, **options})

    return create


def start(experiment: Experiment) -> Session:
    """Start the workflow on the cluster, in a separate process group."""
    return experiment.start("all", *PROFILES)


def end(session: Session, code: int | None = 0, seconds: float = 240) -> str:
    ended = session.wait(seconds)
    assert code is None or ended == code, session.stdout
    return session.stdout


def read_attempts(experiment: Experiment) -> list[list[dict[str, Any]]]:
    """Return the records of each run's attempts."""
    folders = sorted(path.parent for path in (experiment.results / "runs").rglob("attempts"))
    return [
        [json.loads(path.read_text()) for path in sorted((f / "attempts").glob("*/attempt.json"))]
        for f in folders
    ]


def read_hosts(experiment: Experiment) -> dict[str, str]:
    """Return the machine of each running attempt, by its run's pair."""
    return {
        path.parts[-6]: json.loads(path.read_text())["process"].partition(":")[0]
        for path in (experiment.results / "runs").rglob("attempt.json")
    }


def wait_for_busy_node(slurm: Cluster, experiment: Experiment) -> str:
    """Wait until a run talks to its model; return the machine it is on."""
    wait_for(lambda: experiment.count_recorded_calls() > 1, 120)
    return next(iter(read_hosts(experiment).values()))


def test_a_node_that_dies_costs_one_attempt_and_leaves_nothing(make: Make, slurm: Cluster) -> None:
    experiment = make()
    process = start(experiment)
    dead = wait_for_busy_node(slurm, experiment)
    containers = containers_of(experiment.results)
    assert containers
    slurm.kill_node(dead)
    end(process)
    assert {row["outcome"] for row in experiment.rows()} == {"pass"}
    # Once for each run that was on it; nobody but Snakemake tried again.
    assert sorted(len(tries) for tries in read_attempts(experiment)) in ([1, 2], [2, 2])
    assert {
        a["process"].partition(":")[0] for tries in read_attempts(experiment) for a in tries[1:]
    } == ({"node1", "node2"} - {dead})
    recorded, ledger = experiment.recorded_tokens(), ledger_tokens(experiment.server)
    assert recorded == ledger or any(row["cost_complete"] == "False" for row in experiment.rows())
    assert recorded[0] <= ledger[0]
    assert not containers_of(experiment.results)


def test_a_cancelled_job_is_one_attempt(make: Make, slurm: Cluster) -> None:
    experiment = make(pairs=PAIRS[:1])
    process = start(experiment)
    slurm.command("scancel", *slurm.running_on(wait_for_busy_node(slurm, experiment)))
    end(process)
    assert [row["outcome"] for row in experiment.rows()] == ["pass"]
    [tries] = read_attempts(experiment)
    assert [a["state"] for a in tries] == ["interrupted", "ended"]
    assert experiment.recorded_tokens()[0] <= ledger_tokens(experiment.server)[0]
    assert not containers_of(experiment.results)


def test_a_killed_session_is_resumed_and_nothing_is_paid_twice(make: Make, slurm: Cluster) -> None:
    experiment = make(pairs=PAIRS[:1])
    killed = start(experiment)
    wait_for_busy_node(slurm, experiment)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    # The job on its node knows nothing of it; the next session submits the same job again.
    output = end(start(experiment))
    assert "has been submitted with SLURM jobid" in output
    assert [row["outcome"] for row in experiment.rows()] == ["pass"]
    assert [len(tries) for tries in read_attempts(experiment)] == [1]
    assert experiment.recorded_tokens() == ledger_tokens(experiment.server)
    assert {row["cost_complete"] for row in experiment.rows()} == {"True"}


def test_a_job_still_queued_when_its_session_is_killed_does_nothing(
    make: Make, slurm: Cluster
) -> None:
    experiment = make(pairs=PAIRS[:1])
    assert experiment.run("images").returncode == 0  # here: what waits in the queue is a run
    for node in slurm.nodes:
        slurm.command("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    killed = start(experiment)
    wait_for(lambda: "PENDING" in slurm.jobs().values(), 120)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    for node in slurm.nodes:
        slurm.command("scontrol", "update", f"NodeName={node}", "State=RESUME")
    wait_for(lambda: not slurm.jobs(), 120)
    assert experiment.count_recorded_calls() == 0
    logs = "".join(path.read_text() for path in (experiment.clone / "logs").rglob("*.log"))
    assert "not started: the session that submitted this job has ended" in logs


def test_a_refusal_on_a_node_ends_the_session(make: Make, slurm: Cluster) -> None:
    pairs = [(INVENTORY, 1, 1, 2), (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2), (TEXTKIT, 2, 2, 3)]
    experiment = make(pairs=pairs, settings=("solo", "coop-nocomm"))
    experiment.server.faults({"match": {}, "action": "unauthorized"})
    output = end(
        experiment.start("all", *PROFILES, "--resources", "run_slots=1", "eval_slots=1"),
        code=None,
    )
    note = json.loads((experiment.results / ".state" / "halt.json").read_text())
    assert note["reason"] == "auth"
    # Eight runs were pending: only the runs that were running at the command were started.
    assert len(read_attempts(experiment)) <= 2
    assert output.count("submitted with SLURM jobid") <= 4


def test_no_more_runs_at_a_time_than_slots_on_the_whole_cluster(make: Make, slurm: Cluster) -> None:
    experiment = make(pairs=[(INVENTORY, 1, 1, 2), (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2)])
    end(experiment.start("all", *PROFILES, "--resources", "run_slots=2", "eval_slots=2"))
    times = [(a["started"], a["ended"]) for tries in read_attempts(experiment) for a in tries]
    assert len(times) == 3
    assert max(sum(s <= t < e for s, e in times) for t, _ in times) <= 2


def test_a_node_without_the_image_loads_it_once(
    make_experiment: Make, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node has a separate, empty Docker engine."""
    images = {"pull": False, "build": False, "archive": str(tars), "free_gb": 0}
    experiment = make_experiment(pairs=[(TEXTKIT, 2, 1, 2), (TEXTKIT, 2, 2, 3)], images=images)
    assert experiment.run("images").returncode == 0
    [sentinel] = [
        p for p in (experiment.results / "images").glob("*.json") if p.name != "verified.json"
    ]
    before = sentinel.read_bytes()
    with (
        # A short path: its containerd's socket is below it.
        tempfile.TemporaryDirectory(prefix="cf-") as short,
        image_servers.engine(Path(short) / "engine", 4_000_000_000) as host,
        cluster(tmp_path / "slurm", ("node1",), {"node1": host.removeprefix("unix://")}) as up,
    ):
        for name, value in up.environment().items():
            monkeypatch.setenv(name, value)
        end(start(experiment))
        ids = subprocess.run(
            ["docker", "-H", host, "images", "--no-trunc", "-q"], capture_output=True, text=True
        ).stdout.split()
    assert [row["outcome"] for row in experiment.rows()] == ["pass", "pass"]
    assert json.loads(before)["id"] in ids
    assert sentinel.read_bytes() == before
    assert {
        a["process"].partition(":")[0] for tries in read_attempts(experiment) for a in tries
    } == {"node1"}


def test_an_orphaned_job_is_distinguished_from_a_job_of_a_running_session(tmp_path: Path) -> None:
    """The lock of a session is visible to another process and names the session's process."""
    program = (
        "import sys, os; sys.path.insert(0, 'scripts')\n"
        "from pathlib import Path\n"
        "from cooperflow import environment, session_state\n"
        "from cooperflow.layout import Results\n"
        "os.environ[environment.NODE] = 'node9:1:x'\n"
        "print(session_state.orphan_reason(Results(Path(sys.argv[1])))[:9])\n"
    )
    from cooperflow import environment, session_state
    from cooperflow.layout import Results
    from cooperflow.processes import this_process

    def reason_for(session: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, environment.OWNER: session},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert reason_for(str(this_process())) == "the start"
    session_state.hold_lock(Results(tmp_path), tmp_path)
    assert reason_for(str(this_process())) == ""
    assert reason_for("elsewhere:1:boot:2") == "the start"
