"""Fingerprints of experiments (experiment.json) and of the plan that the tables were made for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cooperflow import atomic_io
from cooperflow.errors import UserError, listed
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Experiment, Plan
from cooperflow.upstream import releases, result_files

SCHEMA = 1
# Keys of `asked` that are omitted at their default, because older documents lack them.
_OPTIONAL = ("return_tool_plan",)


def requested_config(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    """Return the part of the config that affects an experiment's results."""
    config, model = plan.config, experiment.model
    return {
        "model": model.model,
        "api_base": model.api_base,
        "replay": model.replay,
        "flags": list(experiment.setting.flags),
        "agent": experiment.agent.name,
        "agent_config": experiment.agent.config,
        "external_agents": experiment.agent.external,
        **({"outside": experiment.agent.outside} if experiment.agent.openhands else {}),
        "backend": config.backend,
        "containers": config.containers.model_dump(),
        "run_seconds": config.limits.run_seconds,
        "call_seconds": config.limits.call_seconds,
        "call_tries": config.limits.call_tries,
        **({"return_tool_plan": True} if model.return_tool_plan else {}),
    }


def resolved_config(experiment: Experiment, plan: Plan, tasks: Mapping[str, str]) -> dict[str, Any]:
    """Return what the config resolved to here: versions, upstream's agent config, data."""
    origin = dataset.read_origin(Path(plan.config.dataset.dir))
    return {
        "cooperbench": importlib.metadata.version("cooperbench"),
        "litellm": importlib.metadata.version("litellm"),
        "agent_config": releases.agent_defaults(experiment.agent.name, experiment.setting.mode),
        "tasks": dict(tasks),
        "dataset_revision": origin[1] if origin else None,
    }


