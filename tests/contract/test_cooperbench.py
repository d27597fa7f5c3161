"""Facts of cooperbench: its flags, its files and their fields, its agents, its prompts."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from commands import record
from cooperflow import layout
from cooperflow.attempt import child_process
from cooperflow.experiment import config_schema, pairs
from cooperflow.instrumentation import upstream_patches
from cooperflow.outcomes import patch_text
from cooperflow.upstream import published, releases

child_process.prepare_environment()

from cooperbench import agents, cli, utils  # noqa: E402
from cooperbench.agents import registry  # noqa: E402
from cooperbench.eval import runs, sandbox  # noqa: E402
from cooperbench.runner import coop, solo, tasks  # noqa: E402

REPO = "demo_textkit_task"
DATASET = layout.REPOSITORY / "demo" / "dataset"
OF_AN_AGENT = {"status", "cost", "steps", "input_tokens", "output_tokens", "patch_lines", "error"}
OF_A_RUN = {"repo", "task_id", "features", "setting", "run_name", "model", "agent_framework"}
OF_A_RUN |= {"started_at", "ended_at", "duration_seconds", "total_cost", "log_dir"}


def test_the_data_set_is_where_prepare_fetches_it() -> None:
    from cooperbench import dataset

    assert dataset.REPO_ID == releases.DATASET


# Of each subset: tasks, pairs and repos, as `stats` in upstream's file counts them
# (dataset/subsets, commits c98470d, f4b610b, 8bb229c, 32ad650); of the complete set, as its README.
COUNTS = {
    "lite": (26, 100, 12),
    "flash": (20, 50, 11),
    "spark": (13, 20, 10),
    "flash_10": (10, 10, 9),
    "core": (10, 10, 9),
    "full": (30, 652, 12),
}


def test_each_shipped_subset_has_the_counts_of_upstream() -> None:
    assert set(COUNTS) == set(pairs.shipped_tables())
    for name, counts in COUNTS.items():
        loaded = pairs.load(name, Path("nowhere"))
        tasks = {(pair.repo, pair.task_id) for pair in loaded}
        different = {(pair.repo, pair.task_id, pair.sorted_features) for pair in loaded}
        assert (len(tasks), len(different), len({repo for repo, _ in tasks})) == counts, name
    assert sum(len(ids) for ids in pairs.known_features().values()) == 199


def test_each_subset_is_part_of_the_one_that_it_was_drawn_from() -> None:
    """Upstream drew spark and flash_10 from flash, flash from lite."""
    parts = {
        name: {(p.repo, p.task_id, p.sorted_features) for p in pairs.load(name, Path("nowhere"))}
        for name in COUNTS
    }
    assert parts["spark"] | parts["flash_10"] <= parts["flash"] < parts["lite"] < parts["full"]
    assert parts["core"] < parts["full"]


def usage_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    monkeypatch.setattr(sys, "argv", ["cooperbench", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    return str(capsys.readouterr().out)


RUN_FLAGS = """-n -m -a -r -t -f -c --setting --backend --dataset-dir --log-dir --no-auto-eval
    --agent-config --redis --no-messaging --git"""
EVAL_FLAGS = "-n -r -t -f -c --backend --dataset-dir --log-dir --force"


@pytest.mark.parametrize(("command", "flags"), [("run", RUN_FLAGS), ("eval", EVAL_FLAGS)])
def test_flags(command: str, flags: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = usage_of(command, monkeypatch, capsys)
    assert [flag for flag in flags.split() if f"{flag} " not in text.replace(",", " ")] == []


def test_flags_of_run_are_read_from_the_source(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    flags = set(re.findall(r"--[a-z-]+", usage_of("run", monkeypatch, capsys)))
    assert releases.run_flags() == flags - {"--help"}


def test_settings_are_solo_coop_and_team(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = usage_of("run", monkeypatch, capsys)
    assert "--setting {coop,solo,team}" in text
    assert set(config_schema.MODES) == {"coop", "solo", "team"}


def test_agents_that_run_on_docker_are_registered() -> None:
    assert set(config_schema.DOCKER_AGENTS) - {config_schema.OPENHANDS} <= set(
        registry.list_agents()
    )


def test_an_unknown_agent_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Unknown agent"):
        registry.get_runner("no_such_agent")


@pytest.mark.parametrize(("repo", "task"), [("llama_index_task", 17), ("go_chi_task", 27)])
def test_name_of_a_tasks_image(repo: str, task: int) -> None:
    assert utils.get_image_name(repo, task) == published.image_name(repo, task)


def test_a_pair_given_on_the_command_line_keeps_its_order() -> None:
    (task,) = tasks.discover_tasks(
        repo_filter=REPO, task_filter=2, features_filter=[3, 2], dataset_dir=DATASET
    )
    assert task == {"repo": REPO, "task_id": 2, "features": [3, 2]}


# Files of a run, with an agent that only repeats its prompt.


class Scripted:
    """A test agent in upstream's registry: it works without a container."""

    def run(self, task: str, image: str, **options: Any) -> Any:
        if "fails" in options["model_name"]:
            raise RuntimeError("the provider is offline")
        message = {"role": "assistant", "content": task, "extra": {"response": {"id": "r1"}}}
        return agents.AgentResult("Submitted", "diff\n", 0.5, 3, messages=[message], error=None)


