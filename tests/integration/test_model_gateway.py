"""The model gateway of a run, in front of a replay server, called as a container calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from experiment_client import REPOSITORY
from replay_client import Server, feature_text
from replay_client import server as serving

from cooperflow.atomic_io import read_lines
from cooperflow.outcomes import usage

KEY = "a-provider-key-7c1b9e"
TOKEN = "the-runs-own-token"
NAMED = f"{TOKEN}/agent1"
TERMINAL = {
    "type": "function",
    "function": {
        "name": "terminal",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    },
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    with serving(folder, recordings=REPOSITORY / "demo" / "openhands") as running:
        yield running


class Gateway:
    """A gateway, and a run's process that has made no call itself.

    A fork of this one would have what other tests left in litellm: its first recorder for good, and
    a pool without its threads.
    """

    PROGRAM = """
import json, sys
from pathlib import Path
from cooperflow.attempt.services import Gateway, Upstream
folder, kwargs = Path(sys.argv[1]), json.loads(sys.argv[2])
upstream = Upstream("command-a-03-2025", {key!r}, kwargs, 3, folder / "calls.jsonl")
gateway = Gateway("127.0.0.1", {token!r}, upstream, folder / "gateway.log")
print(gateway.url, flush=True)
sys.stdin.read()
gateway.end()
print("died" if gateway.died else "alive")
"""

    def __init__(self, folder: Path, kwargs: dict[str, Any]) -> None:
        program = self.PROGRAM.format(key=KEY, token=TOKEN)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder), json.dumps(kwargs)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.output: str | None = None

    def end(self) -> None:
        if self.output is None:
            self.output, _ = self._process.communicate(timeout=60)


@pytest.fixture
def gateway(tmp_path: Path, server: Server) -> Iterator[Gateway]:
    kwargs = {"api_base": f"{server.url}/v2/chat", "timeout": 20, "max_retries": 0}
    instance = Gateway(tmp_path, kwargs)
    yield instance
    instance.end()
    assert instance.output == "died\n"
    assert KEY not in "".join(p.read_text() for p in tmp_path.iterdir() if p.is_file())


def ask(gateway: Gateway, token: str = NAMED, **more: Any) -> httpx.Response:
    """Ask as agent1 of a coop run with messages does at its first step."""
    prompt = "You are OpenHands agent, ...\nYou are agent1 working as a team with: agent1, agent2."
    body = {
        "model": "another-model-altogether",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": prompt}]},
            {"role": "user", "content": feature_text("demo_inventory_task", 1, 1)},
        ],
        "tools": [TERMINAL],
        "temperature": 0.0,
        "api_base": "http://127.0.0.1:9/elsewhere",
        "metadata": {"what": "a provider need not know"},
        **more,
    }
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{gateway.url}/chat/completions", json=body, headers=headers, timeout=60)


def test_a_call_with_the_token_is_served(gateway: Gateway, server: Server, tmp_path: Path) -> None:
    for token in ("x", KEY, TOKEN + "x"):
        assert ask(gateway, token).status_code == 401
    assert not server.ledger_file.exists() or not server.ledger()
    answer = ask(gateway)
    assert answer.status_code == 200, answer.text
    call = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "terminal"
    assert "inventory/report.py" in json.loads(call["arguments"])["command"]
    gateway.end()  # what was answered is written down by then
    (answered,) = usage.calls(read_lines(tmp_path / "calls.jsonl"))
    (entry,) = server.ledger()
    assert (answered.kind, answered.thread) == (usage.ANSWERED, "agent1")
    assert (answered.input_tokens, answered.output_tokens) == (
        entry["input_tokens"],
        entry["output_tokens"],
    )
    # The config's model at the config's end point, whatever a client asks for.
    assert entry["model"] == "command-a-03-2025"
    assert answered.cost > 0


def test_unsupported_and_broken_requests_are_refused(gateway: Gateway) -> None:
    assert ask(gateway, stream=True).status_code == 400
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.post(f"{gateway.url}/responses", json={}, headers=headers).status_code == 404
    broken = httpx.post(f"{gateway.url}/chat/completions", content=b"[", headers=headers)
    assert broken.status_code == 400


def test_failures_are_reported_and_final_if_retries_are_useless(
    gateway: Gateway, server: Server, tmp_path: Path
) -> None:
    """The provider's status reaches the agent; if retries are useless, a final status does."""
    server.faults({"match": {}, "action": "rate_limited"})
    answers = [ask(gateway) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 403]
    assert {answer.headers["x-should-retry"] for answer in answers} == {"false"}
    kinds = [call.kind for call in usage.calls(read_lines(tmp_path / "calls.jsonl"))]
    assert kinds == [usage.RATE_LIMITED] * 3
    server.faults()
    assert ask(gateway).status_code == 200
    quoted = {"message": f"invalid api token: {KEY}"}
    server.faults({"match": {}, "action": "unauthorized", **quoted})
    refused = ask(gateway)
    assert refused.status_code == 401
    assert "invalid api token: [key]" in refused.text
