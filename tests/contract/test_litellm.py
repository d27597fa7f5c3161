"""Facts of litellm: its callback's fields, its exceptions, its names and prices of models."""

from __future__ import annotations

import contextlib
import inspect
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import recorded_calls
from replay_client import Server
from replay_client import server as serving

from cooperflow.attempt import child_process
from cooperflow.outcomes import usage
from cooperflow.session import model_check

child_process.prepare_environment()

import litellm  # noqa: E402

MODEL = "command-a-03-2025"


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


def ask(server: Server, call_log: Path) -> list[dict[str, Any]]:
    """Make one call as upstream does, and return the callback's records."""
    return recorded_calls.ask(server, call_log, "cohere").records


def test_an_end_point_is_the_whole_url(replay: Server, tmp_path: Path) -> None:
    ask(replay, tmp_path / "calls")
    assert [line["wire"] for line in replay.ledger()] == ["cohere"]


def test_a_call_is_recorded_before_it_is_sent_and_when_it_is_answered(
    replay: Server, tmp_path: Path
) -> None:
    start, end = ask(replay, tmp_path / "calls")
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["id"] == end["id"]
    assert start["thread"] == end["thread"]
    assert start["time"] <= end["time"]


def test_an_answer_is_recorded_with_tokens_cost_and_tool_calls(
    replay: Server, tmp_path: Path
) -> None:
    _, end = ask(replay, tmp_path / "calls")
    (line,) = replay.ledger()
    assert (end["input_tokens"], end["output_tokens"]) == (
        line["input_tokens"],
        line["output_tokens"],
    )
    assert end["cost"] > 0
    assert end["priced"] is True
    assert end["response_id"]
    (tool_call, *_) = end["message"]["tool_calls"]
    assert "command" in json.loads(tool_call["function"]["arguments"])


def test_a_client_with_one_try_sends_one_call(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "unavailable"})
    ask(replay, tmp_path / "calls")
    assert len(replay.ledger()) == 1


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("rate_limited", "RateLimitError"),
        ("server_error", "InternalServerError"),
        ("unavailable", "ServiceUnavailableError"),
        ("unauthorized", "AuthenticationError"),
        ("forbidden", "PermissionDeniedError"),
        ("model_not_found", "NotFoundError"),
        ("context_length", "ContextWindowExceededError"),
        ("empty", "APIConnectionError"),
        ("html", "BadGatewayError"),
    ],
)
def test_class_of_a_failed_call(replay: Server, tmp_path: Path, action: str, name: str) -> None:
    replay.faults({"action": action})
    end = ask(replay, tmp_path / "calls")[-1]
    assert (end["event"], end["error_class"]) == ("end", name)
    assert name in usage._CLASSES


def test_a_refusals_pause_can_be_read(replay: Server, tmp_path: Path) -> None:
    replay.faults({"action": "rate_limited", "retry_after": 7})
    assert ask(replay, tmp_path / "calls")[-1]["retry_after"] == 7.0


def test_name_and_price_of_the_shipped_model() -> None:
    _, provider, _, _ = litellm.get_llm_provider(MODEL)
    assert provider == "cohere_chat"
    info = litellm.get_model_info(MODEL)
    assert (info["input_cost_per_token"], info["output_cost_per_token"]) == (2.5e-6, 1e-5)


def test_prices_come_from_the_package_and_not_from_the_network() -> None:
    from litellm.litellm_core_utils import get_model_cost_map

    text = Path(get_model_cost_map.__file__).read_text(encoding="utf-8")
    assert "LITELLM_LOCAL_MODEL_COST_MAP" in text


@pytest.fixture
def cohere() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers every call with a plan and a tool call; its URL and the requests."""
    requests: list[dict[str, Any]] = []
    tool_call = {"type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            requests.append(json.loads(self.rfile.read(length)))
            message = {"role": "assistant", "tool_plan": f"Plan {len(requests)}"}
            message["tool_calls"] = [{"id": f"call_{len(requests)}", **tool_call}]
            answer = {"id": "x", "finish_reason": "TOOL_CALL", "message": message}
            answer["usage"] = {"tokens": {"input_tokens": 9, "output_tokens": 3}}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v2/chat", requests
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("returned", [False, True])
def test_the_tool_plan_is_returned_to_cohere_if_configured(
    cohere: tuple[str, list[dict[str, Any]]], tmp_path: Path, returned: bool
) -> None:
    """litellm drops `tool_plan` on the way to the agent; the workflow adds it to the requests."""
    url, requests = cohere
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Fix it."}]
    with recorded_calls.return_tool_plans() if returned else contextlib.nullcontext():
        for number in (1, 2, 3):
            result = recorded_calls.ask(
                None, tmp_path / f"{number}", "cohere", api_base=url, messages=messages
            )
            message = result.answer.choices[0].message.model_dump()
            assert "tool_plan" not in message
            assert message["content"] is None
            answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"]}
            messages += [message, {**answer, "content": "done"}]
    plans = [m.get("tool_plan") for m in requests[-1]["messages"] if m["role"] == "assistant"]
    assert plans == (["Plan 1", "Plan 2"] if returned else [None, None])
    assert [m["role"] for m in requests[-1]["messages"]] == ["user"] + 2 * ["assistant", "tool"]


def test_every_synchronous_call_is_sent_by_one_method() -> None:
    """The methods of litellm that `instrumentation/raw_answers.py` wraps send all its calls."""
    import httpx
    from litellm.llms.custom_httpx import http_handler
    from openai import _base_client

    assert "stream" in inspect.signature(httpx.Client.send).parameters
    assert "self.client.send(" in inspect.getsource(http_handler.HTTPHandler.post)
    assert issubclass(_base_client.SyncHttpxClientWrapper, httpx.Client)
    assert "self._client.send(" in inspect.getsource(_base_client.SyncAPIClient)


@pytest.mark.parametrize(
    ("action", "times", "calls"),
    [("output_limit", None, 1), ("server_error", 2, 3), ("unauthorized", None, 1)],
)
def test_a_refused_output_limit_is_not_tried_again(
    replay: Server,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    times: int | None,
    calls: int,
) -> None:
    """Upstream's agent: the same limit would be refused again. Other errors: as upstream does."""
    import tenacity
    from cooperbench.agents.mini_swe_agent_v2.models import litellm_model

    from cooperflow.instrumentation import call_log

    monkeypatch.setattr(litellm_model, "retry", litellm_model.retry)
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda _: None)
    monkeypatch.setenv("MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT", "4")
    call_log.stop_at_refused_output_limit()
    replay.faults({"action": action, "times": times})
    kwargs = {"api_base": f"{replay.url}/v2/chat", "api_key": "x", "max_retries": 0}
    model = litellm_model.LitellmModel(model_name=MODEL, model_kwargs=kwargs)
    names = ("APIError", "AuthenticationError", "BadRequestError")
    with contextlib.suppress(*(getattr(litellm.exceptions, name) for name in names)):
        model.query(recorded_calls.MESSAGES)
    assert len(replay.ledger()) == calls