@pytest.fixture(autouse=True)
def scripted() -> None:
    registry.register("scripted")(Scripted)


def solo_run(logs: Path, features: list[int], model: str = "m") -> Path:
    solo.execute_solo(
        REPO, 2, features, "n", "scripted", model, quiet=True, dataset_dir=DATASET, logs_dir=logs
    )
    return logs / "n" / "solo" / REPO / "2"


def coop_run(logs: Path, features: list[int], model: str = "m") -> Path:
    coop.execute_coop(
        REPO, 2, features, "n", "scripted", model, quiet=True, dataset_dir=DATASET, logs_dir=logs
    )
    return logs / "n" / "coop" / REPO / "2"


def test_folder_of_a_run_has_its_features_sorted(tmp_path: Path) -> None:
    solo_run(tmp_path, [3, 2])
    result_path = layout.Results(tmp_path).run("n", "solo", layout.Pair(REPO, 2, (3, 2))).result
    assert (tmp_path / result_path.relative_to(tmp_path / "runs")).exists()


def test_files_of_a_solo_run(tmp_path: Path) -> None:
    folder = solo_run(tmp_path, [1, 2]) / "f1_f2"
    assert {p.name for p in folder.iterdir()} == {"result.json", "solo.patch", "solo_traj.json"}


def test_fields_of_a_solo_result(tmp_path: Path) -> None:
    document = json.loads((solo_run(tmp_path, [1, 2]) / "f1_f2" / "result.json").read_text())
    assert document.keys() >= OF_A_RUN | {"agent"}
    assert document["agent"].keys() >= OF_AN_AGENT


def test_files_of_a_coop_run_are_named_by_feature(tmp_path: Path) -> None:
    folder = coop_run(tmp_path, [3, 2]) / "f2_f3"
    assert {p.name for p in folder.iterdir()} == {
        "result.json",
        "conversation.json",
        "agent2.patch",
        "agent3.patch",
        "agent2_traj.json",
        "agent3_traj.json",
    }


def test_fields_of_a_coop_result(tmp_path: Path) -> None:
    document = json.loads((coop_run(tmp_path, [3, 2]) / "f2_f3" / "result.json").read_text())
    assert document.keys() >= OF_A_RUN | {"agents", "messages_sent"}
    assert document["features"] == [2, 3]
    features = {name: end["feature_id"] for name, end in document["agents"].items()}
    assert features == {"agent1": 2, "agent2": 3}
    assert document["agents"]["agent1"].keys() >= OF_AN_AGENT | {"feature_id"}


def test_a_trajectory_names_its_agent(tmp_path: Path) -> None:
    document = json.loads((coop_run(tmp_path, [1, 2]) / "f1_f2/agent2_traj.json").read_text())
    assert (document["agent_id"], document["feature_id"]) == ("agent2", 2)
    assert document["messages"][0]["extra"]["response"]["id"] == "r1"


@pytest.mark.parametrize("run", [solo_run, coop_run])
def test_an_agent_that_fails_is_reported_as_error(run: Callable[..., Path], tmp_path: Path) -> None:
    document = json.loads((run(tmp_path, [1, 2], "fails") / "f1_f2/result.json").read_text())
    ends = document.get("agents") or {"solo": document["agent"]}
    assert {end["status"] for end in ends.values()} == {"Error"}
    assert {end["error"] for end in ends.values()} == {"the provider is offline"}


