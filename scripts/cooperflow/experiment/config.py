"""Loading and validation of the config, with a message for every error."""

from __future__ import annotations

import copy
import datetime
import os
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel

from cooperflow import environment, layout
from cooperflow.errors import UserError, listed, suggest
from cooperflow.experiment.config_schema import (
    INSIDE,
    OPENHANDS,
    PROBLEM,
    Agent,
    Config,
    Containers,
    Images,
    Limits,
    Model,
    Provider,
)

# A path with this prefix is in the folder of the config file that names it.
CONFIG_DIR = "CONFIG_DIR/"


def parse(
    raw: Mapping[str, Any], source: str = "config", files: Sequence[Path | str] = ()
) -> Config:
    """Check the values in ``raw`` and return the config.

    Args:
        files: the config files; later files override earlier ones. Paths with the prefix
            CONFIG_DIR/ are looked up in their folders.

    Raises:
        UserError: a value is invalid. The message has the key, the value, the allowed values and
            the nearest valid name.
    """
    problems = [*_yaml_problems(files), *(f"{source}: {p}" for p in _text_problems(raw, ""))]
    if problems:
        raise UserError("\n".join(problems))
    try:
        config = Config.model_validate(_resolve_paths(dict(raw), [Path(file) for file in files]))
    except pydantic.ValidationError as error:
        lines = [f"{source}: {line}" for line in explain(error)]
        raise UserError("\n".join(lines)) from None
    problems = list(find_problems(config))
    if problems:
        raise UserError("\n".join(f"{source}: {line}" for line in problems))
    return config


