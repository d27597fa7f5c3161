"""Only the config decides who is called: files, variables and proxies of the machine do not."""

from __future__ import annotations

import contextlib
import json
import os
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from experiment_client import REPOSITORY
from stub_provider import Stub, stub

from cooperflow import environment
from cooperflow.experiment import config, fingerprint, plan
from cooperflow.experiment.config_schema import Model
from cooperflow.jobs import admission
from cooperflow.session import model_check

VARIABLES = (
    *("COHERE_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_BASE"),
    *("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE", "AZURE_API_BASE", "LITELLM_PROXY_API_BASE"),
)
OTHERS = {
    "AZURE_OPENAI_API_KEY": "azure-key-0123456789",
    "USE_LITELLM_PROXY": "true",
    "LITELLM_PROXY_API_KEY": "proxy-key-0123456789",
    "LITELLM_ROUTE_ALL_CHAT_OPENAI_TO_RESPONSES": "true",
    "MSWEA_GLOBAL_CALL_LIMIT": "1",
    "MSWEA_GLOBAL_COST_LIMIT": "0.000001",
}
MODELS = ("command-a-03-2025", "openai/gpt-4o", "anthropic/claude-3-5-haiku-20241022")

# Upstream's model class and the gateway, once per model; the preflight's call, once. The imports
# take seconds, so each case is a fork with its own variables, like an attempt of the launcher.
CALLER = """
import contextlib, json, os, sys
from pathlib import Path
cases = json.load(sys.stdin)
from cooperflow.attempt import child_process
child_process.prepare_environment()
import cooperbench.cli
import litellm
from cooperbench.agents._azure import resolve_azure_config
from cooperbench.agents.mini_swe_agent_v2.models import litellm_model
from cooperflow.attempt import services
from cooperflow.session import model_check
litellm.suppress_debug_info = True
litellm_model.retry = lambda **_: [contextlib.nullcontext()]
messages = [{"role": "user", "content": "Hi"}]

def call(case):
    os.environ.update(case["variables"])
    findings = {"azure": resolve_azure_config() is not None, "failed": []}
    key = case["key"]
    for name in case["models"]:
        if not key:
            child_process.set_key(name, key)
        base = {"api_base": case["bases"][name]} if case["bases"] else {}
        kwargs = {"timeout": 20, "max_retries": 0, **base}
        try:
            model = litellm_model.LitellmModel(
                model_name=name,
                model_kwargs={**kwargs, "num_retries": 0, **({"api_key": key} if key else {})},
                cost_tracking="ignore_errors",
            )
            model.query(messages)
        except Exception as error:
            # The stub answers without a command, which the agent refuses after the call.
            if type(error).__name__ != "FormatError":
                findings["failed"].append(repr(error))
        upstream = services.Upstream(name, key, kwargs, 1, Path("unused"))
        services._Model(upstream).complete("agent1", {"messages": messages})
        if case["preflight"] and name == case["models"][0]:  # it takes a process, and seconds
            model_check.probe(name, key, base, call=True)
    return findings

for case in cases:
    sys.stdout.flush()
    if not os.fork():
        print(json.dumps(call(case)), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@dataclass(frozen=True)
class Case:
    """A caller: its models, their configured addresses, its key and its variables."""

    bases: Mapping[str, str] | None
    variables: Mapping[str, str] = field(default_factory=dict)
    models: Sequence[str] = MODELS
    key: str | None = "sk-1234567890"
    preflight: bool = True


def _call(
    cases: Sequence[Case], cwd: Path, variables: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Make the calls of each case; ``variables``: also set while the packages are imported."""
    result = subprocess.run(
        [sys.executable, "-c", CALLER],
        input=json.dumps([asdict(case) for case in cases]),
        text=True,
        capture_output=True,
        env={**_clean(), **(variables or {})},
        cwd=cwd,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()[-len(cases) :]]


def _clean() -> dict[str, str]:
    """Return this process's environment without what its own tests have set."""
    variables = {k: v for k, v in os.environ.items() if not environment.is_controlled(k)}
    for name in (*environment.CONTROLLED_VALUES, "MSWEA_GLOBAL_CONFIG_DIR"):
        variables.pop(name, None)
    for name in [name for name in variables if name.lower().endswith("_proxy")]:
        del variables[name]
    return {**variables, "PYTHONPATH": str(REPOSITORY / "scripts")}


def _bases(server: Stub) -> dict[str, str]:
    paths = ("/v2/chat", "/v1", "/v1/messages")
    return {name: server.url + path for name, path in zip(MODELS, paths, strict=True)}


@pytest.fixture
def wrong() -> Iterator[Stub]:
    with stub("wrong") as server:
        yield server


