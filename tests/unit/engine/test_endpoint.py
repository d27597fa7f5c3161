"""The engine's endpoint: one for the docker command and the SDK, and whether it is local."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker.credentials.errors
import pytest

from cooperflow import layout
from cooperflow.engine import containers, endpoint
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import config, plan
from cooperflow.experiment.config_schema import Containers
from cooperflow.experiment.plan import Plan
from cooperflow.images import verification
from cooperflow.layout import REPOSITORY
from cooperflow.session import checks

MachineContext = Callable[..., None]


@pytest.fixture
def add_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineContext:
    """Write a context of the docker command into a private configuration folder."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"):
        monkeypatch.setenv(name, "")  # so that the end of the test removes what is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def add(name: str, host: str, current: bool = False, tls: bool = False, **more: Any) -> None:
        identifier = hashlib.sha256(name.encode()).hexdigest()
        folder = tmp_path / "contexts" / "meta" / identifier
        folder.mkdir(parents=True)
        document = {"Name": name, "Endpoints": {"docker": {"Host": host, **more}}}
        (folder / "meta.json").write_text(json.dumps(document))
        if tls:
            (tmp_path / "contexts" / "tls" / identifier / "docker").mkdir(parents=True)
        if current:
            (tmp_path / "config.json").write_text(json.dumps({"currentContext": name}))

    return add


def test_the_sdk_follows_the_context_of_the_command(
    add_context: MachineContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_context("current", "unix:///no/current.sock", current=True)
    add_context("named", "unix:///no/named.sock")
    for context, host in ((None, "/no/current.sock"), ("named", "/no/named.sock")):
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        if context:
            monkeypatch.setenv("DOCKER_CONTEXT", context)
        with pytest.raises(EngineError) as failure:
            containers.engine(2)
        assert host in str(failure.value)
        assert str(context or "current") in str(failure.value)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/host.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "named")
    with pytest.raises(EngineError, match=r"/no/host\.sock \(DOCKER_HOST\)"):
        containers.engine(2)


def test_a_context_with_certificates_serves_both_programs(add_context: MachineContext) -> None:
    add_context("secure", "tcp://machine:2376", tls=True)
    add_context("lax", "tcp://machine:2376", tls=True, SkipTLSVerify=True)
    for name, verify in (("secure", "1"), ("lax", "")):
        variables = {"DOCKER_CONTEXT": name, "DOCKER_CONFIG": os.environ["DOCKER_CONFIG"]}
        endpoint.apply(variables)
        assert variables["DOCKER_HOST"] == "tcp://machine:2376"
        assert variables["DOCKER_TLS_VERIFY"] == verify
        assert variables["DOCKER_CERT_PATH"].endswith("/docker")
        assert "DOCKER_CONTEXT" not in variables


