"""OpenHands in containers of this machine: the real agent server, no model, no cost."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import docker.errors
import pytest
from experiment_client import (
    INVENTORY,
    KEY,
    REPOSITORY,
    Experiment,
    containers_of,
    ledger_tokens,
    run_group,
    wait_for,
)
from replay_client import Server
from replay_client import server as serving

from cooperflow import atomic_io, layout
from cooperflow.openhands import agent_server
from cooperflow.upstream import published

pytestmark = [pytest.mark.docker, pytest.mark.slow]

RECORDINGS = REPOSITORY / "demo" / "openhands"
# Messages of the clients of package sources that they cannot reach.
UNREACHABLE = re.compile(r"could not resolve|failed to (fetch|connect)|unable to connect|dns error")


@pytest.fixture(scope="module", autouse=True)
def parts() -> None:
    """The agents' image is built once; without package sources it cannot be built."""
    result = subprocess.run(
        ["envs/setup.sh", "openhands"], cwd=REPOSITORY, capture_output=True, text=True, timeout=550
    )
    if result.returncode and UNREACHABLE.search((result.stdout + result.stderr).lower()):
        pytest.skip("the Debian and Python package sources are out of reach")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A replay server that plays OpenHands' recordings."""
    folder = tmp_path / "server"
    folder.mkdir()
    with serving(folder, "--delay", "1", recordings=RECORDINGS) as running:
        yield running