@pytest.fixture
def misleading(wrong: Stub) -> dict[str, str]:
    """Every variable that has ever sent a call elsewhere; each has its own path."""
    addresses = {name: f"{wrong.url}/{name}" for name in VARIABLES}
    addresses["AZURE_OPENAI_ENDPOINT"] = f"{wrong.url}/AZURE_OPENAI_ENDPOINT"
    return {**addresses, **OTHERS}


def _trap(tmp_path: Path, misleading: Mapping[str, str]) -> tuple[dict[str, str], Path]:
    """Create a home, a checkout and site-packages with `.env` files in every searched place."""
    home = tmp_path / "home"
    clone = home / "clone"
    packages = clone / "lib"
    packages.mkdir(parents=True)
    # find_dotenv walks up from where the module lies, links not resolved.
    for entry in Path(site.getsitepackages()[0]).iterdir():
        (packages / entry.name).symlink_to(entry)
    settings = home / ".config" / "mini-swe-agent"
    settings.mkdir(parents=True)
    text = "".join(f"{name}={value}\n" for name, value in misleading.items())
    for folder in (home, clone, settings):
        (folder / ".env").write_text(text)
    paths = os.pathsep.join([str(REPOSITORY / "scripts"), str(packages)])
    return {"HOME": str(home), "PYTHONPATH": paths, "XDG_CONFIG_HOME": str(home / ".config")}, clone


@pytest.mark.parametrize("by", ["variables", "files"])
def test_the_config_alone_decides_which_server_is_called(
    by: str, wrong: Stub, misleading: dict[str, str], tmp_path: Path
) -> None:
    variables, cwd = misleading, tmp_path
    if by == "files":
        variables, cwd = _trap(tmp_path, misleading)
    with stub("right") as right, stub("proxy") as proxy, stub("outer proxy") as outer:
        # The provider's own address is reached by a proxy, which shows who was called.
        configured = Case(_bases(right), {"HTTPS_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"})
        default = Case(None, {"HTTPS_PROXY": outer.url, "NO_PROXY": "127.0.0.1"})
        findings = _call([configured, default], cwd, variables)
    assert wrong.paths == []
    assert [finding["azure"] for finding in findings] == [False, False]
    assert findings[0]["failed"] == []
    ends = ["chat", "completions", "messages"]
    called = sorted(path.rpartition("/")[2] for path in right.paths)
    assert called == sorted([*ends, *ends, "chat"])
    assert proxy.paths == []
    hosts = {"api.cohere.com:443", "api.openai.com:443", "api.anthropic.com:443"}
    assert {path.removeprefix("CONNECT ") for path in outer.paths} == hosts


def test_a_proxy_is_used_by_all_or_by_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with contextlib.ExitStack() as stack:
        cases, expected = [], []
        for ways in ("ALL_PROXY", "HTTP_PROXY", "NO_PROXY", "all_proxy"):
            right, proxy = (stack.enter_context(stub(name)) for name in ("right", "proxy"))
            variables = {ways: proxy.url}
            # A name that only the proxy knows.
            where = "http://provider.invalid"
            if ways == "NO_PROXY":
                variables = {"ALL_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"}
                where = right.url
            bases = {name: url.replace(right.url, where) for name, url in _bases(right).items()}
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                assert admission.provider_problem(bases[MODELS[0]]) == ""
            if ways == "all_proxy":  # the calls themselves are tried with the other three
                assert proxy.paths
                continue
            # A unit test checks the variables that its process gets.
            cases.append(Case(bases, variables, preflight=ways == "ALL_PROXY"))
            expected.append((right, proxy) if ways == "NO_PROXY" else (proxy, right))
        findings = _call(cases, tmp_path)
    assert [finding["failed"] for finding in findings] == [[]] * 3
    for case, (used, unused) in zip(cases, expected, strict=True):
        # The breaker, and the preflight.
        assert len(used.paths) == 2 * len(MODELS) + 1 + case.preflight
        assert unused.paths == []


def test_a_host_behind_a_dead_proxy_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert "cannot be reached" in admission.provider_problem("https://provider.invalid/v2/chat")


@pytest.mark.parametrize(
    ("variable", "model", "refused"),
    [
        ("COHERE_API_BASE", "command-a-03-2025", True),
        ("COHERE_API_BASE", "cohere_chat/command-a-03-2025", True),
        ("OPENAI_BASE_URL", "command-a-03-2025", False),
        ("OPENAI_BASE_URL", "gpt-5", True),
        ("AZURE_OPENAI_ENDPOINT", "openai/gpt-5", True),
        ("AZURE_API_BASE", "azure/gpt-5", True),
        ("ANTHROPIC_BASE_URL", "claude-sonnet-4-5", True),
        ("TOGETHER_AI_API_BASE", "together_ai/x", True),
        ("MISTRAL_API_BASE", "a-name-that-nobody-knows", True),
        ("MSWEA_GLOBAL_COST_LIMIT", "command-a-03-2025", False),
    ],
)
def test_a_session_with_two_addresses_is_refused(variable: str, model: str, refused: bool) -> None:
    variables = {variable: "http://secret:word@x.test"}
    contradictions = list(environment.contradictions([("m", model, None)], variables))
    assert bool(contradictions) == refused
    assert all(variable in line and "models.m.api_base" in line for line in contradictions)
    assert list(environment.contradictions([("m", model, "http://y")], variables)) == []
    (warning,) = environment.ignored_variables(variables)
    assert variable in warning and "secret" not in warning
    assert not {variable} & set(environment.controlled_environment(variables))


