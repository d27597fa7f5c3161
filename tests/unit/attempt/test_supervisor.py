"""The end of an attempt: its evidence, and the removal of its containers."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import synthetic

from cooperflow import atomic_io, layout, processes
from cooperflow.attempt import container_monitor, supervisor
from cooperflow.attempt.attempt import Attempt, Services
from cooperflow.attempt.container_monitor import ContainerCounts, ContainerReport, DockerMonitor
from cooperflow.attempt.supervisor import ProcessReport
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError
from cooperflow.experiment import config
from cooperflow.experiment import plan as planning
from cooperflow.outcomes import judgement

LABELS = Labels("results", "run", "token", "owner")


def refusal(status: int, text: str) -> docker.errors.APIError:
    response = SimpleNamespace(status_code=status, reason="", url="")
    return docker.errors.APIError(text, response=response, explanation=text)


class Api:
    """The part of Docker's client that removes things; ``errors`` by id."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        self._errors = errors
        self.removed: list[str] = []

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Id": "stuck", "Labels": {}}, {"Id": "free", "Labels": {}}]

    def networks(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Id": "used", "Labels": {}}, {"Id": "network", "Labels": {}}]

    def volumes(self, **_: Any) -> dict[str, Any]:
        return {"Volumes": [{"Name": "volume", "Labels": {}}]}

    def remove(self, name: str, **_: Any) -> None:
        if name in self._errors:
            raise self._errors[name]
        self.removed.append(name)

    remove_container = remove_network = remove_volume = remove


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """An engine with a container and a network that it does not remove."""
    errors: dict[str, Exception] = {
        "stuck": refusal(500, "unable to remove filesystem: device or resource busy"),
        "used": refusal(403, "network has active endpoints"),
    }
    result = Api(errors)
    client = SimpleNamespace(api=result, close=lambda: None)
    monkeypatch.setattr(containers, "engine", lambda *_: client)
    return result


def test_what_the_engine_does_not_remove_is_no_fault_of_the_run(api: Api, capsys: Any) -> None:
    assert not container_monitor.remove_containers(LABELS)
    assert api.removed == ["free", "network", "volume"]
    assert "device or resource busy" in capsys.readouterr().out
    # Nor does it keep a later attempt from starting.
    assert container_monitor.remove_stale_containers(True, "results", "run") == 3


@pytest.mark.parametrize("is_answering", [True, False])
def test_a_removal_that_takes_long_is_no_lost_engine(
    is_answering: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any) -> Any:
        raise EngineError("Read timed out.")

    monkeypatch.setattr(containers, "engine", slow)
    monkeypatch.setattr(containers, "is_answering", lambda _: is_answering)
    assert container_monitor.remove_containers(LABELS) is not is_answering


def test_a_result_that_exists_met_the_time_limit(tmp_path: Path) -> None:
    """The limit may pass while upstream's process still ends, after its agents have submitted."""
    plan = synthetic.make_plan(tmp_path / "results", "flash", first=1)
    run = plan.runs[0]
    attempt = Attempt(plan, run, tmp_path / "attempt", LABELS)
    attempt.upstream.mkdir(parents=True)
    started = ContainerReport(ContainerCounts(1, 0, 0), False, 0.0)
    report = ProcessReport(-9, True, 600.2, 1e9, started, disk_full=False)
    late = supervisor._evidence(attempt, report, None, False)
    assert judgement.judge_run(late).outcome in (judgement.FAIL, judgement.INFRA_ERROR)
    pair = run.pair
    document = {"repo": pair.repo, "task_id": pair.task_id, "features": list(pair.features)}
    agent = {"status": "Submitted", "steps": 3}
    (attempt.upstream / layout.RESULT).write_text(json.dumps({**document, "agent": agent}))
    call = {"event": "start", "id": "1", "thread": "1", "time": 1.0}
    attempt.call_log.write_text(json.dumps(call) + "\n")
    evidence = supervisor._evidence(attempt, report, None, False)
    assert late.timed_out
    assert judgement.judge_run(evidence).outcome is None


@pytest.fixture
def monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DockerMonitor:
    """A monitor of the containers `a` and `b`, of which `a` runs at the end."""
    for name in "ab":
        atomic_io.append_line(tmp_path / layout.EVENTS, json.dumps({"status": "start", "id": name}))
    stream = SimpleNamespace(poll=lambda: None)
    monkeypatch.setattr(container_monitor, "_record_events", lambda *_: stream)
    monkeypatch.setattr(containers, "list_running", lambda *_: ["a"])
    monkeypatch.setattr(processes, "end", lambda _: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    (tmp_path / "stopped").touch()
    return DockerMonitor(tmp_path, LABELS, tmp_path / "stopped")


@pytest.mark.parametrize("seconds", [0, 4e9])
def test_the_clean_up_is_recognized_whatever_the_engines_clock_says(
    seconds: float, monitor: DockerMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may run on another machine, and a clock may be set while an attempt runs."""

    def end(name: str) -> None:
        event = {"status": "die", "id": name, "timeNano": int(seconds * 1e9)}
        atomic_io.append_line(tmp_path / layout.EVENTS, json.dumps(event))

    def remove(_: Labels) -> bool:
        end("a")
        return False

    monkeypatch.setattr(container_monitor, "remove_containers", remove)
    assert monitor.stop().counts.died == 0
    end("b")
    assert monitor.has_failed()
    assert monitor.stop().counts.died == 1


def test_a_storage_that_was_full_is_noted(
    monitor: DockerMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of agents and tests fail then, in a way that looks like their own fault."""
    is_full = iter([False, True, False])
    monkeypatch.setattr(container_monitor, "remove_containers", lambda _: False)
    monkeypatch.setattr(containers, "is_storage_full", lambda _: next(is_full))
    assert not monitor.stop().storage_full  # on another machine
    monitor._probe._storage = tmp_path
    assert [monitor._probe.was_storage_full() for _ in range(2)] == [False, True]
    assert monitor.stop().storage_full


def test_a_full_file_system_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(f_blocks=9, f_bfree=1000, f_frsize=4096, f_files=10, f_ffree=1)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    assert not containers.is_storage_full(tmp_path)
    status.f_ffree = 0
    assert containers.is_storage_full(tmp_path)
    status.f_files, status.f_bfree = 0, 10
    assert containers.is_storage_full(tmp_path)
    status.f_bavail, status.f_favail, status.f_blocks = 10, 0, 1000
    assert supervisor.is_full(tmp_path)
    # As some file systems in user space report it.
    status.f_bavail = status.f_blocks = 0
    assert not supervisor.is_full(tmp_path)


def test_a_store_that_is_lost_during_an_attempt_is_noticed(tmp_path: Path) -> None:
    shipped = synthetic.make_plan(tmp_path / "results", "flash", first=1).config.model_dump()
    plan = planning.make(config.parse({**shipped, "redis": {"url": "redis://127.0.0.1:9"}}))
    lost = {
        run.experiment.setting.name: supervisor._has_lost_store(
            Attempt(plan, run, tmp_path / "attempt", LABELS)
        )
        for run in plan.runs
    }
    assert lost == {"solo": False, "coop-comm": True, "coop-nocomm": False}


@pytest.mark.parametrize(
    ("ended", "by_client", "died"),
    [(False, False, False), (True, False, True), (True, True, False)],
)
def test_an_attempt_ends_with_its_own_store(ended: bool, by_client: bool, died: bool) -> None:
    """What follows would be paid for without use. An agent that ends it is judged as it is."""
    redis: Any = SimpleNamespace(died=ended, ended_by_client=by_client)
    services = Services(redis=redis)
    assert services.died is died
    assert not services.gateway_died


def test_no_thread_remains_of_a_monitor(
    monitor: DockerMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork would inherit the locks that it holds, and could wait for them for ever."""
    has_begun = threading.Event()

    def unreachable(_: float) -> None:
        raise EngineError

    def slow(_: float) -> bool:
        has_begun.set()
        time.sleep(0.3)
        return True

    monkeypatch.setattr(container_monitor, "ALIVE_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(container_monitor, "remove_containers", lambda _: False)
    monkeypatch.setattr(containers, "engine", unreachable)
    monkeypatch.setattr(containers, "is_answering", slow)
    monitor.start()
    assert has_begun.wait(10)
    monitor.stop()
    assert not monitor._probe._thread.is_alive()


def test_nothing_is_tested_in_an_image_that_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Docker has another image under the name since the runs were made."""
    plan = synthetic.make_plan(tmp_path / "results", "flash", first=1)
    image = plan.pairs[0].image
    atomic_io.write_json(plan.results.sentinel(image), {"id": "sha256:1", "content": "content:1"})
    monkeypatch.setattr(containers, "engine", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(containers, "image_attributes", lambda *_: {"Id": "sha256:2"})
    monkeypatch.setattr(containers, "remove_stale", lambda *_: 0)
    monkeypatch.setattr(supervisor, "run_watched", lambda *_: pytest.fail("was tested"))
    subject = supervisor.Subject("run", "m-solo", "solo", plan.pairs[0], {})
    assert supervisor.run_evaluation(plan, subject, tmp_path / "1") is None
    assert "sha256:1 was verified" in capsys.readouterr().out