def agent_file(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    """Return the document for upstream's --agent-config. It never contains a key."""
    config = experiment.agent.config
    model = dict(config.get("model") or {})
    kwargs: dict[str, Any] = {"timeout": plan.config.limits.call_seconds}
    # If the client retried by itself, several calls would be recorded as one.
    kwargs["max_retries"] = 0
    kwargs |= {
        k: v for k, v in experiment.model_kwargs.items() if k not in ("api_base", "base_url")
    }
    if experiment.api_base:
        kwargs["api_base"] = experiment.api_base
    model["model_kwargs"] = kwargs
    return {"config": {**config, "model": model}}


def step_limit(experiment: Experiment, plan: Plan) -> int | None:
    """Return the agent's limit of steps, None without a known limit."""
    defaults = releases.agent_defaults(experiment.agent.name, experiment.setting.mode) or {}
    agent = {**(defaults.get("agent") or {}), **(experiment.agent.config.get("agent") or {})}
    return agent.get("step_limit") or None


def fingerprint(document: Mapping[str, Any]) -> str:
    """Return a short hash of everything that affects an experiment's results, except its tasks."""
    # The contents of the tasks matter, not their revision.
    resolved = {k: v for k, v in document["resolved"].items() if k != "dataset_revision"}
    values = {"asked": document["asked"], "resolved": {**resolved, "tasks": None}}
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_or_compare(
    experiment: Experiment, plan: Plan, tasks: Mapping[str, str], docker_version: str | None
) -> None:
    """Write the experiment's document, or compare the existing document with the config.

    Raises:
        UserError: an existing document differs, and the config does not accept the change.
    """
    path = plan.results.experiment(experiment.run_name)
    now: dict[str, Any] = {
        "asked": requested_config(experiment, plan),
        "resolved": resolved_config(experiment, plan, tasks),
    }
    before = atomic_io.read_json(path)
    history: list[Any] = []
    if before is None:
        others = sorted(_fingerprints(experiment, plan) - {fingerprint(now)})
        if others and not _accepted(experiment.run_name, plan.config.accept):
            raise UserError(_refusal(experiment, path, [f"{path.name} is missing or incomplete"]))
        if others or path.exists():
            history.append({"until": _now(), "changes": ["written anew"], "fingerprints": others})
    if before:
        changes = differences(before, now)
        history = list(before.get("history") or [])
        # Without a result nothing can be mixed, so a wrong model name can be corrected.
        free = _accepted(experiment.run_name, plan.config.accept) or not _has_results(path.parent)
        if changes and not free:
            raise UserError(_refusal(experiment, path, changes))
        if changes:
            history.append({"until": _now(), "changes": changes, "was": _core(before)})
        now["resolved"]["tasks"] = {**before["resolved"]["tasks"], **now["resolved"]["tasks"]}
        is_same_revision = now["resolved"]["dataset_revision"] in (
            None,
            before["resolved"].get("dataset_revision"),
        )
        if (
            not changes
            and is_same_revision
            and now["resolved"]["tasks"] == before["resolved"]["tasks"]
        ):
            return
    atomic_io.write_json(
        path,
        {
            "schema": SCHEMA,
            "run_name": experiment.run_name,
            "model_name": experiment.model_name,
            "setting": experiment.setting.name,
            "replay": experiment.model.replay is not None,
            "fingerprint": fingerprint(now),
            **now,
            "docker": docker_version,
            "created": (before or {}).get("created") or _now(),
            "history": history,
        },
    )


def find_changes(plan: Plan, thorough: bool = False) -> dict[str, list[str]]:
    """Return the changes of the config since the results were made, keyed by run name.

    Args:
        thorough: also compare the resolved configuration: versions and contents of tasks.
    """
    changes_by_name = {}
    root = Path(plan.config.dataset.dir)
    available = [p for p in plan.pairs if dataset.task_folder(root, p.repo, p.task_id).is_dir()]
    tasks = dataset.task_hashes(root, available) if thorough else {}
    for experiment in plan.experiments:
        path = plan.results.experiment(experiment.run_name)
        before = None if experiment.adopted else atomic_io.read_json(path)
        if not isinstance(before, dict) or _accepted(experiment.run_name, plan.config.accept):
            continue
        now: dict[str, Any] = {"asked": requested_config(experiment, plan), "resolved": {}}
        if thorough:
            now["resolved"] = resolved_config(experiment, plan, tasks)
        changes = differences(before, now)
        if changes and _has_results(path.parent):
            changes_by_name[experiment.run_name] = changes
    return changes_by_name


def notes(plan: Plan, thorough: bool = False) -> list[str]:
    """Return a line for each experiment whose results were made by another configuration."""
    return [
        f"{name}: its results were made by another configuration ({listed(changes, 6)}). They "
        "stay as they are, and a session refuses to add runs to them: restore the config, use "
        f"another name, or accept the change (--config 'accept=[\"{name}\"]')."
        for name, changes in find_changes(plan, thorough).items()
    ]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ, as `key: before -> now`; new tasks do not count."""
    lines = []
    for part in ("asked", "resolved"):
        old, new = before.get(part) or {}, now[part]
        for key in [*new, *(key for key in _OPTIONAL if key in old and key not in new)]:
            if key == "dataset_revision":
                continue  # for information only; the contents of the tasks matter
            if key == "tasks":
                changed = [t for t, h in new[key].items() if (old.get(key) or {}).get(t, h) != h]
                lines += [f"data set: {task} has other contents" for task in changed]
            elif old.get(key) != new.get(key):
                lines.append(f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}")
    return lines


def _refusal(experiment: Experiment, path: Path, changes: Sequence[str]) -> str:
    name = experiment.run_name
    return (
        f"{name}: its results in {path.parent} were made by another configuration. Changed: "
        f"{listed(changes, 6)}.\n"
        "Results of two configurations do not mix under one name. Restore the config; or give "
        f"the model (now {experiment.model_name}) or the setting another name in the config; or, "
        f"if the change does not matter, accept it: --config 'accept=[\"{name}\"]'"
    )


def _fingerprints(experiment: Experiment, plan: Plan) -> set[str]:
    """Return the fingerprints in the documents of an experiment's finished runs."""
    fingerprints = set()
    for pair in plan.pairs:
        folder = plan.results.run(experiment.run_name, experiment.setting.mode, pair)
        name = result_files.workflow(atomic_io.read_json(folder.result)).get("fingerprint")
        if name:
            fingerprints.add(str(name))
    return fingerprints


def _has_results(folder: Path) -> bool:
    return any(folder.glob("*/*/*/*/result.json"))


def _accepted(name: str, accept: Sequence[str]) -> bool:
    return name in accept or "all" in accept


def _core(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document.get(key) for key in ("asked", "resolved", "fingerprint", "docker")}


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def tables_key(plan: Plan) -> str:
    """Return a hash of the part of the config that affects the tables: the runs and their names."""
    content: list[object] = [
        plan.config.dataset.languages,
        [
            [
                each.run_name,
                each.model_name,
                each.setting.name,
                bool(each.model.replay),
                each.adopted,
            ]
            for each in plan.experiments
        ],
        [run.key for run in plan.runs],
    ]
    # The report names results that were made by another configuration.
    if changes := find_changes(plan):
        content.append(sorted(changes.items()))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def record_tables(plan: Plan) -> None:
    """Record that the tables were made for ``plan``."""
    atomic_io.write_text(plan.results.tables_plan, tables_key(plan) + "\n")


def tables_match(plan: Plan) -> bool:
    """Return whether the tables were last made for this plan; False without a record."""
    try:
        return plan.results.tables_plan.read_text().strip() == tables_key(plan)
    except (FileNotFoundError, NotADirectoryError):
        return False