def list_networks(results: Path) -> list[str]:
    identity = (results / ".state" / "id").read_text().strip()
    command = ["docker", "network", "ls", "-q", "--filter", f"label=cooperflow.results={identity}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_demo(clone: Path) -> None:
    """One pair passes in the three settings; agents with messages send them; usage is correct."""
    command = [".venv/bin/python", "scripts/commands/demo.py", "config/demo-openhands.yaml"]
    result = run_group(command, 550, clone)
    assert result.returncode == 0, result.stdout
    results = clone / "results" / "demo-openhands"
    experiment = Experiment(clone, results, clone / "config/demo-openhands.yaml", None)  # type: ignore[arg-type]
    assert {
        r["setting"]: (r["outcome"], r["reason"], r["attempts"]) for r in experiment.rows()
    } == {
        "solo": ("pass", "", "1"),
        "coop-comm": ("pass", "", "1"),
        "coop-nocomm": ("pass", "", "1"),
    }
    assert {r["setting"]: r["messages_sent"] for r in experiment.rows()}["coop-comm"] == "4"
    messages = json.loads(next(results.rglob("conversation.json")).read_text())
    assert {(m["from"], m["to"]) for m in messages} <= {("agent1", "agent2"), ("agent2", "agent1")}
    # A message reaches the other agent's conversation, at least that of the slower agent.
    talks = results / "runs" / "replay-coop-comm"
    heard = "".join(
        content.decode()
        for path in talks.rglob("agent?_traj.json*")
        for _, content in atomic_io.file_contents(path)
    )
    assert re.search(r"\[Message from agent[12]\]: I plan to modify", heard)
    threads = {record["thread"] for folder in talks.rglob("attempts/*")
               for record in atomic_io.read_lines(folder / layout.CALLS)}  # fmt: skip
    assert threads == {"agent1", "agent2"}
    calls = [
        json.loads(line)
        for path in results.rglob("ledger.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert calls and all(call["answered"] for call in calls)
    assert experiment.recorded_tokens() == (
        sum(call["input_tokens"] for call in calls),
        sum(call["output_tokens"] for call in calls),
    )
    paths = results.rglob("agent-server-*.log*")
    logs = {plain.name: text for path in paths for plain, text in atomic_io.file_contents(path)}
    assert set(logs) == {f"agent-server-{name}.log" for name in ("solo", "agent1", "agent2")}
    assert all(b"/health" in text for text in logs.values())
    sentinel = json.loads(
        (results / "images" / "cooperbench-demo-inventory_task1-oh.json").read_text()
    )
    assert sentinel["checked"]["agent_server"] == "1.10.0"
    assert containers_of(results) == [] and list_networks(results) == []


def test_network_access_of_a_container(make_experiment: Callable[..., Experiment]) -> None:
    """No key enters a container; it reaches its run's services and nothing outside."""
    experiment = make_experiment(
        pairs=[(INVENTORY, 1, 1, 2)], settings=("coop-comm",), agent={"name": "openhands_docker"}
    )
    process = experiment.start()
    experiment.wait_until(process, lambda: containers_of(experiment.results), 300)
    # One agent may be done before the other has its server: nobody is answered until both ask.
    with experiment.server.hold_answers():
        experiment.wait_until(
            process, lambda: _calling_agents(experiment) == {"agent1", "agent2"}, 300
        )
    experiment.wait_until(process, lambda: experiment.count_recorded_calls() >= 4, 120)
    with experiment.server.hold_answers():
        agents = containers_of(experiment.results)
        assert len(agents) == 2
        for container in agents:
            _assert_no_key_inside(container)
    assert process.wait(300) == 0, process.stdout
    assert [(r["outcome"], r["attempts"]) for r in experiment.rows()] == [("pass", "1")]
    assert experiment.recorded_tokens() == ledger_tokens(experiment.server)
    assert list_networks(experiment.results) == []


def _calling_agents(experiment: Experiment) -> set[str]:
    """The agents that have made a call."""
    return {record["thread"] for log in experiment.call_logs() for record in log}


def _assert_no_key_inside(container: str) -> None:
    output = _docker("exec", container, "sh", "-c", "cat /proc/*/environ | tr '\\0' '\\n'")
    output += _docker("inspect", container)
    assert KEY not in output
    # Not in the command line, where any process of the machine could read the key.
    search = "grep -rlF -f - /workspace /tmp /root /etc /run /var || true"
    assert not _docker("exec", "-i", container, "sh", "-c", search, standard_input=KEY)
    with _outside() as address:
        assert _can_reach(container, "127.0.0.1", 8000), "its own server"
        assert not _can_reach(container, address, 8000), "there is a way out of the network"


@contextlib.contextmanager
def _outside() -> Iterator[str]:
    """A container on Docker's own bridge that serves on port 8000: its address."""
    serve = ("python3", "-m", "http.server", "8000")
    name = _docker("run", "-d", "--rm", "cooperflow/demo-base:bookworm", *serve).strip()
    try:
        address = _docker(
            "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", name
        ).strip()
        wait_for(lambda: socket.socket().connect_ex((address, 8000)) == 0, 60)
        yield address
    finally:
        _docker("kill", name)


def _can_reach(container: str, address: str, port: int) -> bool:
    script = f"import socket; socket.create_connection(({address!r}, {port}), 3)"
    command = ["docker", "exec", container, "python3", "-c", script]
    return subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def _docker(*arguments: str, standard_input: str = "") -> str:
    command = ["docker", *arguments]
    return subprocess.run(
        command, input=standard_input, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_a_patch_is_complete_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's own code returns an empty patch if it cannot reach the container."""
    client = docker.from_env()
    image = published.image_name(INVENTORY, 1)
    container = client.containers.run(
        image, ["300"], entrypoint="sleep", detach=True, remove=True, init=True
    )
    try:
        this = object.__new__(agent_server.Sandbox)
        monkeypatch.setattr(this, "_container", container, raising=False)
        monkeypatch.setattr(this, "_base", this._git("rev-parse", "HEAD").strip(), raising=False)
        assert this.patch() == ""
        change = "echo new > new.txt; git add -A; git -c user.email=a -c user.name=a commit -qm x"
        _docker("exec", "-w", agent_server.REPOSITORY, container.id, "sh", "-c", change)
        _docker(
            "exec", "-w", agent_server.REPOSITORY, container.id, "sh", "-c", "echo more > more.txt"
        )
        assert "+++ b/new.txt" in this.patch()
        assert "+++ b/more.txt" in this.patch()
        _docker("exec", container.id, "rm", "-rf", f"{agent_server.REPOSITORY}/.git")
        assert this.patch() == ""  # what an agent has broken is the agent's affair
        _docker("exec", container.id, "sh", "-c", "mv $(command -v git) /tmp/git")
        with pytest.raises((RuntimeError, docker.errors.APIError), match="git"):
            this.patch()
        container.kill()
        with pytest.raises(docker.errors.DockerException):
            this.patch()
    finally:
        with contextlib.suppress(docker.errors.DockerException):
            container.remove(force=True)
        client.close()


BEGINS_LATE = """
import sys
sys.path[:0] = ["scripts"]
from cooperflow.attempt import child_process
child_process.prepare_environment()
from cooperflow.openhands import agent
from openhands.sdk.conversation.impl.remote_conversation import RemoteConversation

conversation = object.__new__(RemoteConversation)
print("upstream", conversation._handle_conversation_status("idle"))
agent.wait_until_it_runs()
print("idle", conversation._handle_conversation_status("idle"))
print("running", conversation._handle_conversation_status("running"))
print("finished", conversation._handle_conversation_status("finished"))
agent.HEALTHY_SECONDS = 0
try:
    conversation._handle_conversation_status("idle")
except TimeoutError as error:
    print("late", error)
"""


def test_an_agent_that_has_not_started_has_not_ended() -> None:
    """Check the SDK's behaviour first: once it changes, the patch can be removed."""
    result = subprocess.run(
        [".venv/bin/python", "-c", BEGINS_LATE], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.stdout.splitlines()[-5:] == [
        "upstream True",
        "idle False",
        "running False",
        "finished True",
        "late the agent did not start within 0 s",
    ], result.stdout + result.stderr
