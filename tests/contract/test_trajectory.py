"""Documents that cooperbench writes about an agent's work: trajectories, messages, tokens."""

from __future__ import annotations

import importlib
import inspect
import json
import time
from pathlib import Path
from typing import Any

import pytest

from cooperflow.attempt import child_process
from cooperflow.upstream import result_files, trajectory
from cooperflow.upstream.trajectory import RECEIVED, SUMMARY, TURN, Tokens

child_process.prepare_environment()

from cooperbench.agents.mini_swe_agent_v2.agents import default  # noqa: E402
from cooperbench.agents.mini_swe_agent_v2.exceptions import Submitted  # noqa: E402
from cooperbench.runner import coop  # noqa: E402


class Model:
    """Answers with one command per turn, in the form of upstream's LitellmModel."""

    config = None

    def __init__(self, commands: list[str], says: str = "I look.") -> None:
        self.commands, self.says, self.answers = commands, says, 0

    def query(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        n = self.answers
        self.answers += 1
        arguments = json.dumps({"command": self.commands[n]})
        call = {"id": f"call{n}", "function": {"name": "bash", "arguments": arguments}}
        actions = [{"command": self.commands[n], "tool_call_id": f"call{n}"}]
        return self._answer(f"answer{n}", self.says, tool_calls=[call], actions=actions)

    def summarize_context(self, messages: list[dict[str, Any]], summary_prompt: str) -> Any:
        return self._answer(f"summary{self.answers}", "## FILE MAP", summary=True)

    def _answer(self, name: str, text: str, tool_calls: Any = None, **extra: Any) -> Any:
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        extra |= {"response": {"id": name, "usage": usage}, "timestamp": time.time(), "cost": 0.1}
        message = {"role": "assistant", "content": text, "extra": extra}
        return message | ({"tool_calls": tool_calls} if tool_calls else {})

    def format_message(self, **fields: Any) -> dict[str, Any]:
        return fields

    def format_observation_messages(self, message: Any, outputs: Any, values: Any) -> Any:
        pairs = zip(message["extra"]["actions"], outputs, strict=True)
        return [
            {
                "role": "tool",
                "tool_call_id": action["tool_call_id"],
                "content": output["output"],
                "extra": {"raw_output": output["output"], "returncode": output["returncode"]},
            }
            for action, output in pairs
        ]

    def get_template_vars(self, **values: Any) -> dict[str, Any]:
        return {}

    def serialize(self) -> dict[str, Any]:
        return {}


class Environment:
    """Repeats each command; `done` submits."""

    def execute(self, action: dict[str, Any]) -> dict[str, Any]:
        if action["command"] == "done":
            raise Submitted({"role": "exit", "content": "", "extra": {"exit_status": "Submitted"}})
        return {"output": f"ran {action['command']}", "returncode": 0, "exception_info": ""}

    def get_template_vars(self, **values: Any) -> dict[str, Any]:
        return {}

    def serialize(self) -> dict[str, Any]:
        return {}


class Mailbox:
    """Delivers to agent2, which is running; agent3 has ended. One message arrives in turn 3."""

    agent_id, agents = "agent1", ["agent1", "agent2"]

    def __init__(self) -> None:
        self.polls = 0

    def receive(self) -> list[dict[str, str]]:
        self.polls += 1
        return [{"from": "agent2", "content": "hello"}] if self.polls == 3 else []

    def send(self, to: str, content: str) -> bool:
        return to != "agent3"

    def has_exited(self, name: str) -> bool:
        return False

    def has_published(self, name: str) -> bool:
        return False

    def mark_exited(self, published: bool = False) -> None: ...


def run(folder: Path, model: Model, comm: Any = None, **config: Any) -> Any:
    """Run upstream's agent to its end and save what the adapter and the runner save."""
    agent = default.DefaultAgent(
        model=model, env=Environment(), comm=comm, agent_id="agent1",
        system_template="You are agent1.", instance_template="Do it.", step_limit=0, cost_limit=0,
        **config,
    )  # fmt: skip
    agent.run()
    if agent._compaction_count:
        agent.save(folder / "agent1_full_traj.json")
    document = {"agent_id": "agent1", "feature_id": 7, "messages": agent.messages}
    (folder / "agent7_traj.json").write_text(json.dumps(document))
    return agent


def documents(folder: Path) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*_traj.json")}


@pytest.mark.parametrize("trigger", [1, 10**6])
@pytest.mark.parametrize("keep_turns", [0, 1, 2, 3])
def test_each_turn_is_read_once_with_its_output(
    tmp_path: Path, trigger: int, keep_turns: int
) -> None:
    model = Model([*(f"command {n}" for n in range(8)), "done"])
    config = {"compaction_token_trigger": trigger, "compaction_keep_recent_turns": keep_turns}
    agent = run(tmp_path, model, Mailbox(), **config)
    trajectories = trajectory.parse(documents(tmp_path))
    assert list(trajectories) == ["agent1"]
    agent_trajectory = trajectories["agent1"]
    assert [turn.answer_id for turn in agent_trajectory.turns] == [f"answer{n}" for n in range(9)]
    assert [turn.commands[0].output for turn in agent_trajectory.turns] == [
        *(f"ran command {n}" for n in range(8)),
        None,
    ]
    summaries = [entry for entry in agent_trajectory.entries if entry.kind == SUMMARY]
    assert len(summaries) == agent._compaction_count
    assert (len(summaries) > 1) is (trigger == 1)
    times = [entry.time for entry in agent_trajectory.entries if entry.kind != RECEIVED]
    assert times == sorted(times)  # type: ignore[type-var]
    assert agent_trajectory.task == "You are agent1.\n\nDo it."
    received = [entry.text for entry in agent_trajectory.entries if entry.kind == RECEIVED]
    if keep_turns:  # else the summary replaced it before any answer
        assert received == ["[Message from agent2]: hello"]
    total = sum(entry.tokens.input for entry in agent_trajectory.entries if entry.tokens)
    assert total == 100 * (9 + len(summaries))
    assert agent.cost == pytest.approx(0.9)  # without the summaries


def test_without_the_full_trajectory_the_other_one_is_read(tmp_path: Path) -> None:
    model = Model([*(f"command {n}" for n in range(8)), "done"])
    run(tmp_path, model, compaction_token_trigger=1)
    complete = documents(tmp_path)
    flat = complete["agent7_traj.json"]
    for available in (
        {**complete, "agent1_full_traj.json": None},
        {"agent7_traj.json": flat},
    ):
        (agent_trajectory,) = trajectory.parse(available).values()
        assert agent_trajectory.agent == "agent1"
        assert [entry.kind for entry in agent_trajectory.entries][:2] == [SUMMARY, TURN]
        assert agent_trajectory.turns[-1].answer_id == "answer8"


def test_the_adapter_names_a_full_trajectory_after_the_agent() -> None:
    adapter = importlib.import_module("cooperbench.agents.mini_swe_agent_v2.adapter")
    assert 'f"{agent_id}_full_traj.json"' in inspect.getsource(adapter)


QUOTING = 'Later I will run send_message agent2 "are you done?" to ask.'


def test_a_quoted_message_was_not_sent(tmp_path: Path) -> None:
    """Upstream's own code lists it, and what was sent in two of the three forms."""
    commands = [
        "send_message agent2 <<'MSG'\nI take store.py.\nMSG",
        'send_message agent3 "are you there?"',  # has left: not delivered
        "send_message agent2 'and tests'",
        "done",
    ]
    agent = run(tmp_path, Model(commands, says=QUOTING), Mailbox())
    of_agent = {"feature_id": 7, "messages": agent.messages, "sent_messages": agent.sent_messages}
    conversation = coop._extract_conversation({"agent1": of_agent}, ["agent1"])
    conversation = [message for message in conversation if not message.get("received")]
    assert len(conversation) == 2 + 4  # each of the four answers quotes
    for framework in ("mini_swe_agent_v2", ""):
        messages = result_files.sent_messages(conversation, documents(tmp_path), framework)
        assert [(m.to, m.text) for m in messages] == [
            ("agent2", "I take store.py."),
            ("agent2", "and tests"),
        ]


def test_a_quotation_of_a_sent_message_is_not_counted_twice(tmp_path: Path) -> None:
    commands = ['send_message agent2 "are you done?"', "done"]
    agent = run(tmp_path, Model(commands, says=QUOTING), Mailbox())
    of_agent = {"feature_id": 7, "messages": agent.messages, "sent_messages": agent.sent_messages}
    conversation = coop._extract_conversation({"agent1": of_agent}, ["agent1"])
    messages = result_files.sent_messages(conversation, documents(tmp_path), "mini_swe_agent_v2")
    assert [m.text for m in messages] == ["are you done?"]


def test_an_agent_that_sends_by_text_is_believed() -> None:
    """The older mini_swe_agent put its commands into the text of its answers."""
    messages = [{"role": "assistant", "content": QUOTING}]
    listed = [{"from": "agent1", "to": "agent2", "message": "are you done?"}]
    of_agent = {"agent1_traj.json": {"agent_id": "agent1", "messages": messages}}
    assert len(result_files.sent_messages(listed, of_agent, "mini_swe_agent")) == 1
    assert result_files.sent_messages(listed, of_agent, "mini_swe_agent_v2") == []


@pytest.mark.parametrize(
    "command",
    [
        "send_message agent2 <<'MSG'\none\ntwo\nMSG\nls",
        "send_message --wait agent2 <<EOF\none\nEOF",
        'ls; send_message agent2 --wait "one"; send_message agent2 "two"',
        "send_message agent2 'one'",
        "send_message agent2 one",
        "ls",
    ],
)
def test_messages_are_extracted_from_a_command_as_upstream_does(command: str) -> None:
    theirs = [(to, text) for to, text, _ in default._parse_send_messages(command)]
    assert result_files.requested_messages(command) == theirs


@pytest.mark.parametrize("agent", ["mini_swe_agent_v2", "claude_code", "codex"])
def test_these_agents_report_what_they_sent(agent: str) -> None:
    source = inspect.getsource(importlib.import_module(f"cooperbench.agents.{agent}.adapter"))
    assert "sent_messages=" in source
    assert agent in result_files.REPORTING_AGENTS


def test_claude_code_counts_cached_tokens_beside_its_input() -> None:
    parsers = importlib.import_module("cooperbench.agents.claude_code.parsers")
    usage = {
        "input_tokens": 12,
        "output_tokens": 5,
        "cache_read_input_tokens": 4000,
        "cache_creation_input_tokens": 100,
    }
    event = {"type": "result", "subtype": "success", "num_turns": 3, "usage": usage}
    summary = parsers.parse_stream_json(json.dumps(event))
    end = {
        "input_tokens": summary.input_tokens,
        "output_tokens": summary.output_tokens,
        "cache_read_tokens": summary.cache_read_tokens,
        "cache_write_tokens": summary.cache_write_tokens,
    }
    document = {"agent_framework": "claude_code", "agents": {"agent1": end, "agent2": end}}
    assert result_files.tokens(document) == Tokens(2 * 4112, 10, 8000)
    # Others count what was read from the cache as input.
    end = {"input_tokens": 4000, "output_tokens": 5, "cache_read_tokens": 3000}
    assert result_files.tokens({"agent_framework": "codex", "agent": end}) == Tokens(4000, 5, 3000)