def _resolve_paths(value: Any, files: Sequence[Path]) -> Any:
    """Return ``value`` with CONFIG_DIR/ replaced by a folder, relative if below the current one."""
    if isinstance(value, dict):
        return {key: _resolve_paths(entry, files) for key, entry in value.items()}
    if isinstance(value, list):
        return [_resolve_paths(entry, files) for entry in value]
    if not (isinstance(value, str) and value.startswith(CONFIG_DIR) and files):
        return value
    paths = [file.resolve().parent / value.removeprefix(CONFIG_DIR) for file in reversed(files)]
    path = next((path for path in paths if path.exists()), paths[0])
    folder = Path.cwd().resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _text_problems(value: object, key: str) -> Iterator[str]:
    """Return the texts that no file name, argument or document can contain."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _text_problems(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _text_problems(entry, f"{key}.{number}")
    elif isinstance(value, str) and re.search(r"[\x00\ud800-\udfff]", value):
        yield f"{key}: contains a character that no file can hold (NUL or a lone surrogate)."


# A number with a leading zero (octal) or colons (base 60).
_SURPRISING = re.compile(r"[-+]?(?:0[0-9_]+|[0-9_]+(?::[0-9]+)+)")


def _yaml_problems(files: Sequence[Path | str]) -> Iterator[str]:
    """Return problems with values that YAML reads differently: repeated keys, octal and base 60."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in map(Path, files):
        try:
            document = yaml.compose(file.read_text(encoding="utf-8-sig"), Loader=loader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # Snakemake or `load` has already read it
        for key, node in _yaml_nodes(document, "", set()):
            for place, problem in _node_problems(key, node):
                yield f"{file.name}, line {place.start_mark.line + 1}: {problem}"


def _yaml_nodes(node: Any, key: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield a node and the nodes in it, each once, with their keys."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    yield key, node
    if node.id == "sequence":
        for number, entry in enumerate(node.value):
            yield from _yaml_nodes(entry, f"{key}.{number}", seen)
    elif node.id == "mapping":
        for name, entry in node.value:
            path = f"{key}.{name.value}".removeprefix(".")
            yield from _yaml_nodes(name, path, seen)
            yield from _yaml_nodes(entry, path, seen)


def _node_problems(key: str, node: Any) -> Iterator[tuple[Any, str]]:
    """Yield the problems of one node, each with the node of its line."""
    import yaml

    if node.id == "scalar" and node.tag.endswith(":int") and _SURPRISING.fullmatch(node.value):
        yield (
            node,
            f"{key}: {node.value} is {yaml.safe_load(node.value)} in YAML. Write the number without"
            " leading zeros or colons, or put a text in quotes.",
        )
    elif node.id == "mapping":
        first: dict[str, Any] = {}
        for name in [name for name, _ in node.value if name.id == "scalar"]:
            before = first.setdefault(name.value, name)
            if before is not name:
                path = f"{key}.{name.value}".removeprefix(".")
                yield (
                    name,
                    f"{path}: this key is already in line {before.start_mark.line + 1}, whose value"
                    " YAML would drop. Write it once.",
                )


def from_environment() -> Config:
    """Return the config of the session that started this script.

    Raises:
        UserError: no session started the script.
    """
    text = os.environ.get(environment.CONFIG)
    if not text:
        raise UserError(f"{environment.CONFIG} is not set: this script is started by Snakemake.")
    return Config.model_validate_json(text)


def load(files: Sequence[Path]) -> Config:
    """Return the config of ``files``, merged in order over the shipped config.yaml.

    Keys of ``files`` precede the shipped keys, as in Snakemake. Tables list models and settings in
    this order.
    """
    overrides: dict[str, Any] = {}
    for path in files:
        _merge(overrides, _read(path))
    merged = copy.deepcopy(overrides)
    _merge(merged, _read(layout.CONFIG_FILE))
    _merge(merged, overrides)
    source = ", ".join(path.name for path in files) or layout.CONFIG_FILE.name
    return parse(merged, source, [layout.CONFIG_FILE, *files])


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: is not a config: it needs top-level keys, such as `results:`.")
    return document


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


# Parts of an error's path that pydantic adds, such as the alternative of a union.
_TAG = re.compile(r"\[\w+\]")
# Descriptions of allowed values, by pydantic's type of the error.
_ADVICE = {
    "dict_type": "must be a table, with keys and values below it",
    "model_type": "must be a table, with keys and values below it",
    "list_type": "must be a list, such as [a, b]",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
# Advice in place of the pattern that pydantic would quote, by the last part of the key.
_PATTERNS = {
    "memory": "Write a number and one of b, k, m, g, such as 16g",
    "network": "Write null, none, or the name of a Docker network",
    "revision": "Write a commit, a branch, pinned, or null",
}


def explain(error: pydantic.ValidationError) -> Iterator[str]:
    """Return pydantic's errors as messages, one line each."""
    for details in error.errors():
        is_key = "[key]" in details["loc"]
        path = [str(part) for part in details["loc"] if not _TAG.fullmatch(str(part))]
        if is_key and details["type"] != PROBLEM:
            key = ".".join(path[:-1])
            yield f"{key}: the key {details['input']!r} is not text. Put it in quotes."
            continue
        yield from _explain_value(".".join(path), path, details)


def _explain_value(key: str, path: list[str], details: Any) -> Iterator[str]:
    kind, message = details["type"], f"{details['msg'][0].lower()}{details['msg'][1:]}"
    shown = _shown(path, details["input"])
    if kind == PROBLEM:
        for problem in details["ctx"]["problems"]:
            yield f"{key}{problem}" if problem.startswith(".") else f"{key}: {problem}"
    elif kind == "extra_forbidden":
        allowed = _keys(path[:-1])
        table = ".".join(path[:-1]) or "the top level"
        yield (
            f"{key}: unknown key. Allowed in {table}: {listed(allowed, 30)}."
            f"{suggest(path[-1], allowed)}"
        )
    elif kind == "missing":
        yield f"{key}: is missing."
    elif details["input"] is None:
        yield f"{key}: is empty; {_ADVICE.get(kind, message)}."
    elif kind == "string_pattern_mismatch" and path[-1] in _PATTERNS:
        yield f"{key}: {shown} is not valid. {_PATTERNS[path[-1]]}."
    elif kind == "invalid_key":
        yield f"{'.'.join(path[:-1])}: the key {path[-1]} is not text. Put it in quotes."
    else:
        is_plain = kind == "string_type" and not isinstance(details["input"], dict | list)
        remedy = " Put it in quotes." if is_plain else ""
        yield f"{key}: {shown}: {_ADVICE.get(kind, message)}.{remedy}"


def _shown(path: Sequence[str], value: object) -> str:
    """Return a value for a message, without quoting a key or a value that may contain one."""
    if path and path[-1] == "api_key":
        return "a value that is not shown"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value) if isinstance(value, datetime.date) else repr(value)


# Keys whose values are tables of entries.
_TABLES: dict[str, type[BaseModel]] = {"models": Model, "providers": Provider}


def _keys(path: list[str]) -> list[str]:
    table: type[BaseModel] = Config
    for part in path:
        if table is Config and part in _TABLES:
            table = _TABLES[part]
            continue
        field = table.model_fields.get(part)
        table = (None if field is None else _table_in(field.annotation)) or table
    return list(table.model_fields)


def _table_in(kind: Any) -> type[BaseModel] | None:
    """Return the table type of a field, None without one."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    tables = (_table_in(part) for part in typing.get_args(kind) if not isinstance(part, str))
    return next((table for table in tables if table is not None), None)


def find_problems(config: Config) -> Iterator[str]:
    """Yield the inconsistencies between the tables of a config whose single fields are valid."""
    for name, model in config.models.items():
        if model is not None:
            yield from _model_problems(name, model, config)
    yield from _judge_problems(config)
    yield from _backend_problems(config)
    url = config.redis.url
    settings = _settings_that_talk_inside(config, (*INSIDE, OPENHANDS))
    if url is not None and url.startswith("unix://") and settings:
        yield (
            f"redis.url: {url!r} cannot be reached from containers, where the agents of "
            f"settings.{settings[0]} call it. Use a redis:// URL, or null for a private server."
        )
    yield from _openhands_problems(config)


def _model_problems(name: str, model: Model, config: Config) -> Iterator[str]:
    settings = [setting for setting, flags in config.settings.items() if flags]
    for setting in model.adopt:
        if setting not in settings:
            yield (
                f"models.{name}.adopt.{setting}: there is no such setting. Allowed:"
                f" {listed(settings)}.{suggest(setting, settings)}"
            )
    providers = [name for name, limits in config.providers.items() if limits is not None]
    if model.provider is not None and model.provider not in providers:
        yield (
            f"models.{name}.provider: {model.provider!r} is not an entry of providers. Allowed:"
            f" {listed(providers) or 'none'}.{suggest(model.provider, providers)}"
        )


def _judge_problems(config: Config) -> Iterator[str]:
    judge_model = config.judge.model
    if isinstance(judge_model, Model):
        for problem in _model_problems("judge", judge_model, config):
            yield problem.replace("models.judge.", "judge.model.", 1)
        if judge_model.adopt:
            yield "judge.model.adopt: a judge is called. Remove the key."
        return
    names = [name for name, model in config.models.items() if model is not None]
    if judge_model is not None and judge_model not in names:
        yield (
            f"judge.model: {judge_model!r} is not an entry of models. Allowed: {listed(names)}, or"
            f" a table with the keys of such an entry.{suggest(judge_model, names)}"
        )
    elif judge_model is not None and (model := config.models[judge_model]) and model.adopt:
        yield f"judge.model: {judge_model!r} is adopted and cannot be called. Name another entry."


# Keys that have no effect on Modal.
_IMAGES = ("build", "archive", "registry", "rolling")


def _backend_problems(config: Config) -> Iterator[str]:
    if config.backend == "gcp":
        yield (
            "backend: 'gcp' cannot work with this cooperbench. None of its agents runs on Google "
            "Cloud: mini_swe_agent_v2 and swe_agent would run on Modal, claude_code and codex on "
            "this machine's Docker. And it evaluates a single pair in an image of Google's "
            "tools, without the task's repository, so that every run would fail. Allowed: docker, "
            "modal."
        )
    elif config.backend == "modal":
        yield from _modal_problems(config)


def _modal_problems(config: Config) -> Iterator[str]:
    if config.containers != Containers():
        yield (
            "containers: limits and networks are Docker's; upstream's sandboxes on Modal have "
            "none. Remove the table, or use backend: docker."
        )
    for key in _IMAGES:
        if getattr(config.images, key) != Images.model_fields[key].default:
            yield (
                f"images.{key}: Modal fetches the tasks' images from Docker Hub by itself. Remove "
                "the key, or use backend: docker."
            )
    if config.limits.test_seconds != Limits.model_fields["test_seconds"].default:
        yield (
            "limits.test_seconds: on Modal an evaluation has upstream's limit of 600 s. Remove the "
            "key, or use backend: docker."
        )
    settings = _settings_that_talk_inside(config, INSIDE)
    if settings and not _is_reachable(config.redis.url):
        yield (
            f"settings.{settings[0]}: its agents send messages from inside their sandboxes, which "
            "cannot reach a Redis on this machine. Set redis.url to a server that the internet can "
            "reach (rediss://, with a password), or leave the setting out "
            f"(settings: {{{settings[0]}: null}})."
        )


def _settings_that_talk_inside(config: Config, agents: Collection[str]) -> list[str]:
    """Return the settings in which agents send messages from inside their containers.

    The agents of a team always do; others if they are among ``agents``.
    """
    is_inside = config.agent.name in agents

    def talks_inside(flags: list[str]) -> bool:
        return "team" in flags or (is_inside and "coop" in flags and "--no-messaging" not in flags)

    return [name for name, flags in config.settings.items() if flags and talks_inside(flags)]


def _is_reachable(url: str | None) -> bool:
    host = urlsplit(url).hostname if url else None
    return host is not None and host not in ("localhost", "::1") and not host.startswith("127.")


# Parts of the names of models that OpenHands calls by OpenAI's responses API, which the gateway
# does not serve; as in its SDK (llm/utils/model_features.py).
_RESPONSES = ("gpt-5", "codex-mini-latest")


def _openhands_problems(config: Config) -> Iterator[str]:
    models = {name: model for name, model in config.models.items() if model is not None}
    agents: dict[str, Agent] = {n: model.agent or config.agent for n, model in models.items()}
    names = [name for name, agent in agents.items() if agent.openhands]
    if names and len(names) == len(models) and config.containers.network is not None:
        yield (
            f"containers.network: {config.containers.network!r}: with {OPENHANDS} each run has a"
            " private network. Leave it null; agent.outside sets whether the run reaches more."
        )
    for name in names:
        if any(fragment in models[name].model.lower() for fragment in _RESPONSES):
            yield (
                f"models.{name}.model: {models[name].model!r}: OpenHands calls this model by"
                f" OpenAI's responses, which {OPENHANDS} does not serve. Allowed with it:"
                f" models called by chat completions (no {listed(_RESPONSES)})."
            )
    for name, agent in agents.items():
        if agent.outside and not agent.openhands:
            key = "agent" if models[name].agent is None else f"models.{name}.agent"
            yield (
                f"{key}.outside: true: only {OPENHANDS} supports it; other agents use"
                " containers.network."
            )
