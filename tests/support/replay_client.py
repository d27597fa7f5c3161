"""Client of a replay server: start, requests, ledger, and upstream's prompts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from process_groups import wait_for

DEMO = Path(__file__).resolve().parents[2] / "demo"
DATASET = DEMO / "dataset"
RECORDINGS = DEMO / "recordings"
BASH = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Execute a bash command",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string", "description": "The command"}},
            "required": ["command"],
        },
    },
}


@dataclass
class Server:
    """A running replay server."""

    process: subprocess.Popen[bytes]
    port: int
    ledger_file: Path

    @property
    def url(self) -> str:
        """The base URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def request(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return the JSON answer to a request with an optional JSON body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    @property
    def cohere_url(self) -> str:
        """The end point for Cohere's wire format."""
        return f"{self.url}/v2/chat"

    def faults(self, *rules: Mapping[str, Any]) -> None:
        """Replace the fault rules."""
        self.request("/_control/faults", {"rules": list(rules)}, "PUT")

    @contextlib.contextmanager
    def hold_answers(self) -> Iterator[None]:
        """Hold back all answers in the body; callers wait."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def ledger(self) -> list[dict[str, Any]]:
        """Return the lines of the ledger file; empty before the first call."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in self.ledger_file.read_text("utf-8").splitlines()]
        return []

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


def start_server(directory: Path, *options: str, recordings: Path = RECORDINGS) -> Server:
    """Start a separate replay server in the directory, by default with the demo's recordings."""
    directory.mkdir(parents=True, exist_ok=True)
    port_file, ledger = directory / "port", directory / "ledger.jsonl"
    what = [] if "--script" in options else ["--recordings", str(recordings)]
    command = [sys.executable, str(DEMO / "replay_server.py"), *what]
    command += ["--port-file", str(port_file), "--ledger", str(ledger), *options]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: port_file.exists() or process.poll() is not None, 60, "the replay server")
        assert process.poll() is None, (directory / "log").read_text()
        return Server(process, int(port_file.read_text()), ledger)
    except BaseException:
        process.kill()
        process.wait()
        raise


@contextlib.contextmanager
def server(directory: Path, *options: str, recordings: Path = RECORDINGS) -> Iterator[Server]:
    """Run a server in the directory until the end of the block."""
    running = start_server(directory, *options, recordings=recordings)
    try:
        yield running
    finally:
        running.end()


def feature_text(repo: str, task: int, feature: int) -> str:
    """Return the text of a feature in the demo's data set."""
    return (DATASET / repo / f"task{task}" / f"feature{feature}" / "feature.md").read_text("utf-8")


def first_messages(
    repo: str, task: int, features: list[int], kind: str, agent: str, dataset: Path = DATASET
) -> list[dict[str, Any]]:
    """Return the first two messages of an agent, made from upstream's templates."""
    spec = importlib.util.find_spec("cooperbench")
    assert spec is not None and spec.origin is not None
    name = "solo" if kind == "solo" else "coop"
    config = Path(spec.origin).parent / f"agents/mini_swe_agent_v2/config/{name}.yaml"
    templates = yaml.safe_load(config.read_text("utf-8"))["agent"]
    texts = {
        feature: (dataset / repo / f"task{task}" / f"feature{feature}" / "feature.md").read_text(
            "utf-8"
        )
        for feature in features
    }
    task_text = texts[features[0]]
    if kind == "solo":
        parts = [f"## Feature {feature}\n\n{text}" for feature, text in texts.items()]
        task_text = "\n\n---\n\n".join(parts)
    values = {
        "task": task_text,
        "agent_id": None if kind == "solo" else agent,
        "agents": [] if kind == "solo" else ["agent1", "agent2"],
        "git_enabled": False,
        "messaging_enabled": kind == "coop-comm",
        "system": "Linux",
        "release": "6",
        "version": "1",
        "machine": "x86_64",
    }
    return [
        {"role": "system", "content": jinja2.Template(templates["system_template"]).render(values)},
        {"role": "user", "content": jinja2.Template(templates["instance_template"]).render(values)},
    ]


def play(server: Server, messages: list[dict[str, Any]], limit: int = 40) -> list[list[str]]:
    """Play a complete conversation in Cohere's format; return each turn's commands."""
    turns: list[list[str]] = []
    messages = list(messages)
    for _ in range(limit):
        body = {"model": "command-a-03-2025", "messages": messages, "tools": [BASH]}
        message = server.request("/v2/chat", body)["message"]
        calls = message["tool_calls"]
        turns.append([json.loads(call["function"]["arguments"])["command"] for call in calls])
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        for call in calls:
            output = {"role": "tool", "tool_call_id": call["id"], "content": f"output {len(turns)}"}
            messages.append(output)
        if "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT" in turns[-1][-1]:
            return turns
    raise AssertionError(f"no submit within {limit} turns")


# Prices for the ledger's tokens, USD per token, independent of litellm.
PRICES = {
    "cohere": {"input": 2.5e-6, "output": 10e-6},
    "openai": {"input": 2.5e-6, "output": 10e-6, "read": 1.25e-6},
    "anthropic": {
        "input": 3e-6,
        "output": 15e-6,
        "read": 0.3e-6,
        "write": 3.75e-6,
        "write_1h": 6e-6,
    },
}


def billed(line: dict[str, Any]) -> float:
    """Return the cost of a call according to the ledger."""
    if line["reported_cost"] is not None:
        return float(line["reported_cost"])
    price = PRICES[line["wire"]]
    if line["wire"] == "cohere":
        return float(
            line["billed_input_tokens"] * price["input"]
            + line["billed_output_tokens"] * price["output"]
        )
    read, written = line["cached_tokens"], line["cache_write_tokens"]
    hour = line["cache_write_1h_tokens"]
    return float(
        (line["input_tokens"] - read - written) * price["input"]
        + read * price.get("read", 0)
        + (written - hour) * price.get("write", 0)
        + hour * price.get("write_1h", 0)
        + line["output_tokens"] * price["output"]
    )