def test_required_variables_of_a_provider_are_kept() -> None:
    names = [
        *("COHERE_API_KEY", "AZURE_OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_REGION_NAME"),
        *(
            "VERTEXAI_PROJECT",
            "HTTPS_PROXY",
            "HTTP_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "SSL_CERT_FILE",
            "DOCKER_HOST",
        ),
        *("LITELLM_MODEL_REGISTRY_PATH", "COOPERBENCH_EXTERNAL_AGENTS", "REDIS_URL"),
    ]
    needed = dict.fromkeys(names, "x")
    assert needed.items() <= environment.controlled_environment(needed).items()
    assert environment.ignored_variables(needed) == []


def test_a_model_without_a_key_gets_no_key_of_the_environment(tmp_path: Path) -> None:
    """litellm takes OPENAI_API_KEY from the environment and sends it to the configured server."""
    keys = {"OPENAI_API_KEY": "sk-of-another-provider", "COHERE_API_KEY": "ck-0123456789"}
    with stub("right") as right:
        bases = {"openai/my-model": f"{right.url}/v1"}
        (answer,) = _call([Case(bases, keys, ["openai/my-model"], None)], tmp_path)
        sent = list(right.keys)
    assert answer["failed"] == []
    assert sent == [environment.NO_KEY] * 3  # the agent, the gateway, the preflight


def test_a_key_that_is_not_sent_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    (line,) = model_check.check_key("m", Model(model="openai/my-model"))
    assert line.state == "--"
    assert "OPENAI_API_KEY is set, and models.m.api_key is null: no key is sent." in line.text
    assert "sk-0123456789" not in line.text
    assert not list(model_check.check_key("m", Model(model="command-a-03-2025")))


def _plan(tmp_path: Path, kwargs: Mapping[str, Any]) -> plan.Plan:
    """Return the plan of a model whose agent's config gives ``kwargs`` for its calls."""
    raw = {
        "results": str(tmp_path / "results"),
        "dataset": {"dir": str(REPOSITORY / "demo" / "dataset"), "subset": "demo"},
        "models": {"m": {"model": "command-a-03-2025", "api_base": "http://right.test/v2/chat"}},
        "settings": {"solo": ["--setting", "solo"]},
        "agent": {"config": {"model": {"model_kwargs": kwargs}}},
    }
    return plan.make(config.parse(raw))


@pytest.mark.parametrize("name", ["api_base", "base_url"])
def test_the_agents_address_is_used_by_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream merges `model_kwargs` over the model's own address; all that ask do the same."""
    kwargs = {name: "http://127.0.0.1:9/v2/chat", "extra_headers": {"x": "y"}, "temperature": 0}
    asked_for = _plan(tmp_path, kwargs)
    experiment = asked_for.experiments[0]
    called = fingerprint.agent_file(experiment, asked_for)["config"]["model"]["model_kwargs"]
    assert called["api_base"] == experiment.api_base == kwargs[name]
    assert "base_url" not in called  # a replay replaces api_base alone
    call_options = {}
    monkeypatch.setattr(
        model_check, "probe", lambda *arguments, call: call_options.update(arguments[2]) or {}
    )
    list(model_check.check_model(asked_for, experiment))
    assert call_options == {"api_base": kwargs[name], "extra_headers": {"x": "y"}}
    monkeypatch.setattr(admission.atomic_io, "read_lines", lambda *_: [])
    monkeypatch.setattr(admission, "engine_problem", lambda: "")
    trouble = admission.Trouble("api_unavailable", 9, 0.0)
    monkeypatch.setattr(admission, "find_trouble", lambda *_: trouble)
    assert "127.0.0.1:9 cannot be reached" in admission._obstacle(
        asked_for, asked_for.runs[0], False, True
    )


def test_an_address_that_is_taken_away_is_the_providers_own(tmp_path: Path) -> None:
    asked_for = _plan(tmp_path, {"api_base": None})
    experiment = asked_for.experiments[0]
    called = fingerprint.agent_file(experiment, asked_for)["config"]["model"]["model_kwargs"]
    assert "api_base" not in called
    assert experiment.api_base is None
