"""A finished experiment as a recording: played back, each run ends as it did."""

from __future__ import annotations

import pytest

from commands import record
from commands.record import Answer
from cooperflow.upstream import trajectory
from replay.recordings import Turn


def _answers(*moments: tuple[float, float], last: str = "ls") -> list[Answer]:
    commands = ["ls"] * (len(moments) - 1) + [last]
    return [
        Answer("", (command,), started, ended, (10, 2))
        for command, (started, ended) in zip(commands, moments, strict=True)
    ]


DONE = f"echo {record.SUBMIT}"


def test_an_answer_waits_for_the_progress_of_the_other_agent() -> None:
    answers = {
        "agent1": _answers((0, 1), (2, 3), (9, 10), last=DONE),
        "agent2": _answers((0.5, 4), (8, 8.5), last=DONE),
    }
    turns = record.turns("agent1", answers, "")
    assert [turn.get("after") for turn in turns] == [{"agent2": 1}, None, {"agent2": 2}]
    assert [turn.get("after") for turn in record.turns("agent2", answers, "")] == [
        {"agent1": 2},
        None,
    ]
    assert Turn.from_json(turns[0]) == Turn("", ("ls",), (10, 2), (("agent2", 1),))


@pytest.mark.parametrize(
    ("reason", "last", "commands"),
    [
        ("timeout", "ls", [record.AT_WORK]),
        ("timeout", DONE, None),
        ("context_limit", "ls", []),
        ("tests_failed", "ls", None),
    ],
)
def test_turns_after_the_last_answer(reason: str, last: str, commands: list[str] | None) -> None:
    turns = record.turns("solo", {"solo": _answers((0, 1), (2, 3), last=last)}, reason)
    assert len(turns) == (2 if commands is None else 3)
    if commands is not None:
        assert turns[-1]["commands"] == commands
        assert Turn.from_json(turns[-1]).full is (reason == "context_limit")


def _message(number: int, command: str = "ls") -> dict[str, object]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "bash", "arguments": f'{{"command": "{command}"}}'}}],
        "extra": {"response": {"id": f"r{number}"}},
    }


def test_turns_before_a_compaction_come_first() -> None:
    summary = {
        "role": "assistant",
        "content": "## FILE MAP",
        "extra": {"summary": True, "response": {"id": "s"}},
    }
    full = {
        "segments": [
            {"kind": "solver", "messages": [_message(1, "one"), _message(2, "two")]},
            {"kind": "summarizer", "messages": [{"role": "assistant", "content": "x"}, summary]},
            {"kind": "solver", "messages": [summary, _message(2, "two"), _message(3, "three")]},
        ],
        "messages": [summary, _message(2, "two"), _message(3, "three")],
    }
    records = [
        {"event": "start", "id": "c", "time": 5.0},
        {"event": "end", "id": "c", "response_id": "r3", "time": 6.0, "input_tokens": 7},
    ]
    documents = {
        "agent1_full_traj.json": full,
        "agent7_traj.json": {"agent_id": "agent1", "messages": [summary, _message(3)]},
    }
    trajectories = trajectory.parse(documents)
    assert list(trajectories) == ["agent1"]
    answers = record.turns_of_trajectory(trajectories["agent1"], records)
    assert [answer.commands for answer in answers] == [("one",), ("two",), ("three",)]
    assert (answers[2].asked, answers[2].answered, answers[2].tokens) == (5.0, 6.0, (7, 0))


def test_turns_of_a_stopped_run() -> None:
    def end(call: str, **message: object) -> dict[str, object]:
        return {"event": "end", "id": call, "kind": "answered", "time": 2.0, "message": message}

    calls = {"tool_calls": [{"function": {"name": "bash", "arguments": '{"command": "ls"}'}}]}
    records = [
        {"event": "start", "id": "a", "agent": "agent1", "time": 1.0},
        {"event": "start", "id": "b", "agent": "agent2", "time": 1.0},
        end("a", **calls),
        end("b", content="a summary"),
        {"event": "start", "id": "c", "agent": "agent1", "time": 3.0},
    ]
    assert [answer.commands for answer in record.turns_of_calls(records, "agent1")] == [("ls",)]
    assert record.turns_of_calls(records, "agent2") == []


@pytest.mark.parametrize(
    ("model", "played"),
    [
        ("command-a-03-2025", ("command-a-03-2025", True)),
        ("gpt-4.1", ("openai/gpt-4.1", True)),
        ("openai/gpt-4.1", ("openai/gpt-4.1", True)),
        ("anthropic/claude-sonnet-4-20250514", ("openai/claude-sonnet-4-20250514", False)),
        ("no-such-model", ("openai/no-such-model", False)),
    ],
)
def test_wire_format_of_a_replayed_model(model: str, played: tuple[str, bool]) -> None:
    assert record.replay_model(model) == played
