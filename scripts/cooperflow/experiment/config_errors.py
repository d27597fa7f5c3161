"""What is wrong with a config, in the user's words: key, value, what is allowed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pydantic
from pydantic import BaseModel

from cooperflow import layout
from cooperflow.errors import listed, nearest
from cooperflow.experiment import backends
from cooperflow.experiment.config_schema import (
    DOCKER_AGENTS,
    INSIDE,
    MODES,
    OPENHANDS,
    Agent,
    Config,
    Model,
    Provider,
)
from cooperflow.upstream import command_line


def explain(error: pydantic.ValidationError) -> Iterator[str]:
    """Tell pydantic's findings in the user's words, one line each."""
    for finding in error.errors():
        path = [str(part) for part in finding["loc"]]
        key = ".".join(path)
        value = finding["input"]
        if finding["type"] == "extra_forbidden":
            allowed = _keys(path[:-1])
            where = ".".join(path[:-1]) or "the top level"
            yield (
                f"{key}: there is no such key. Allowed in {where}: {listed(allowed, 20)}."
                f"{nearest(path[-1], allowed)}"
            )
        elif finding["type"] == "missing":
            yield f"{key}: is missing."
        elif value is None:
            yield f"{key}: is empty; {finding['msg'][0].lower()}{finding['msg'][1:]}."
        else:
            yield f"{key}: {value!r}: {finding['msg'][0].lower()}{finding['msg'][1:]}."


# Keys whose entries are tables of their own.
_TABLES: dict[str, type[BaseModel]] = {"models": Model, "providers": Provider}


def _keys(path: list[str]) -> list[str]:
    table: type[BaseModel] = Config
    for part in path:
        if table is Config and part in _TABLES:
            table = _TABLES[part]
            continue
        field = table.model_fields.get(part)
        kind = None if field is None else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            table = kind
    return list(table.model_fields)


def problems(config: Config) -> Iterator[str]:
    """Tell what is of the right type but cannot work."""
    for table, names in (("models", config.models), ("settings", config.settings)):
        for name, entry in names.items():
            if not layout.NAME.fullmatch(name):
                yield (
                    f"{table}.{name}: {name!r} cannot be a folder name. Allowed: up to 64 letters,"
                    " digits, dots, dashes and underscores, first a letter or digit."
                )
            elif entry is not None and not entry:
                yield f"{table}.{name}: has no upstream flags. Write for example [--setting, solo]."
        if not any(entry is not None for entry in names.values()):
            yield f"{table}: has no entry; at least one is needed."
    for name, flags in config.settings.items():
        if flags:
            yield from _setting_problems(name, flags)
    for name, model in config.models.items():
        if model is not None:
            yield from _model_problems(name, model, config)
    yield from _provider_problems(config)
    yield from _agent_problems(config.agent)
    yield from backends.problems(config)
    for name, model in config.models.items():
        if model is not None and model.agent is not None:
            yield from _agent_problems(model.agent, f"models.{name}.agent")
    if config.dataset.first is not None and config.dataset.sample is not None:
        yield "dataset.first, dataset.sample: only one of them can choose. Take the other out."
    if config.redis.url is not None and not re.match(r"(redis|rediss|unix)://", config.redis.url):
        yield f"redis.url: {config.redis.url!r} is no URL. Allowed: redis://, rediss://, unix://."
    if (config.redis.url or "").startswith("unix://") and (
        inside := backends.from_inside(config, (*INSIDE, OPENHANDS))
    ):
        yield (
            f"redis.url: {config.redis.url!r} cannot be reached from containers, from where the "
            f"agents of settings.{inside[0]} call it. Use a redis:// URL, or null for a private "
            "server."
        )
    if config.images.registry is not None and not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?(/[a-z0-9._/-]+)?", config.images.registry
    ):
        yield (
            f"images.registry: {config.images.registry!r} is no registry. Write its host, with a "
            "port or a path if need be, such as mirror.example.org:5000; no https://."
        )
    yield from _openhands_problems(config)
    if config.containers.network == "host":
        yield (
            "containers.network: 'host' would let what a model says reach this machine's own"
            " services. Allowed: null, none, or the name of a Docker network."
        )
    if config.images.archive is not None and not config.images.archive.strip():
        yield "images.archive: is empty. Write the folder of the tars, or null."
    if config.notify and not config.notify[0].strip():
        yield "notify: the first word is empty. Write a command and its arguments as a list."
    if not config.results.strip():
        yield "results: is empty. Write the folder that everything is written to."
    if set(config.results) == {"/"}:
        yield "results: '/' is the whole machine. Write a folder of its own."
    if re.search(r"[{}]", config.results):
        yield f"results: {config.results!r}: braces are Snakemake's own in a path. Leave them out."


# Flags of upstream's that the workflow gives; what has one letter there is one of them.
_OURS = (
    *("--name", "--subset", "--repo", "--task", "--features", "--model", "--agent"),
    *("--concurrency", "--redis", "--force", "--no-auto-eval", "--eval-concurrency", "--backend"),
    *("--agent-config", "--dataset-dir", "--log-dir", "--base-url", "--auth-token"),
)
# Flags of the three settings that most experiments have.
_COMMON = ("--setting", "--no-messaging")


def _setting_problems(name: str, flags: list[str]) -> Iterator[str]:
    at = flags.index("--setting") + 1 if "--setting" in flags else len(flags)
    mode = flags[at] if at < len(flags) else None
    if mode not in MODES:
        shown = "nothing" if mode is None else repr(mode)
        yield (
            f"settings.{name}: --setting is followed by {shown}. Allowed: {listed(MODES)}."
            f"{nearest(mode, MODES) if mode else ''}"
        )
    if flags.count("--setting") > 1:
        yield f"settings.{name}: --setting stands there more than once. Write one."
    # Every start would read upstream's source for flags that all know.
    known = command_line.run_flags() if set(flags) - {*_COMMON, *MODES} else frozenset()
    for flag in flags:
        word, _, value = flag.partition("=")
        # Upstream takes every beginning of a flag for the flag.
        meant = [own for own in _OURS if word == own or (len(word) > 2 and own.startswith(word))]
        if meant or re.match(r"-[A-Za-z]", flag):
            full = f" ({meant[0]})" if meant and meant[0] != word else ""
            yield f"settings.{name}: {flag}{full} is set by the workflow itself; leave it out."
        elif value or (word != "--setting" and len(word) > 2 and "--setting".startswith(word)):
            yield f"settings.{name}: {flag}: write flags in full, and a value behind its flag."
        elif word.startswith("--") and word not in _COMMON and word not in (known or {word}):
            free = sorted(known - set(_OURS))
            yield (
                f"settings.{name}: {flag}: upstream's `cooperbench run` has no such flag. Allowed:"
                f" {listed(free)}.{nearest(word, free)}"
            )


def _model_problems(name: str, model: Model, config: Config) -> Iterator[str]:
    if model.adopt and model.replay is not None:
        yield f"models.{name}: adopt and replay exclude each other. Take one out."
    settings = [setting for setting, flags in config.settings.items() if flags]
    for setting in model.adopt:
        if setting not in settings:
            yield (
                f"models.{name}.adopt.{setting}: there is no such setting. Allowed:"
                f" {listed(settings)}.{nearest(setting, settings)}"
            )
    for setting, folders in model.adopt.items():
        listed_folders = [folders] if isinstance(folders, str) else folders
        if not listed_folders:
            yield (
                f"models.{name}.adopt.{setting}: names no folder. Write LOG_DIR/RUN_NAME, or a list"
                " of such folders, one per repeat."
            )
        for folder in dict.fromkeys(f for f in listed_folders if listed_folders.count(f) > 1):
            yield (
                f"models.{name}.adopt.{setting}: names {folder} twice. Repeats are different runs:"
                " name each folder once."
            )
    if model.api_base is not None and not re.match(r"https?://[^/\s]+", model.api_base):
        yield f"models.{name}.api_base: {model.api_base!r} is no http(s) URL."
    if model.api_key is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", model.api_key):
        yield (
            f"models.{name}.api_key: is no name of an environment variable. Write the variable's"
            " name (such as COHERE_API_KEY), never the key itself."
        )
    if not model.model.strip():
        yield f"models.{name}.model: is empty. Write litellm's name of the model."


def _provider_problems(config: Config) -> Iterator[str]:
    for name in config.providers:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            yield (
                f"providers.{name}: cannot be the name of a Snakemake resource. Allowed: letters,"
                " digits and underscores, first a letter."
            )
    known = [name for name, limits in config.providers.items() if limits is not None]
    for name, model in config.models.items():
        if model is not None and model.provider is not None and model.provider not in known:
            yield (
                f"models.{name}.provider: {model.provider!r} is no entry of providers. There:"
                f" {listed(known) or 'none'}.{nearest(model.provider, known)}"
            )


def _agent_problems(agent: Agent, where: str = "agent") -> Iterator[str]:
    if agent.name == "openhands_sdk":
        yield (
            f"{where}.name: 'openhands_sdk' runs on Modal only and cannot run on docker:"
            f" {OPENHANDS!r} is the same agent in containers of this machine. Allowed:"
            f" {listed(DOCKER_AGENTS)}."
        )
    elif agent.name not in DOCKER_AGENTS and not agent.external:
        yield (
            f"{where}.name: {agent.name!r} is not known. Allowed: {listed(DOCKER_AGENTS)}, or one"
            f" that a module in {where}.external brings.{nearest(agent.name, DOCKER_AGENTS)}"
        )
    parts = {"config": agent.config, **{f"config.{k}": v for k, v in agent.config.items()}}
    model = agent.config.get("model")
    if isinstance(model, dict):
        parts["config.model.model_kwargs"] = model.get("model_kwargs")
    for key, value in parts.items():
        if value is not None and not isinstance(value, dict):
            yield f"{where}.{key}: {value!r} is no table. Write keys and values below it."
            return
    kwargs = (agent.config.get("model") or {}).get("model_kwargs") or {}
    if "api_key" in kwargs:
        yield (
            f"{where}.config.model.model_kwargs.api_key: a key does not belong in a file. Put it in"
            " an environment variable and name that as models.NAME.api_key."
        )
    unknown = [key for key in agent.config if key not in ("agent", "model", "environment")]
    for key in unknown:
        yield (
            f"{where}.config.{key}: there is no such part. Allowed: agent, model, environment."
            f"{nearest(key, ('agent', 'model', 'environment'))}"
        )


# Models that OpenHands calls by OpenAI's responses, which the gateway does not serve; as its SDK
# has them (llm/utils/model_features.py), anywhere in a model's name.
_RESPONSES = ("gpt-5", "codex-mini-latest")


def _openhands_problems(config: Config) -> Iterator[str]:
    models = {name: model for name, model in config.models.items() if model is not None}
    agents = {name: model.agent or config.agent for name, model in models.items()}
    ours = [name for name, agent in agents.items() if agent.openhands]
    if ours and len(ours) == len(models) and config.containers.network is not None:
        yield (
            f"containers.network: {config.containers.network!r}: with {OPENHANDS} each run has a"
            " network of its own. Leave it null; agent.outside says whether it reaches more."
        )
    for name in ours:
        if any(word in models[name].model.lower() for word in _RESPONSES):
            yield (
                f"models.{name}.model: {models[name].model!r}: OpenHands calls this model by"
                f" OpenAI's responses, which {OPENHANDS} does not serve. Allowed with it:"
                f" models called by chat completions (no {listed(_RESPONSES)})."
            )
    for name, agent in agents.items():
        if agent.outside and not agent.openhands:
            where = "agent" if models[name].agent is None else f"models.{name}.agent"
            yield (
                f"{where}.outside: true: only {OPENHANDS} has it; other agents have"
                " containers.network."
            )