def test_a_solo_task_has_the_features_in_the_requested_order(tmp_path: Path) -> None:
    solo_run(tmp_path, [3, 2])
    text = json.loads((tmp_path / f"n/solo/{REPO}/2/f2_f3/solo_traj.json").read_text())
    content = text["messages"][0]["content"]
    assert 0 <= content.index("## Feature 3\n") < content.index("## Feature 2\n")


def test_eval_discovers_runs_in_the_workflows_layout(tmp_path: Path) -> None:
    pair = layout.Pair(REPO, 2, (1, 2))
    folder = layout.Results(tmp_path).run("m-solo", "solo", pair)
    (folder.path / "attempts" / "1").mkdir(parents=True)
    folder.result.write_text("{}")
    (tmp_path / "runs/m-solo/experiment.json").write_text("{}")
    documents = runs.discover_runs("m-solo", logs_dir=tmp_path / "runs")
    assert [(r["repo"], r["task_id"], r["features"], r["setting"]) for r in documents] == [
        (REPO, 2, [1, 2], "solo")
    ]


# The agent mini_swe_agent_v2.


@pytest.mark.parametrize("mode", ["solo", "coop"])
def test_the_agents_default_config_has_a_step_limit(mode: str) -> None:
    defaults = releases.agent_defaults("mini_swe_agent_v2", mode)
    assert defaults["agent"]["step_limit"] > 0


def prompt(mode: str, **values: object) -> str:
    template = releases.agent_defaults("mini_swe_agent_v2", mode)["agent"]["instance_template"]
    fields = {"task": "T", "agent_id": "agent1", "agents": ["agent1", "agent2"], "system": "Linux"}
    fields |= {"release": "6", "version": "1", "machine": "x", "git_enabled": False}
    return jinja2.Template(template).render(fields | values)


def test_a_coop_prompt_names_the_agent() -> None:
    assert "You are **agent1**" in prompt("coop", messaging_enabled=True)


def test_only_a_prompt_with_messages_has_their_section() -> None:
    assert "\n## Messaging\n" in prompt("coop", messaging_enabled=True)
    assert "\n## Messaging\n" not in prompt("coop", messaging_enabled=False)


def test_the_prompt_names_the_submit_command() -> None:
    assert record.SUBMIT in prompt("solo")


def test_a_container_of_an_agent_ends_after_two_hours() -> None:
    from cooperbench.agents.mini_swe_agent_v2.environments import docker

    assert docker.DockerEnvironmentConfig(image="x").container_timeout == "2h"
    assert config_schema.LONGEST_RUN < 7200


def test_the_docker_program_of_agents_is_named_by_a_variable() -> None:
    from cooperbench.agents.mini_swe_agent_v2.environments import docker

    assert docker.DockerEnvironmentConfig(image="x").executable == child_process.shim_path()


def test_tries_of_a_model_call_are_named_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from cooperbench.agents.mini_swe_agent_v2.models.utils.retry import retry

    monkeypatch.setenv("MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT", "3")
    retrying: Any = retry(logger=logging.getLogger(), abort_exceptions=[])
    assert retrying.iter.__self__.stop.max_attempt_number == 3


def test_an_agent_config_file_is_merged_over_its_defaults() -> None:
    from cooperbench.agents.mini_swe_agent_v2.utils.serialize import recursive_merge

    text = yaml.safe_load('{"config": {"model": {"model_kwargs": {"timeout": 3}}}}')
    assert recursive_merge({"model": {"a": 1}}, text["config"]) == {
        "model": {"a": 1, "model_kwargs": {"timeout": 3}}
    }


def test_the_git_servers_names_are_constants_of_its_module() -> None:
    server = importlib.import_module(
        "cooperbench.agents.mini_swe_agent_v2.connectors.git_servers.docker"
    )
    assert all(isinstance(getattr(server, name), str) for name in upstream_patches.GIT_SERVER_NAMES)


def test_containers_reach_a_local_redis_at_the_hosts_address() -> None:
    from cooperbench.agents._coop.runtime import rewrite_comm_url_for_container

    assert rewrite_comm_url_for_container("redis://127.0.0.1:7#run:x") == (
        "redis://host.docker.internal:7#run:x"
    )


