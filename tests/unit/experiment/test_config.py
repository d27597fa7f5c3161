"""The config: errors name the key, the value and the allowed values."""

from __future__ import annotations

import copy
import csv
import datetime
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import schema
from cooperflow import layout
from cooperflow.errors import UserError
from cooperflow.experiment import config, pairs
from cooperflow.experiment import config_schema as config_keys
from cooperflow.experiment import plan as planning
from cooperflow.upstream import published

BASE: dict[str, Any] = {
    "models": {"command-a": {"model": "command-a-03-2025", "api_key": "COHERE_API_KEY"}},
    "settings": {
        "solo": ["--setting", "solo"],
        "coop-comm": ["--setting", "coop"],
        "coop-nocomm": ["--setting", "coop", "--no-messaging"],
    },
}


def with_(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(BASE)
    table = raw
    *parents, key = path.split("/")
    for parent in parents:
        table = table.setdefault(parent, {})
    table[key] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (with_("limit", {}), ["limit", "Did you mean limits?"]),
        (with_("limits/run_second", 3), ["limits.run_second", "Did you mean run_seconds?"]),
        (with_("limits/run_seconds", 0), ["limits.run_seconds", "0", "greater than 0"]),
        (with_("limits/run_seconds", 8000), ["limits.run_seconds", "8000", "7000"]),
        (with_("limits/run_seconds", "ten"), ["limits.run_seconds", "'ten'", "integer"]),
        (with_("dataset/subset", "lit"), ["dataset.subset", "'lit'", "Did you mean lite?"]),
        (with_("dataset/subset", "./none.csv"), ["dataset.subset", "the file ./none.csv"]),
        (with_("settings/solo", []), ["settings.solo", "no upstream flags"]),
        (with_("settings/solo", ["--setting", "sol"]), ["'sol'", "Did you mean solo?"]),
        (with_("settings/solo", ["--git"]), ["settings.solo", "--setting is followed by nothing"]),
        (with_("settings/solo", ["--setting", "coop", "--setting", "solo"]), ["more than once"]),
        (with_("settings/solo", ["--setting", "solo", "--agent=foo"]), ["--agent=foo", "leave it"]),
        (with_("settings/solo", ["--setting", "solo", "-mgpt"]), ["-mgpt", "leave it out"]),
        (with_("settings/solo", ["--setting", "solo", "--forc"]), ["--forc (--force)"]),
        (with_("settings/solo", ["--setting", "solo", "--set", "x"]), ["flags in full"]),
        (
            with_("settings/solo", ["--setting", "coop", "--gti"]),
            ["--gti", "no such flag", "--team-no-mcp", "Did you mean --git?"],
        ),
        (
            with_("agent/config", {"model": "hello"}),
            ["agent.config.model", "'hello' is not a table"],
        ),
        (with_("agent/config", {"agent": [1]}), ["agent.config.agent", "[1] is not a table"]),
        (with_("agent/config", {"model": {"model_kwargs": "x"}}), ["model_kwargs", "not a table"]),
        (with_("images/archive", " "), ["images.archive", "is empty"]),
        (with_("settings/a b", ["--setting", "solo"]), ["'a b' cannot be a folder name"]),
        (with_("models/..", {"model": "x"}), ["'..' cannot be a folder name"]),
        (with_("models/a/modl", "x"), ["models.a.modl", "Did you mean model?"]),
        (with_("models/a", {}), ["models.a.model", "is missing"]),
        (with_("models", {}), ["models", "at least one"]),
        (with_("models/command-a/api_base", "stg.cohere"), ["api_base", "not an http(s) URL"]),
        (with_("providers", {"a-b": {}}), ["providers.a-b", "Snakemake resource"]),
        (with_("providers", {"p": {"run": 1}}), ["providers.p.run", "Did you mean runs?"]),
        (with_("providers", {"p": {"runs": 0}}), ["providers.p.runs", "greater than 0"]),
        (with_("models/command-a/provider", "p"), ["command-a.provider", "'p'", "Allowed: none"]),
        (with_("models/command-a/adopt", {"sol": "x"}), ["adopt.sol", "Did you mean solo?"]),
        (
            with_("models/a", {"model": "x", "replay": "r", "adopt": {"solo": "x"}}),
            ["models.a", "exclude each other"],
        ),
        (with_("agent/name", "openhands_sdk"), ["agent.name", "Modal only", "openhands_docker"]),
        (with_("models/command-a/agent", {"name": "codx"}), ["command-a.agent.name", "codex?"]),
        (
            with_("models/a", {"model": "x/gpt-5", "agent": {"name": "openhands_docker"}}),
            ["models.a.model", "responses", "openhands_docker"],
        ),
        (with_("agent/outside", True), ["agent.outside", "openhands_docker"]),
        (
            with_("agent/name", "openhands_docker") | {"containers": {"network": "none"}},
            ["containers.network", "agent.outside"],
        ),
        (with_("agent/name", "mini_swe_agent"), ["Did you mean mini_swe_agent_v2?"]),
        (with_("agent/config", {"agents": {}}), ["agent.config.agents", "Did you mean agent?"]),
        (with_("redis/url", "localhost"), ["redis.url", "'localhost' is not a Redis URL"]),
        (
            {
                **with_("redis/url", "unix:///run/redis.sock"),
                "settings": {"t": ["--setting", "team"]},
            },
            ["redis.url", "cannot be reached from containers", "settings.t"],
        ),
        (with_("results", " "), ["results: is empty"]),
        (with_("results", "//"), ["results: '/'", "root of the file system"]),
        (with_("results", "res{pair}"), ["'res{pair}'", "which Snakemake reserves"]),
        (with_("providers", {"p": {"runs": True}}), ["providers.p.runs", "True", "a number"]),
        (with_("limits/call_tries", True), ["limits.call_tries", "True", "a number"]),
        (with_("limits/pause_seconds", math.inf), ["limits.pause_seconds", "finite"]),
        (with_("containers", {"memory": "0g"}), ["containers.memory", "'0g'"]),
        (with_("containers", {"memory": "5m"}), ["containers.memory", "6m"]),
        (with_("containers", {"memory": "16gb"}), ["'16gb' is not valid", "such as 16g"]),
        (with_("containers", {"network": "container:x"}), ["containers.network", "Write null"]),
        # What YAML reads otherwise: `no`, numbers, dates.
        (with_("dataset/tasks", [False]), ["dataset.tasks.0: False: must be text"]),
        (with_("dataset/tasks", [1.5]), ["dataset.tasks.0: 1.5", "integer"]),
        (with_("dataset/pairs", ["dspy_task/8394/²,1"]), ["²", "is not a pair"]),
        ({**BASE, "models": {False: {"model": "x"}}}, ["models: the key False", "in quotes"]),
        (with_("models/a", {"model": datetime.date(2026, 1, 1)}), ["a.model: 2026-01-01", "text"]),
        (with_("models", ["a"]), ["models: a list: must be a table"]),
        (with_("settings/solo", "--setting solo"), ["settings.solo", "must be a list"]),
        (with_("models/a/agent", {"nam": "codex"}), ["Allowed in models.a.agent: name", "name?"]),
        (with_("dataset/sample", {"n": 1, "sed": 1}), ["Allowed in dataset.sample: n, seed."]),
        (with_("judge/model", {"modl": "x", "model": "x"}), ["judge.model.modl", "model?"]),
        (with_("judge/model", 5), ["judge.model: 5: must be text"]),
        (with_("models/a", {"model": "x", "adopt": {"solo": 5}}), ["a.adopt.solo: 5: must be"]),
        (with_("models/a", {"model": "x", "adopt": {"solo": ""}}), ["a.adopt.solo: names no"]),
        # Names and paths.
        (with_("models/a/model", "--help"), ["models.a.model", "'--help'", "dash"]),
        (with_("models/a", {"model": "x", "replay": ""}), ["models.a.replay: is empty"]),
        (with_("results", "~/results"), ["results: '~/results'", "not expanded"]),
        (with_("dataset/dir", "a\nb"), ["dataset.dir", "control character"]),
        (with_("notify", ["a\0b"]), ["notify.0", "NUL"]),
        (with_("dataset/subset", "x" * 300), ["dataset.subset", "200 bytes"]),
        (with_("results", "a/" + "x" * 300), ["results", "200 bytes"]),
        (with_("agent/external", [""]), ["agent.external", "not a module's name"]),
        (with_("models/command-a/api_base", "http://h:99999"), ["api_base", "port"]),
        (with_("models/command-a/api_base", "http://[::1/v1"), ["api_base", "host"]),
        (with_("redis/url", "redis://h:port"), ["redis.url", "host or port"]),
        # Numbers that would end in an error, or in a wait of years, while a run is paid for.
        (with_("limits/call_seconds", 10**26), ["limits.call_seconds", "604800"]),
        (with_("limits/pause_seconds", 1e30), ["limits.pause_seconds", "604800"]),
        (with_("breaker", {"pause_seconds": 1e30}), ["breaker.pause_seconds", "604800"]),
        (with_("containers", {"pids": 10**20}), ["containers.pids", "4194304"]),
        (with_("providers", {"p": {"requests_per_minute": 1e-7}}), ["requests_per_minute", "0.01"]),
        # The agent's config.
        *(
            (with_("agent/config", {part: value}), words)
            for part, value, words in (
                ("agent", {"step_limit": -1}, ["agent.step_limit: -1 is negative"]),
                ("agent", {"cost_limit": math.nan}, ["agent.cost_limit: nan", "finite"]),
                ("agent", {"x": datetime.date(2026, 1, 1)}, ["2026-01-01 is a date in YAML"]),
                ("agent", {1: 2}, ["agent.config.agent: the key 1 is not text"]),
                ("environment", {"env": ["A"]}, ["environment.env", "is not a table"]),
                ("model", {"model_name": "x"}, ["model.model_name", "models.NAME.model"]),
                ("model", {"model_kwargs": {"num_retries": 2}}, ["limits.call_tries"]),
                ("model", {"model_kwargs": {"fallbacks": ["x"]}}, ["another model"]),
                ("model", {"model_kwargs": {"mock_response": "x"}}, ["models.NAME.replay"]),
                ("model", {"model_kwargs": {"stream": True}}, ["model_kwargs.stream"]),
                ("model", {"model_kwargs": {"api_base": "http://h:x"}}, ["api_base", "port"]),
            )
        ),
    ],
)
def test_errors_name_the_key_and_the_remedy(raw: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        planning.make(config.parse(raw, "config.yaml"))
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert len(text.splitlines()) <= 2


def test_an_api_key_given_as_the_variables_name_is_not_printed() -> None:
    with pytest.raises(UserError) as caught:
        config.parse(with_("models/command-a/api_key", "sk-0123 4567"))
    assert "sk-0123" not in str(caught.value)


KEY = "s3cr3tA1b2C3d4E5f6G7h8I9j0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("models/command-a/api_key", KEY),
        ("models/command-a/api_key", [KEY]),
        ("models/command-a/api_key", {KEY: 1}),
        ("models/command-a", {"model": "x", "api_kye": KEY}),
        ("models/command-a/api_base", f"https://me:{KEY}@host/v1"),
        ("models/command-a/api_base", f"https://host/v1?api-version=1&api-key={KEY}"),
        ("redis/url", f"redis://:{KEY}@host:port"),
        ("judge/model", {"model": "x", "api_key": KEY, "modl": 1}),
        ("judge/model", [{"api_key": KEY}]),
        *(
            ("agent/config", {"model": {"model_kwargs": kwargs}})
            for kwargs in (
                {"aws_secret_access_key": KEY},
                {"extra_headers": {"Authorization": f"Bearer {KEY}"}},
                {"headers": {"Ocp-Apim-Subscription-Key": KEY}},
                {"azure_ad_token": KEY},
                {"vertex_credentials": '{"private_key": "' + KEY + '"}'},
                {"base_url": f"https://me:{KEY}@host/v1"},
            )
        ),
        ("agent/config", {"environment": {"env": {"OPENAI_API_KEY": KEY}}}),
    ],
)
def test_a_key_in_the_config_is_refused_and_not_printed(path: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(with_(path, value))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"stream": False, "n": 1, "num_retries": 0, "max_retries": 0, "max_tokens": 5},
        {"extra_headers": {"x-team": "a"}, "vertex_credentials": "/keys/account.json"},
        {"extra_body": {"eos_token": "</s>"}, "temperature": 0.0, "stop": None},
    ],
)
def test_harmless_parameters_of_calls(kwargs: dict[str, Any]) -> None:
    environment = {"env": {"OPENAI_API_KEY": "test", "PIP_NO_INPUT": 1}}
    agent = {"model": {"model_kwargs": kwargs}, "environment": environment}
    assert config.parse(with_("agent/config", agent)).agent.config == agent


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: {model: x}, a: {model: y}}", ["line 1: models.a", "already in line 1"]),
        ("limits: {run_seconds: 5}\nrepeats: 2\nlimits: {}", ["line 3: limits", "in line 1"]),
        ("repeats: 010", ["repeats: 010 is 8 in YAML"]),
        ("limits: {run_seconds: 10:00}", ["limits.run_seconds: 10:00 is 600 in YAML"]),
        ("dataset: {tasks: [1655, 0777]}", ["dataset.tasks.1: 0777 is 511 in YAML"]),
    ],
)
def test_what_yaml_would_change_silently(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config.load([path])
    message = str(caught.value)
    assert message.startswith("mine.yaml, line")
    assert all(word in message for word in words), message
    # Snakemake reads the files itself.
    with pytest.raises(UserError, match=r"mine\.yaml, line"):
        config.parse(BASE, files=[path])


@pytest.mark.parametrize(
    "text",
    [
        "\ufefflimits: {run_seconds: 5}\n",
        "limits: &a {run_seconds: 5}\nassume: {<<: *a, calls: 1_0}\n",
        "dataset: {tasks: ['0777', 0]}\n# a comment\n",
        '{"limits": {"run_seconds": 5}}',
    ],
)
def test_yaml_that_is_read_as_it_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    config.load([path])


def test_the_shipped_config() -> None:
    plan = planning.make(config.load([]))
    assert (len(plan.pairs), len(plan.images), len(plan.runs)) == (100, 26, 300)
    assert [e.run_name for e in plan.experiments] == [
        "command-a-solo",
        "command-a-coop-comm",
        "command-a-coop-nocomm",
    ]
    model = plan.config.models["command-a"]
    assert model is not None
    assert model.api_base == "https://stg.api.cohere.com/v2/chat"
    assert (plan.config.limits.run_seconds, plan.config.limits.eval_seconds) == (600, 1800)


def test_the_shipped_schema_is_that_of_the_config() -> None:
    assert schema.PATH.read_text() == schema.text(), "run `make schema`"
    assert schema.README.read_text() == schema.readme(), "run `make schema`"


def test_every_key_is_in_the_reference() -> None:
    text = (layout.REPOSITORY / "config" / "README.md").read_text()
    for name, field in config_keys.Config.model_fields.items():
        kind = field.annotation
        keys = getattr(kind, "model_fields", None)
        for key in [f"{name}.{part}" for part in keys] if keys else [name]:
            assert f"`{key}" in text, key


def test_none_removes_an_entry() -> None:
    plan = planning.make(config.parse(with_("settings/solo", None)))
    assert {e.setting.name for e in plan.experiments} == {"coop-comm", "coop-nocomm"}


def test_yaml_reads_off_as_false() -> None:
    assert config.parse(with_("launcher", False)).launcher == "off"


def test_the_full_table_is_every_pair_of_every_task() -> None:
    loaded = pairs.load("full", Path("nowhere"))
    assert len(loaded) == 652
    assert len(pairs.known_features()) == 30


@pytest.fixture
def table(tmp_path: Path) -> Callable[[list[tuple[str, Any, Any, Any]]], str]:
    def write(rows: list[tuple[str, Any, Any, Any]]) -> str:
        path = tmp_path / "own.csv"
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([pairs.COLUMNS, *rows])
        return str(path)

    return write


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("dspy_task", 8394, 1, 1), "two different features"),
        (("dspy_task", 8394, 1, 99), "no such feature"),
        (("dspy_task", 1, 1, 2), "has no task 1"),
        (("dspi_task", 8394, 1, 2), "Did you mean dspy_task?"),
        (("../x_task", 8394, 1, 2), "plain folder name"),
        (("a/b_task", 8394, 1, 2), "plain folder name"),
        (("dspy_task", "x", 1, 2), "a task number and two feature numbers"),
        (("dspy_task", 8394, 0, 2), "feature numbers at 1"),
        (("dspy_task", 8394, 1.5, 2), "a task number and two feature numbers"),
    ],
)
def test_invalid_pairs(
    table: Callable[..., str], row: tuple[str, Any, Any, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        planning.make(config.parse(with_("dataset/subset", table([row]))))


def test_pairs_of_a_spreadsheet(tmp_path: Path) -> None:
    """It writes a byte-order mark and CRLF; numbers of a JSON file may be written as 3.0."""
    table, document = tmp_path / "a.csv", tmp_path / "b.json"
    table.write_text(
        "repo,task_id,feature_a,feature_b\r\ndspy_task,8394,1,2\r\n", encoding="utf-8-sig"
    )
    pairs_of_b: list[Any] = [[1.0, "2"]]
    tasks = [{"repo": "dspy_task", "task_id": 8394.0, "pairs": pairs_of_b}]
    document.write_text(json.dumps({"tasks": tasks}), encoding="utf-8-sig")
    expected = [layout.Pair("dspy_task", 8394, (1, 2))]
    assert pairs.load(str(table), tmp_path) == pairs.load(str(document), tmp_path) == expected
    for wrong in ([1.5, 2], [True, 2]):
        pairs_of_b[:] = [wrong]
        document.write_text(json.dumps({"tasks": tasks}))
        with pytest.raises(UserError, match="two feature numbers"):
            pairs.load(str(document), tmp_path)


def test_duplicate_and_missing_pairs(table: Callable[..., str]) -> None:
    duplicates = table([("dspy_task", 8394, 1, 2), ("dspy_task", 8394, 2, 1)])
    with pytest.raises(UserError, match="is listed twice"):
        pairs.load(duplicates, Path("nowhere"))
    with pytest.raises(UserError, match="contains no pairs"):
        pairs.load(table([]), Path("nowhere"))


def test_a_data_set_that_differs_from_the_table(tmp_path: Path) -> None:
    (tmp_path / "subsets").mkdir()
    tasks = [{"repo": "dspy_task", "task_id": 8394, "pairs": [[1, 2]]}]
    (tmp_path / "subsets" / "lite.json").write_text(json.dumps({"tasks": tasks}))
    with pytest.raises(UserError, match=r"lite.csv and .*lite.json differ"):
        pairs.load("lite", tmp_path)


def test_groups_of_three_agents_are_refused(tmp_path: Path) -> None:
    """cooperbench runs all pairs of such a task, whatever the groups are."""
    path = tmp_path / "team3.json"
    tasks = [{"repo": "go_chi_task", "task_id": 26, "groups": [[2, 3, 4]]}]
    path.write_text(json.dumps({"tasks": tasks}))
    with pytest.raises(UserError, match=r"groups.*three or more.*go_chi_task/26.*all pairs"):
        pairs.load(str(path), tmp_path)


def test_features_keep_the_subsets_order_and_folders_do_not() -> None:
    pair = layout.Pair("dspy_task", 8394, (5, 3))
    assert pair.folder == "dspy_task/8394/f3_f5"
    assert pair.features == (5, 3)


def test_experiments_with_the_same_name() -> None:
    raw = with_("models/command-a-solo", {"model": "x"})
    raw["models"]["command-a"] = {"model": "x"}
    raw["settings"]["solo-solo"] = ["--setting", "solo"]
    with pytest.raises(UserError, match="two experiments would both be called"):
        planning.make(config.parse(raw))


def test_image_names_are_upstreams() -> None:
    from cooperbench.utils import get_image_name

    for repo, task in pairs.known_features():
        assert published.image_name(repo, task) == get_image_name(repo, task)


def test_the_demo_of_two_agents_is_a_config() -> None:
    folder = layout.REPOSITORY / "config"
    plan = planning.make(config.load([folder / "demo-agents.yaml"]))
    agents = {experiment.model_name: experiment.agent.name for experiment in plan.experiments}
    assert agents == {"mini": "mini_swe_agent_v2", "openhands": "openhands_docker"}
    assert len(plan.runs) == 6


def test_the_demos_additional_settings_are_a_config() -> None:
    folder = layout.REPOSITORY / "config"
    plan = planning.make(config.load([folder / "demo.yaml", folder / "demo-settings.yaml"]))
    assert {"team", "team-git", "coop-git"} < {setting.name for setting in plan.settings}
    assert len(plan.pairs) == 1
