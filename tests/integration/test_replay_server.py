"""Tests of the replay server: a real server process, called by the real litellm."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replay_client import BASH, DATASET, DEMO, RECORDINGS, Server, first_messages, play, server

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
litellm: Any = pytest.importorskip("litellm")
sys.path.insert(0, str(DEMO))

from replay.conversation import Message, parse_conversation  # noqa: E402
from replay.delays import Delay  # noqa: E402
from replay.faults import BROKEN_ACTIONS, STATUS_ACTIONS, Faults  # noqa: E402
from replay.recordings import Recording, RecordingError, load, parse  # noqa: E402

SOLO = ("demo_inventory_task", 1, [1, 2], "solo", "solo")
RATE_LIMIT, EXCEPTIONS = litellm.exceptions.RateLimitError, litellm.exceptions


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all tests of this module share; each starts without faults."""
    with server(tmp_path_factory.mktemp("replay")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults(request: pytest.FixtureRequest) -> None:
    """Takes back the faults of the test before."""
    if "replay" in request.fixturenames:
        request.getfixturevalue("replay").faults()


def cohere(running: Server, messages: list[dict[str, Any]], **options: Any) -> Any:
    """A call as upstream makes it for Cohere."""
    return litellm.completion(
        model="command-a-03-2025",
        messages=messages,
        api_base=f"{running.url}/v2/chat",
        api_key="x",
        **{"tools": [BASH], "timeout": 20, **options},
    )


def openai(running: Server, messages: list[dict[str, Any]], **options: Any) -> Any:
    """The same call in OpenAI's format."""
    return litellm.completion(
        model="openai/replay",
        messages=messages,
        api_base=f"{running.url}/v1",
        api_key="x",
        max_retries=0,
        **{"tools": [BASH], "timeout": 20, **options},
    )


RECORDED = load(RECORDINGS)


# A turn with `after` waits for another agent; test_many_agents_at_once plays all of them together.
ALONE = [entry for entry in RECORDED if not any(turn.after for turn in entry.turns)]


@pytest.mark.parametrize("recording", ALONE, ids=lambda entry: str(entry.role))
def test_every_recording_plays_to_its_end(replay: Server, recording: Recording) -> None:
    """From upstream's prompts alone each recording is found and played turn by turn."""
    role = recording.role
    messages = first_messages(role.repo, role.task, list(role.features), role.kind, role.agent)
    assert play(replay, messages) == [list(turn.commands) for turn in recording.turns]


def test_features_of_a_solo_task_in_any_order(replay: Server) -> None:
    """Upstream asks for a pair in the order of the subset, which need not be sorted."""
    commands = play(replay, first_messages("demo_textkit_task", 2, [3, 2], "solo", "solo"))
    assert commands == play(replay, first_messages("demo_textkit_task", 2, [2, 3], "solo", "solo"))


@pytest.mark.parametrize("call", [cohere, openai])
def test_tool_calls_and_usage(replay: Server, call: Any) -> None:
    """litellm reads the tool calls, and its usage equals the ledger to the token."""
    messages = first_messages(*SOLO)
    token_counts, before = [], len(replay.ledger())
    for _ in range(3):
        answer = call(replay, messages)
        message = answer.choices[0].message
        assert message.tool_calls[0].function.name == "bash"
        assert "command" in json.loads(message.tool_calls[0].function.arguments)
        token_counts.append((answer.usage.prompt_tokens, answer.usage.completion_tokens))
        messages.append(message.model_dump())
        messages += [
            {"role": "tool", "tool_call_id": requested.id, "content": "ok"}
            for requested in message.tool_calls
        ]
    booked = replay.ledger()[before:]
    assert [(line["input_tokens"], line["output_tokens"]) for line in booked] == token_counts
    assert [line["step"] for line in booked] == [0, 1, 2]
    assert all(line["answered"] and line["status"] == 200 for line in booked)
    assert len(set(token_counts)) == 3
    assert {line["wire"] for line in booked} == {call.__name__}


def test_both_formats_play_the_same(replay: Server) -> None:
    """The same conversation gets the same commands in either format."""
    messages = first_messages("demo_inventory_task", 1, [2], "coop-comm", "agent2")
    calls = [call(replay, messages).choices[0].message.tool_calls for call in (cohere, openai)]
    assert calls[0][0].function.arguments == calls[1][0].function.arguments


def test_many_agents_at_once(replay: Server) -> None:
    """Conversations do not mix, in whatever order their calls arrive."""
    wrong: list[Any] = []

    def agent(recording: Recording) -> None:
        role = recording.role
        first = first_messages(role.repo, role.task, list(role.features), role.kind, role.agent)
        if play(replay, first) != [list(turn.commands) for turn in recording.turns]:
            wrong.append(role)

    threads = [threading.Thread(target=agent, args=(entry,)) for entry in RECORDED]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_summary_for_a_compaction(replay: Server) -> None:
    """After upstream's compaction, made by upstream's own code, the next turn is the right one."""
    model_module = pytest.importorskip("cooperbench.agents.mini_swe_agent_v2.models.litellm_model")
    model = model_module.LitellmModel(
        model_name="command-a-03-2025",
        observation_template="{{output}}",
        format_error_template="{{error}}",
        model_kwargs={"api_base": f"{replay.url}/v2/chat", "api_key": "x"},
    )
    first = first_messages("demo_inventory_task", 1, [2], "coop-comm", "agent1")
    recording = next(
        candidate
        for candidate in RECORDED
        if str(candidate.role) == "demo_inventory_task/task1 f2 coop-comm agent1"
    )

    def answer(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        message = model.query(messages)
        calls = message["tool_calls"]
        results = [{"role": "tool", "tool_call_id": c["id"], "content": "ok"} for c in calls]
        return [message, *results]

    messages = list(first)
    for _ in range(4):
        messages += answer(messages)
    for kept_turns in (2, 1):  # a second summary counts on from the first
        old, recent = messages[2 : -2 * kept_turns], messages[-2 * kept_turns :]
        summary = model.summarize_context(first + old, "Summarize the transcript below.")
        assert summary["content"].startswith("## FILE MAP")
        assert replay.ledger()[-1]["purpose"] == "summary"
        messages = [*first, summary, *recent]
        step = parse_conversation(
            [Message(m["role"], m.get("content") or "") for m in messages]
        ).step
        new = answer(messages)
        command = json.loads(new[0]["tool_calls"][0]["function"]["arguments"])["command"]
        assert command == recording.turns[step].commands[0]
        messages += new
    assert step == 5


def test_unknown_conversations_are_named(replay: Server) -> None:
    """A 404 with the feature's title and the available recordings."""
    messages = first_messages("demo_inventory_task", 1, [1, 3], "solo", "solo")
    with pytest.raises(EXCEPTIONS.NotFoundError, match="list the items that run low"):
        cohere(replay, messages)
    line = replay.ledger()[-1]
    assert (line["status"], line["answered"], line["input_tokens"]) == (404, False, 0)
    messages[1]["content"] = "Write a poem."
    with pytest.raises(EXCEPTIONS.NotFoundError, match="no feature title"):
        cohere(replay, messages)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "'model'"),
        ({"model": "m"}, "'messages'"),
        (
            {"model": "m", "messages": [{"role": "system", "content": "x"}]},
            "user message is missing",
        ),
        ({"model": "m", "messages": [{}], "stream": True}, "stream"),
    ],
)
def test_bad_requests_are_named(replay: Server, body: Any, words: str) -> None:
    """A 400 that names the missing field."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        replay.request("/v2/chat", body)
    assert caught.value.code == 400
    assert words in json.load(caught.value)["message"]


FAULTS: dict[str, type[Exception] | None] = {
    "rate_limited": RATE_LIMIT,
    "rate_limited_minute": RATE_LIMIT,
    "server_error": EXCEPTIONS.InternalServerError,
    "unavailable": EXCEPTIONS.ServiceUnavailableError,
    "unauthorized": EXCEPTIONS.AuthenticationError,
    "forbidden": EXCEPTIONS.PermissionDeniedError,
    "model_not_found": EXCEPTIONS.NotFoundError,
    "quota_payment": EXCEPTIONS.PaymentRequiredError,
    "quota_billing": EXCEPTIONS.PaymentRequiredError,
    "quota_month": RATE_LIMIT,
    "context_length": EXCEPTIONS.ContextWindowExceededError,
    "output_limit": EXCEPTIONS.BadRequestError,
    "unusable_output": EXCEPTIONS.BadRequestError,
    "cancelled": EXCEPTIONS.BadRequestError,
    "overloaded": EXCEPTIONS.APIError,
    "not_ready": EXCEPTIONS.BadRequestError,
    "loading": EXCEPTIONS.ServiceUnavailableError,
    "refuse": EXCEPTIONS.InternalServerError,
    "hang": EXCEPTIONS.Timeout,
    "hang_mid": EXCEPTIONS.Timeout,
    "truncated": EXCEPTIONS.APIConnectionError,
    "empty": EXCEPTIONS.APIConnectionError,
    "html": EXCEPTIONS.BadGatewayError,
    "drip": None,
    "bad_arguments": None,
    "huge": None,
    "override": None,
}


def test_no_fault_is_forgotten() -> None:
    """The table above has every action."""
    assert set(FAULTS) == set(STATUS_ACTIONS) | BROKEN_ACTIONS


@pytest.mark.parametrize("action", FAULTS)
def test_faults_as_litellm_sees_them(replay: Server, action: str) -> None:
    """Each action raises the right class, records no usage, and occurs as often as configured."""
    extra: dict[str, Any] = {"drip": {"seconds": 0.002}}.get(action, {})
    if action == "override":
        extra = {"turns": [{"text": "Oh.", "commands": ["rm -rf /workspace"]}]}
    replay.faults({"action": action, "times": 1, **extra})
    timeout = 1 if action.startswith("hang") else 20
    expected = FAULTS[action]
    if expected is None:
        answer = cohere(replay, first_messages(*SOLO), timeout=timeout)
        line = replay.ledger()[-1]
        assert line["answered"] and line["output_tokens"] == answer.usage.completion_tokens
    else:
        with pytest.raises(expected):
            cohere(replay, first_messages(*SOLO), timeout=timeout)
        line = replay.ledger()[-1]
        assert (line["answered"], line["input_tokens"], line["output_tokens"]) == (False, 0, 0)
    assert line["fault"] == action
    assert replay.request("/_control/faults")["rules"][0]["struck"] == 1
    assert cohere(replay, first_messages(*SOLO)).choices[0].message.tool_calls


def test_contents_of_broken_answers(replay: Server) -> None:
    """Broken arguments, five megabytes, another turn, and Retry-After arrive as ordered."""
    messages = first_messages(*SOLO)

    def arguments() -> str:
        text: str = cohere(replay, messages).choices[0].message.tool_calls[0].function.arguments
        return text

    replay.faults({"action": "bad_arguments"})
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments())
    replay.faults({"action": "huge", "where": "command"})
    assert len(arguments()) > 5 * 1024 * 1024
    replay.faults({"action": "override", "turns": [{"text": "", "commands": ["sleep infinity"]}]})
    assert json.loads(arguments()) == {"command": "sleep infinity"}
    replay.faults({"action": "rate_limited", "retry_after": 7})
    with pytest.raises(urllib.error.HTTPError) as caught:
        replay.request("/v2/chat", {"model": "m", "messages": messages})
    assert caught.value.headers["Retry-After"] == "7"


def test_openai_errors(replay: Server) -> None:
    """The other format has its own error documents."""
    messages = first_messages(*SOLO)
    for action in ("rate_limited", "unauthorized", "model_not_found", "context_length"):
        replay.faults({"action": action})
        expected = FAULTS[action]
        assert expected is not None
        with pytest.raises(expected):
            openai(replay, messages)


def test_rules_choose_their_calls(replay: Server) -> None:
    """Agent, kind, steps and the regular expression all narrow a rule; times may be per role."""
    first = first_messages("demo_inventory_task", 1, [1], "coop-comm", "agent1")
    second = first_messages("demo_inventory_task", 1, [2], "coop-comm", "agent2")
    replay.faults({"match": {"agent": "agent2", "kind": "coop-comm"}, "action": "server_error"})
    cohere(replay, first)
    with pytest.raises(EXCEPTIONS.InternalServerError):
        cohere(replay, second)
    replay.faults({"match": {"from_step": 1, "to_step": 1}, "action": "server_error"})
    cohere(replay, first)
    later = [*first, {"role": "assistant", "content": "so"}, {"role": "user", "content": "go on"}]
    with pytest.raises(EXCEPTIONS.InternalServerError):
        cohere(replay, later)
    replay.faults({"match": {"conversation": r"f2 coop-comm"}, "action": "server_error"})
    cohere(replay, first)
    replay.faults({"action": "server_error", "times": 1, "per_conversation": True})
    for messages in (first, second):
        with pytest.raises(EXCEPTIONS.InternalServerError):
            cohere(replay, messages)
        cohere(replay, messages)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"action": "explode"}, "unknown action"),
        ({"action": "hang", "match": {"planet": 1}}, "'match'"),
        ({"action": "hang", "tims": 1}, "tims"),
        ({"action": "hang", "times": "one"}, "'times'"),
        ({"action": "hang", "match": {"conversation": "("}}, "regular expression"),
        ({"action": "override"}, "'turns'"),
    ],
)
def test_wrong_rules_are_refused(rule: dict[str, Any], words: str) -> None:
    """The error names the rule and its mistake."""
    with pytest.raises(ValueError, match=f"rule 0: .*{words}"):
        Faults.from_json([rule])


def test_a_client_that_disconnects_is_not_recorded_as_answered(tmp_path: Path) -> None:
    """A client that disconnects while waiting has received no answer."""
    with server(tmp_path, "--delay", "1.5") as running:
        with pytest.raises(EXCEPTIONS.Timeout):
            cohere(running, first_messages(*SOLO), timeout=0.3)
        time.sleep(2)
        line = running.ledger()[-1]
        assert (line["answered"], line["output_tokens"]) == (False, 0)
        assert running.request("/_control/stats")["waiting"] == 0


def test_the_ledger_is_written_before_the_last_byte(replay: Server) -> None:
    """When the last byte arrives, the line is in the file."""
    body = json.dumps({"model": "m", "messages": first_messages(*SOLO), "tools": [BASH]}).encode()
    head = f"POST /v2/chat HTTP/1.1\r\nHost: x\r\nAuthorization: x\r\nContent-Length: {len(body)}"
    for _ in range(20):
        before = len(replay.ledger())
        with socket.create_connection(("127.0.0.1", replay.port)) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            received = b""
            while not received.endswith(b"}}}"):
                received += connection.recv(65536)
            assert len(replay.ledger()) == before + 1


def test_no_key(replay: Server) -> None:
    """A request without a key is refused as the provider does."""
    with socket.create_connection(("127.0.0.1", replay.port)) as connection:
        connection.sendall(b"POST /v2/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert b" 401 " in connection.recv(65536)


def test_delays_depend_on_seed_conversation_and_step_alone() -> None:
    """The same draw for the same call, whatever came before it; the tail slows conversations."""
    calls = [(f"c{number}", step) for number in range(200) for step in range(3)]
    delay = Delay.parse("lognormal:2:0.5,tail:0.2:10", seed=4)
    again = Delay.parse("lognormal:2:0.5,tail:0.2:10", seed=4)
    assert [delay.seconds(*call) for call in calls] == [
        again.seconds(*call) for call in reversed(calls)
    ][::-1]
    plain = Delay.parse("lognormal:2:0.5", seed=4)
    ratios = {name: delay.seconds(name, 0) / plain.seconds(name, 0) for name, _ in calls}
    slow = sum(ratio > 5 for ratio in ratios.values())
    assert 20 <= slow <= 60
    assert all(
        delay.seconds(name, 2) / plain.seconds(name, 2) == pytest.approx(ratio)
        for name, ratio in ratios.items()
    )
    assert Delay.parse("lognormal:2:0.5", seed=5).seconds("c", 1) != plain.seconds("c", 1)
    drawn = [Delay.parse("uniform:1:2").seconds(*call) for call in calls]
    assert 1 <= min(drawn) < 1.1 and 1.9 < max(drawn) <= 2
    assert Delay.parse("2.5").seconds("c", 0) == 2.5


@pytest.mark.parametrize("spec", ["fast", "-1", "uniform:2:1", "tail:2:3", "1:2", "lognormal:1"])
def test_wrong_delays_are_refused(spec: str) -> None:
    """The error shows what is expected."""
    with pytest.raises(ValueError, match="--delay"):
        Delay.parse(spec)


def test_the_server_waits_for_the_configured_delay(tmp_path: Path) -> None:
    """A fixed delay is what a call takes."""
    with server(tmp_path, "--delay", "0.4") as running:
        start = time.monotonic()
        body = {"model": "m", "messages": first_messages(*SOLO), "tools": [BASH]}
        running.request("/v2/chat", body)
        assert time.monotonic() - start >= 0.4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """Also while a call hangs; the exit code is 0 and the port file is removed."""
    with server(tmp_path) as running:
        running.faults({"action": "hang"})

        def call() -> None:
            with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the client makes of it)
                cohere(running, first_messages(*SOLO))

        hanging = threading.Thread(target=call)
        hanging.start()
        while running.request("/_control/stats")["waiting"] == 0:
            time.sleep(0.02)
        running.process.send_signal(number)
        assert running.process.wait(60) == 0
        hanging.join(10)
        assert not (tmp_path / "port").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "either --recordings DIR or --script"),
        (["--script", "gold"], "needs --dataset"),
        (["--recordings", "no-such-directory"], "no recordings"),
        (["--recordings", str(RECORDINGS), "--delay", "soon"], "--delay"),
    ],
)
def test_wrong_command_lines(options: list[str], words: str) -> None:
    """One line with the mistake, and exit code 2."""
    command = [sys.executable, str(DEMO / "replay_server.py"), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert words in ended.stderr and "Traceback" not in ended.stderr


def test_broken_recordings_are_named(tmp_path: Path) -> None:
    """The file and the reason; two recordings of one role among them."""
    good = json.loads((RECORDINGS / "demo_inventory_task/task1/f1_f2/solo.json").read_text())
    for key, value, words in [
        ("schema", 2, "schema 2"),
        ("kind", "duel", "kind 'duel'"),
        ("agent", "agent1", "is not possible"),
        ("turns", [], "is empty"),
        ("turns", [{"say": "x"}], "a turn is"),
        ("titles", [], "'titles'"),
    ]:
        with pytest.raises(RecordingError, match=words):
            parse({**good, key: value}, "a.json")
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(good))
    with pytest.raises(RecordingError, match="the same role"):
        load(tmp_path)


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that plays the gold patches of the demo's data set."""
    directory = tmp_path_factory.mktemp("gold")
    with server(directory, "--script", "gold", "--dataset", str(DATASET)) as running:
        yield running


