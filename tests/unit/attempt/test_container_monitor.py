"""Records made before a container is removed: out-of-memory kills, refused commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cooperflow import atomic_io
from cooperflow.attempt import child_process, container_monitor
from cooperflow.attempt.container_monitor import ContainerCounts
from cooperflow.engine import containers
from cooperflow.outcomes import judgement
from cooperflow.outcomes.judgement import AgentEnd, Evidence

CONTAINER = "c" * 64
BROKEN = 'OCI runtime exec failed: exec failed: unable to start: "cgroup" is read-only'


def _docker(folder: Path, words: str) -> None:
    """Put a docker command into ``folder`` that only fails to exec, if ``words`` is not empty."""
    program = folder / "docker"
    words = words or 'exec: "/proc/cooperflow-probe": no such file or directory'
    fails = f"printf '%s' '{words}'; exit 126"
    program.write_text(f'#!/bin/sh\n[ "$1" = exec ] || exit 0\n{fails}\n')
    program.chmod(0o755)


def _stop(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    events = folder / "events.jsonl"
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "COOPERFLOW_EVENTS": str(events),
        "COOPERFLOW_CGROUPS": str(folder / "cgroup"),
        "COOPERFLOW_STOP_NOTE": str(folder / "put-away"),
    }
    subprocess.run([str(child_process.SHIM), *arguments, CONTAINER], env=environment, check=True)
    return list(atomic_io.read_lines(events))


@pytest.mark.parametrize(
    ("group", "file"),
    [
        (f"system.slice/docker-{CONTAINER}.scope", "memory.events"),
        (f"machine.slice/libpod-{CONTAINER}.scope", "memory.events"),
        (f"memory/docker/{CONTAINER}", "memory.oom_control"),
    ],
)
def test_the_kernels_count_is_read_before_a_container_is_removed(
    group: str, file: str, tmp_path: Path
) -> None:
    _docker(tmp_path, "")
    folder = tmp_path / "cgroup" / group
    folder.mkdir(parents=True)
    (folder / file).write_text("oom 0\noom_kill 0\n")
    assert _stop(tmp_path, "stop") == []
    (folder / file).write_text("under_oom 0\noom_kill 2\n")
    events = _stop(tmp_path, "rm", "-f")
    assert container_monitor.count_events(events, []).oom == 1


def test_an_engine_that_starts_no_command_is_recorded(tmp_path: Path) -> None:
    _docker(tmp_path, BROKEN)
    (event,) = _stop(tmp_path, "stop")
    assert container_monitor.count_events([event], []).refused == 1
    assert "cgroup' is read-only" in event["words"]


def test_a_second_stop_of_a_container_does_nothing(tmp_path: Path) -> None:
    _docker(tmp_path, BROKEN)
    assert len(_stop(tmp_path, "stop")) == 1
    assert len(_stop(tmp_path, "stop")) == 1
    assert len(_stop(tmp_path, "rm", "-f")) == 2
    assert (tmp_path / "put-away").read_text().split() == [CONTAINER, CONTAINER]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "Error response from daemon: container 1 is not running",
        'OCI runtime exec failed: exec: "/proc/cooperflow-probe": no such file or directory',
    ],
)
def test_damage_by_an_agent_is_not_blamed_on_the_engine(words: str, tmp_path: Path) -> None:
    assert not containers.is_refusal(words)
    _docker(tmp_path, words)
    assert container_monitor.count_events(_stop(tmp_path, "stop"), []).refused == 0


def test_an_engine_whose_exec_fails_is_unavailable() -> None:
    agents = (AgentEnd("solo", "Error", "exec failed"),)
    failed = Evidence(True, agents=agents, containers_started=1, exec_refused=1)
    assert judgement.judge_run(failed).reason == judgement.DOCKER_UNAVAILABLE
    assert judgement.judge_run(Evidence(False, exit_code=1, exec_refused=1)).reason == (
        judgement.DOCKER_UNAVAILABLE
    )
    other = Evidence(True, agents=agents, containers_started=1)
    assert judgement.judge_run(other).reason == judgement.AGENT_ERROR


def test_running_containers_have_not_ended() -> None:
    events = [{"status": "start", "id": i} for i in "abc"]
    events += [{"status": "die", "id": "a"}, {"Action": "destroy", "Actor": {"ID": "b"}}]
    assert container_monitor.find_running(events) == ["c"]


def test_engine_events_of_containers() -> None:
    def event(status: str, name: str, seconds: float) -> dict[str, object]:
        return {"status": status, "id": name, "timeNano": int(seconds * 1e9)}

    events = [
        event("start", "aaa", 1),
        event("start", "bbb", 1),
        event("start", "ccc", 1),
        event("die", "aaa", 5),  # its agent removed it
        event("oom", "bbb", 6),
        event("die", "bbb", 6),
        event("die", "ccc", 1e9),  # the clean-up ended it, by the engine's clock
    ]
    ended = ["aaa", "ccc"]
    assert container_monitor.count_events(events, ended) == ContainerCounts(3, 1, 1)
    assert container_monitor.count_events(events, [*ended, "bbb"]).died == 0