def test_the_openhands_adapter_has_the_patched_names() -> None:
    """Setting an attribute that no longer exists would succeed and have no effect."""
    adapter = importlib.import_module("cooperbench.agents.openhands_agent_sdk.adapter")
    names = ("ModalSandboxContext", "_extract_patch", "_get_or_create_redis")
    names += ("_get_or_create_git_server", "_release_git_server", "OpenHandsSDKRunner")
    assert [name for name in names if not hasattr(adapter, name)] == []


def test_an_agents_patch_is_read_by_commands_that_report_exceptions() -> None:
    git = importlib.import_module("cooperbench.agents.mini_swe_agent_v2.connectors.git")
    assert "self._exec(" in inspect.getsource(git.GitConnector.submitted_patch)
    assert (
        inspect.getsource(git.GitConnector.submitted_patch).count(f'f"{upstream_patches.DIFF}') == 2
    )
    environment = importlib.import_module(
        "cooperbench.agents.mini_swe_agent_v2.environments.docker"
    )
    assert '"exception_info"' in inspect.getsource(environment.DockerEnvironment.execute)


@pytest.mark.parametrize(
    "path",
    [
        "src/a.py",
        "tests/a.py",
        "src/tests/deep/a.rs",
        "test_a.py",
        "chi/mux_test.go",
        "src/form.test.tsx",
        "src/form.spec.js",
        "FooTest.java",
        "tests.py",
        "src/testing.py",
        "__tests__/a.ts",
        "go/testdata/a.txt",
    ],
)
def test_test_files_are_removed_from_patches_by_the_same_rule(path: str) -> None:
    patch = f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+b\n"
    filtered_patch = sandbox._filter_test_files(patch)
    assert patch_text.is_empty(patch.encode()) is not bool(filtered_patch.strip())


def test_the_git_servers_network_has_the_name_that_is_created_for_it() -> None:
    """The workflow creates a run's network itself, so that the engine's refusal is kept."""
    from cooperbench.agents.mini_swe_agent_v2.connectors.git_servers import docker as server

    from cooperflow.engine import containers
    from cooperflow.engine.containers import Labels

    labels = Labels("results", "run", "0123456789abcdef", "owner")
    assert containers.git_network_name(labels) == f"{server._NETWORK_NAME}-{labels.token[:12]}"


# The modules of packages whose names differ from them.
MODULES = {
    "google-cloud-aiplatform": ("vertexai", "google.cloud.aiplatform", "google.cloud.storage"),
    "openhands-sdk": ("openhands.sdk",),
    "openhands-tools": ("openhands.tools",),
    "openhands-workspace": ("openhands.workspace",),
    "python-frontmatter": ("frontmatter",),
}


def test_only_the_openhands_agent_and_google_cloud_import_what_the_lock_omits() -> None:
    """The agent openhands_sdk and the backend gcp are refused: the lock omits their packages."""
    lines = (layout.REPOSITORY / "envs" / "overrides.txt").read_text().splitlines()
    omitted = [line.partition(";")[0] for line in lines if line and not line.startswith("#")]
    assert "openhands-sdk" in omitted
    assert "google-cloud-aiplatform" in omitted
    modules = [m for name in omitted for m in MODULES.get(name, (name.replace("-", "_"),))]
    statement = re.compile(
        rf"^\s*(?:from|import) ({'|'.join(map(re.escape, modules))})\b", re.MULTILINE
    )
    package = Path(inspect.getfile(cli)).parent
    importing = {
        path.relative_to(package).parts[:2]
        for path in package.rglob("*.py")
        if statement.search(path.read_text("utf-8"))
    }
    assert importing <= {("agents", "openhands_agent_sdk"), ("eval", "backends")}


def test_no_program_reads_the_files_that_are_compressed() -> None:
    """The evaluation reads neither trajectories nor conversations; the runner only writes them."""
    package = Path(importlib.import_module("cooperbench").__file__ or "").parent
    mentions = {
        path.relative_to(package).as_posix(): [
            line for line in path.read_text().splitlines() if "traj" in line
        ]
        for folder in ("eval", "runner", "generation", "infra", ".")
        for path in package.glob(f"{folder}/**/*.py" if folder != "." else "*.py")
    }
    lines_by_file = {name: lines for name, lines in mentions.items() if lines}
    assert set(lines_by_file) == {"runner/solo.py", "runner/coop.py", "runner/team.py"}
    for name, lines in lines_by_file.items():
        assert all('"w"' in line for line in lines if "open(" in line), name
        assert not any("read" in line or "exists" in line for line in lines), name