def test_a_missing_context_and_ssh_are_named(
    add_context: MachineContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_context("far", "ssh://user@machine")
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    with pytest.raises(EngineError, match="DOCKER_CONTEXT=nowhere: the context does not exist"):
        containers.engine(2)
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    with pytest.raises(EngineError, match=r"ssh://user@machine .*ssh -N -L"):
        containers.engine(2)
    assert "ssh -N -L" in endpoint.explain_unreachable(EngineError("ssh://x: `ssh -N -L` does it"))


def test_only_an_engine_on_this_machine_is_local() -> None:
    machine = platform.uname()
    info = {"Name": machine.node, "KernelVersion": machine.release}
    socket = endpoint.Endpoint("unix:///var/run/docker.sock", "the default socket")
    assert endpoint.is_this_machine(socket, info, contained=False)
    assert not endpoint.is_this_machine(socket, {**info, "Name": "other"}, contained=False)
    assert endpoint.is_this_machine(socket, {**info, "Name": "other"}, contained=True)
    assert not endpoint.is_this_machine(socket, {**info, "KernelVersion": "6.10-linuxkit"})
    assert not endpoint.is_this_machine(endpoint.Endpoint("tcp://x:1", "DOCKER_HOST"), info)


class _Client:
    """The answers of an engine's SDK client."""

    def __init__(self, components: list[dict[str, str]] | None = None) -> None:
        self._components = components or [{"Name": "Engine", "Version": "29.0.1"}]

    def version(self) -> dict[str, Any]:
        return {"Version": "29.0.1", "Components": self._components}

    def info(self) -> dict[str, Any]:
        return {"ID": "engine-a"}


def _fake_docker(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_every_session_queries_the_docker_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = _Client()
    old = "Error response from daemon: client version 1.41 is too old"
    _fake_docker(tmp_path, f'echo "{old}" >&2; exit 1', monkeypatch)
    with pytest.raises(UserError, match=r"client version 1\.41 is too old.*docker-cli"):
        containers.usable_version(client)
    _fake_docker(tmp_path, "echo engine-b", monkeypatch)
    with pytest.raises(UserError, match="engine engine-b, the SDK uses engine engine-a"):
        containers.usable_version(client)
    _fake_docker(tmp_path, "echo engine-a", monkeypatch)
    assert containers.usable_version(client) == "29.0.1"


def test_podman_is_refused_by_name() -> None:
    client: Any = _Client([{"Name": "Podman Engine", "Version": "5.4.2"}])
    with pytest.raises(UserError, match=r"Podman 5\.4\.2, which is not supported"):
        containers.usable_version(client)


def test_a_missing_credentials_helper_is_explained() -> None:
    with (
        pytest.raises(EngineError, match=r"credentials helper.*credsStore"),
        containers.engine_errors(),
    ):
        raise docker.credentials.errors.InitializationError("docker-credential-x not installed")


def test_a_build_without_its_credentials_helper_ends_with_a_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = docker.credentials.errors.InitializationError("docker-credential-x not installed")

    def build(*_: object) -> None:
        raise helper

    monkeypatch.setattr(verification, "_build", build)
    raw = {
        "results": str(tmp_path),
        "dataset": {"dir": "demo/dataset", "subset": "demo"},
        "models": {"replay": {"model": "command-a-03-2025", "replay": "demo/recordings"}},
        "settings": {"solo": ["--setting", "solo"]},
        "images": {"pull": False, "build": True},
    }
    monkeypatch.chdir(layout.REPOSITORY)
    demo = plan.make(config.parse(raw))
    client: Any = None
    with pytest.raises(UserError, match=r"not built: Docker's credentials helper.*config\.json"):
        verification._fetch(demo, client, demo.images[0])


ROOTLESS = {"SecurityOptions": ["name=seccomp", "name=rootless"], "PidsLimit": True}
CONTAINERD = {
    "DockerRootDir": "/var/lib/docker",
    "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
}


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(REPOSITORY)
    raw = {
        "results": str(tmp_path / "results"),
        "dataset": {"dir": "demo/dataset", "subset": "demo"},
        "models": {"replay": {"model": "command-a-03-2025", "replay": "demo/recordings"}},
        "settings": {"solo": ["--setting", "solo"], "team": ["--setting", "team"]},
    }
    return plan.make(config.parse(raw))


def test_only_configured_limits_are_required() -> None:
    assert endpoint.missing_limits(Containers(memory="16g", cpus=None), ROOTLESS) == ["memory"]
    assert endpoint.missing_limits(Containers(memory=None, cpus=2), ROOTLESS) == ["cpus"]
    assert endpoint.missing_limits(Containers(memory=None), ROOTLESS) == []


def test_a_rootless_engine_names_the_controllers_to_delegate(demo: Plan) -> None:
    client: Any = None
    line = checks.try_limits(demo, client, ROOTLESS)
    assert line.state == checks.BAD
    assert "Delegate=memory" in line.text
    assert "cpu" not in line.text
    assert "kernel parameters" in endpoint.limits_text(["memory"], {})


def test_image_storage_is_located_or_unknown() -> None:
    managed = {"Containerd": {"Address": "/var/run/docker/containerd/containerd.sock"}}
    system = {"Containerd": {"Address": "/run/containerd/containerd.sock"}}
    assert endpoint.image_store({"DockerRootDir": "/a"}) == Path("/a")
    assert endpoint.image_store(CONTAINERD | managed) == Path("/var/lib/docker")
    assert endpoint.image_store(CONTAINERD | system) == Path("/var/lib/containerd")
    assert endpoint.image_store(CONTAINERD) is None


class _Engine:
    """An engine with a given description, whose containers print a given output."""

    def __init__(self, info: dict[str, Any], outputs: tuple[bytes, ...] = ()) -> None:
        self._info = info
        self._outputs = list(outputs)
        self.containers = self
        self.api = self

    def info(self) -> dict[str, Any]:
        return self._info

    def run(self, *_: object, **__: object) -> bytes:
        return self._outputs.pop(0)

    def __getattr__(self, name: str) -> Any:
        """Nothing is left to be removed."""
        assert name in ("networks", "volumes"), name
        return lambda **_: {} if name == "volumes" else []


def test_disk_space_of_another_machine_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    monkeypatch.setattr(endpoint, "CONTAINER_MARK", tmp_path / "none")
    machine = {"Name": platform.node(), "KernelVersion": platform.release()}
    local: Any = _Engine({"DockerRootDir": str(tmp_path), **machine})
    assert containers.storage(local)[1]
    forwarded: Any = _Engine({"DockerRootDir": str(tmp_path), **machine, "Name": "elsewhere"})
    assert containers.storage(forwarded) == (tmp_path, None)
    assert not containers.is_local(forwarded)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert containers.storage(local) == (tmp_path, None)


def test_a_setting_that_calls_back_needs_a_local_engine(
    demo: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    remote: Any = _Engine({"Name": "elsewhere"})
    solo = [run for run in demo.runs if run.experiment.setting.name == "solo"]
    work = checks.Work(images=False, runs=solo, evaluations=[])
    assert not list(checks.check_callbacks(checks.Context(demo, work), remote))
    work = checks.Work(images=False, runs=demo.runs, evaluations=[])
    (problem,) = checks.check_callbacks(checks.Context(demo, work), remote)
    assert "replay-team" in problem.text


def test_lost_output_is_not_an_answer(demo: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "remove", lambda *_: 0)
    good = b"repo=ok 1\nrunner=ok \nbash=ok /bin/bash\n"
    lossy: Any = _Engine({}, (b"", b"repo=ok 1\n", good))
    assert verification._verify(demo, lossy, "image", "id")["repo"] == "1"
    silent: Any = _Engine({}, (b"",) * containers.OUTPUT_TRIES)
    with pytest.raises(EngineError, match="lost the output"):
        verification._verify(demo, silent, "image", "id")
    bad: Any = _Engine({}, (good.replace(b"runner=ok", b"runner=no"),))
    with pytest.raises(UserError, match="not usable for a run"):
        verification._verify(demo, bad, "image", "id")


def test_limits_apply_to_docker_run_and_the_sdk() -> None:
    limits = Containers(memory="2g", cpus=0.5, pids=100, network="none")
    arguments, sdk = endpoint.limits(limits)
    assert arguments == [
        "--oom-score-adj=500",
        "--memory=2g",
        "--memory-swap=2g",
        "--cpus=0.5",
        "--pids-limit=100",
        "--network=none",
    ]
    assert sdk == {
        "oom_score_adj": 500,
        "mem_limit": "2g",
        "memswap_limit": "2g",
        "nano_cpus": 500_000_000,
        "pids_limit": 100,
        "network": "none",
    }
    assert "--network=none" not in endpoint.limits(limits, own_network=True)[0]


def test_more_processors_than_available_are_not_an_error() -> None:
    _, sdk = endpoint.limits(Containers(cpus=100_000))
    assert sdk["nano_cpus"] < 100_000 * 10**9