def test_the_callback_has_no_raw_answer_of_cohere() -> None:
    """Reason for recording below litellm: only ``post_call`` sets ``original_response``."""
    from litellm.litellm_core_utils import litellm_logging
    from litellm.llms.cohere.chat import v2_transformation

    assert "original_response" in inspect.getsource(litellm_logging.Logging.post_call)
    assert "post_call" not in inspect.getsource(v2_transformation)


def test_the_list_of_prices_read_as_a_file_is_litellms() -> None:
    """A session's estimate reads it, since the import takes seconds."""
    assert model_check.listed_price(MODEL) == (2.5e-06, 1e-05)
    assert model_check.listed_price("openai/no-such-model") is None
    differing = {}
    for name in sorted(litellm.model_cost)[::25]:
        prices = model_check.listed_price(name)
        with contextlib.suppress(Exception):  # what litellm cannot name has no price there
            info = litellm.get_model_info(name)
            price = info.get("input_cost_per_token"), info.get("output_cost_per_token")
            if prices is not None and prices != price:
                differing[name] = (prices, price)
    assert differing == {}


def test_a_users_registry_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_MODEL_REGISTRY_PATH", "prices.json")
    assert model_check.listed_price(MODEL) is None


def test_the_bound_of_a_call_holds_above_the_threshold_of_its_prices() -> None:
    """A token may be a single byte, and Gemini's prices double above 200,000 tokens."""
    from cooperflow.instrumentation import call_log

    kwargs = {"model": "gemini-2.5-pro", "custom_llm_provider": "gemini"}
    entry = litellm.model_cost["gemini/gemini-2.5-pro"]
    for size, suffix in ((200_000, ""), (200_001, "_above_200k_tokens")):
        bound = call_log._bound(kwargs, "gemini-2.5-pro", size)
        assert bound is not None
        assert bound >= size * entry[f"input_cost_per_token{suffix}"]
        assert bound >= entry["max_output_tokens"] * entry[f"output_cost_per_token{suffix}"]
        assert bound < 2.1 * size * entry[f"input_cost_per_token{suffix}"] + (
            entry["max_output_tokens"] * entry[f"output_cost_per_token{suffix}"]
        )
    priority = {**kwargs, "optional_params": {"service_tier": "priority"}}
    dear = call_log._bound(priority, "gemini-2.5-pro", 1000)
    usual = call_log._bound(kwargs, "gemini-2.5-pro", 1000)
    assert dear is not None
    assert usual is not None
    assert dear > usual


def test_a_price_of_0_is_a_price_and_a_missing_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "prices.json"
    free = {"input_cost_per_token": 0, "output_cost_per_token": 0, "litellm_provider": "openai"}
    registry.write_text(json.dumps({"openai/free": free}))
    monkeypatch.setenv("LITELLM_MODEL_REGISTRY_PATH", str(registry))
    monkeypatch.setattr(litellm, "model_cost", dict(litellm.model_cost))
    requests = [{"model": f"openai/{name}", "call": False} for name in ("free", "unheard-of")]
    prices = [model_check.ask_litellm(request)["price"] for request in requests]
    assert prices[0] == [0, 0]
    assert not prices[1] or prices[1][0] is None


def test_no_other_key_than_the_configured_one_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """litellm prefers GOOGLE_API_KEY to GEMINI_API_KEY, and HF_TOKEN to HUGGINGFACE_API_KEY."""
    sent: list[str | None] = []
    monkeypatch.setattr(litellm, "completion", lambda **call: sent.append(call.get("api_key")))
    monkeypatch.setattr(litellm, "acompletion", lambda **call: sent.append(call.get("api_key")))
    monkeypatch.setattr(litellm, "api_key", None)
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "another-key")
    child_process.set_key("gemini/gemini-2.5-pro", "the-configured-key")
    litellm.completion(model="gemini/gemini-2.5-pro", messages=[])
    litellm.acompletion(model="gemini/gemini-2.5-pro", messages=[], api_key=None)
    litellm.completion(model="another", messages=[], api_key="an-agents-own")
    assert sent == ["the-configured-key", "the-configured-key", "an-agents-own"]
