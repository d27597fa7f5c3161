"""A finished experiment as a recording: played back, each run ends as it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from experiment_client import INVENTORY, TEXTKIT, Experiment

from cooperflow.archive import recording
from cooperflow.archive.recording import Answer
from cooperflow.upstream import trajectory
from replay.recordings import Turn

Make = Callable[..., Experiment]
SETTINGS = ("solo", "coop-comm", "coop-nocomm")
SAME = ("setting", "features", "outcome", "reason", "caveat", "steps", "messages_sent")
COUNTED = ("input_tokens", "output_tokens", "cost_usd", "patch_lines")


@pytest.mark.docker
@pytest.mark.slow
def test_a_recorded_experiment_ends_as_it_did(experiment: Make) -> None:
    """Outcomes, steps, tokens and costs are those of the recorded runs; no key is asked for."""
    one = experiment(pairs=[(INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2)], settings=SETTINGS)
    done = one.run()
    assert done.returncode == 0, done.stdout
    rows = one.rows()
    assert {row["reason"] for row in rows} == {"", "merge_conflict", "tests_failed", "empty_patch"}
    to = one.results.parent / "published"
    said = one.script("record", "--to", str(to))
    assert said.returncode == 0, said.stdout
    assert "Recorded 6 runs of 2 pairs in" in said.stdout
    # An existing recording may hold more than a new one: it is not overwritten.
    said = one.script("record", "--to", str(to))
    assert said.returncode == 1
    assert "is not empty" in said.stdout

    calls = len(one.server.ledger())
    config = yaml.safe_load((to / "replay.yaml").read_text())
    config["results"] = str(one.results.parent / "replayed")
    (to / "replay.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    again = Experiment(one.clone, Path(config["results"]), to / "replay.yaml", one.server)
    done = again.run()
    assert done.returncode == 0, done.stdout
    assert len(one.server.ledger()) == calls
    played = again.rows()
    assert {row["replay"] for row in played} == {"True"}
    assert {row["model"] for row in played} == {"tested-replay"}
    for key in (*SAME, *COUNTED):
        assert [row[key] for row in played] == [row[key] for row in rows], key


def test_nothing_to_record(experiment: Make, tmp_path: Path) -> None:
    one = experiment()
    said = one.script("record", "--to", str(tmp_path / "to"))
    assert said.returncode == 1
    assert "nothing to record" in said.stdout
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    said = one.script("record", "--to", str(tmp_path / "other"))
    assert "is not empty" in said.stdout
    assert (tmp_path / "other" / "thesis.tex").exists()
    said = one.script("record", "--to", str(tmp_path / "other" / "thesis.tex"))
    assert "cannot be written" in said.stdout
    assert "Traceback" not in said.stdout
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


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