def test_gold_script(gold: Server) -> None:
    """Coop: the agent's own patch. Solo: both in the order asked, and the combined one for need."""
    task = "demo_textkit_task", 2
    coop = play(gold, first_messages(*task, [3], "coop-nocomm", "agent2"))
    assert sum("gold-f3.b64 <<" in turn[0] for turn in coop) == 1
    assert not any("gold-f2" in turn[0] for turn in coop)
    solo = play(gold, first_messages(*task, [3, 2], "solo", "solo"))
    apply = next(turn[0] for turn in solo if "git apply" in turn[0])
    assert apply.index("gold-f3.patch") < apply.index("gold-f2.patch") < apply.index("combined")


def test_empty_script(tmp_path: Path) -> None:
    """Looks around and submits."""
    with server(tmp_path, "--script", "empty", "--dataset", str(DATASET)) as running:
        turns = play(running, first_messages(*SOLO))
    assert len(turns) == 2 and not any(
        "git commit" in command for turn in turns for command in turn
    )


def test_big_patches_travel_in_parts(tmp_path: Path) -> None:
    """A patch too big for one command arrives complete."""
    patch = "".join(f"+line {number} of a big patch\n" for number in range(12_000))
    for feature in (1, 2):
        directory = tmp_path / "big_task/task7" / f"feature{feature}"
        directory.mkdir(parents=True)
        (directory / "feature.md").write_text(f"**Title**: Feature {feature}\n\nText {feature}\n")
        (directory / "feature.patch").write_text(patch)
    messages = first_messages("big_task", 7, [2], "coop-comm", "agent2", dataset=tmp_path)
    with server(tmp_path, "--script", "gold", "--dataset", str(tmp_path)) as running:
        turns = play(running, messages)
    parts = [turn[0] for turn in turns if "b64 <<" in turn[0]]
    assert len(parts) > 5 and max(map(len, parts)) < 128 * 1024
    target = tmp_path / "here"
    script = "\n".join(parts).replace("/tmp/gold-f2", str(target))
    subprocess.run(["bash", "-c", "bash -s"], input=script, text=True, check=True, timeout=30)
    assert target.with_suffix(".patch").read_text() == patch
