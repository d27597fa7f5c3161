"""A finished experiment as a recording: played back, each run ends as it did."""

from __future__ import annotations

import pytest

from cooperflow.archive import recording
from cooperflow.archive.recording import Answer
from cooperflow.upstream import trajectory
from replay.recordings import Turn


def _answers(*moments: tuple[float, float], last: str = "ls") -> list[Answer]:
    commands = ["ls"] * (len(moments) - 1) + [last]
    return [
        Answer("", (command,), asked, answered, (10, 2))
        for command, (asked, answered) in zip(commands, moments, strict=True)
    ]


DONE = f"echo {recording.SUBMIT}"


def test_an_answer_waits_for_what_the_other_had_done() -> None:
    answers = {
        "agent1": _answers((0, 1), (2, 3), (9, 10), last=DONE),
        "agent2": _answers((0.5, 4), (8, 8.5), last=DONE),
    }
    made = recording.turns("agent1", answers, "")
    assert [turn.get("after") for turn in made] == [{"agent2": 1}, None, {"agent2": 2}]
    assert [turn.get("after") for turn in recording.turns("agent2", answers, "")] == [
        {"agent1": 2},
        None,
    ]
    assert Turn.from_json(made[0]) == Turn("", ("ls",), (10, 2), (("agent2", 1),))


@pytest.mark.parametrize(
    ("reason", "last", "then"),
    [
        ("timeout", "ls", [recording.AT_WORK]),
        ("timeout", DONE, None),
        ("context_limit", "ls", []),
        ("tests_failed", "ls", None),
    ],
)
def test_what_follows_the_last_answer(reason: str, last: str, then: list[str] | None) -> None:
    made = recording.turns("solo", {"solo": _answers((0, 1), (2, 3), last=last)}, reason)
    assert len(made) == (2 if then is None else 3)
    if then is not None:
        assert made[-1]["commands"] == then
        assert Turn.from_json(made[-1]).full is (reason == "context_limit")


def _message(number: int, command: str = "ls") -> dict[str, object]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "bash", "arguments": f'{{"command": "{command}"}}'}}],
        "extra": {"response": {"id": f"r{number}"}},
    }


def test_what_a_compaction_cut_off_comes_first() -> None:
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
    read = trajectory.parse(documents)
    assert list(read) == ["agent1"]
    found = recording.of_trajectory(read["agent1"], records)
    assert [answer.commands for answer in found] == [("one",), ("two",), ("three",)]
    assert (found[2].asked, found[2].answered, found[2].tokens) == (5.0, 6.0, (7, 0))


def test_turns_of_a_run_that_was_ended() -> None:
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
    assert [one.commands for one in recording.of_calls(records, "agent1")] == [("ls",)]
    assert recording.of_calls(records, "agent2") == []


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
def test_the_format_a_model_is_played_in(model: str, played: tuple[str, bool]) -> None:
    assert recording.played_as(model) == played
