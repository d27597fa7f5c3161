"""The experiment's config: its keys, their defaults, and errors in the user's words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from cooperflow import layout
from cooperflow.errors import UserError, listed, nearest

# The config of the running workflow reaches its scripts in this variable, as JSON.
ENVIRONMENT = "COOPERFLOW_CONFIG"

# Agents of cooperbench that run on docker; external ones are named in `agent.external`.
DOCKER_AGENTS = ("mini_swe_agent_v2", "swe_agent", "claude_code", "codex")
MODES = ("solo", "coop", "team")
# An agent's container ends by itself after two hours (upstream's `sleep 2h`).
LONGEST_RUN = 7000


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sample(_Table):
    """A choice of pairs by a seed: the same everywhere; a larger n keeps those of a smaller."""

    n: int = Field(gt=0, description="how many pairs")
    seed: int = Field(0, description="another seed, other pairs")


class Dataset(_Table):
    """Where the benchmark's data set lies and which pairs of it are run."""

    dir: str = Field("dataset", description="CooperBench's data set")
    subset: str = Field("lite", description="a data set's subset, a shipped table, or a path")
    languages: dict[str, str] = Field(
        default_factory=dict, description="repo -> its language, for repos of your own"
    )
    repos: list[str] = Field(default_factory=list, description="only these repos; empty: all")
    tasks: list[int | str] = Field(
        default_factory=list, description="only these tasks: a number, or repo/number; empty: all"
    )
    pairs: list[str] = Field(
        default_factory=list, description="only these pairs: repo/number/a,b; empty: all"
    )
    first: int | None = Field(None, gt=0, description="only the first so many pairs")
    sample: Sample | None = Field(None, description="only so many pairs, chosen by a seed")


class Model(_Table):
    """A model as litellm calls it."""

    model: str = Field(description="litellm's name of the model")
    api_base: str | None = Field(None, description="full URL; null: the provider's own")
    api_key: str | None = Field(
        None, description="name of the environment variable that holds the key; null: none needed"
    )
    replay: str | None = Field(
        None, description="a folder of recordings: a local server plays them in the model's place"
    )


class Agent(_Table):
    """The agent framework and what is laid over upstream's config of it."""

    name: str = "mini_swe_agent_v2"
    config: dict[str, Any] = Field(default_factory=dict)
    external: list[str] = Field(
        default_factory=list, description="modules with agents (COOPERBENCH_EXTERNAL_AGENTS)"
    )


class Limits(_Table):
    """Time limits and tries."""

    run_seconds: int = Field(600, gt=0, le=LONGEST_RUN, description="for one attempt, seconds")
    eval_seconds: int = Field(1800, gt=0, description="for one grading, seconds")
    test_seconds: int = Field(
        600, gt=0, le=600, description="for one run of a feature's tests, seconds; upstream's: 600"
    )
    call_seconds: int = Field(300, gt=0, description="for one model call, seconds")
    call_tries: int = Field(10, gt=0, description="how often upstream tries one model call")
    pause_seconds: float = Field(
        30, ge=0, description="before attempt 2, twice that before 3, give or take half, seconds"
    )


class Redis(_Table):
    """The message store of agents that talk."""

    url: str | None = Field(None, description="null: a private one per run")


class Breaker(_Table):
    """When a start waits instead of throwing further runs after failed ones."""

    failures: int = Field(
        3, ge=0, description="so many runs in a row broken by infrastructure; 0: never wait"
    )
    pause_seconds: float = Field(
        30, ge=0, description="before one run looks whether it is over, doubled each time, seconds"
    )


class Containers(_Table):
    """What the containers of agents and tests may take of the machine."""

    memory: str | None = Field(
        "16g", pattern=r"^\d+[bkmg]$", description="without swap; null: no limit"
    )
    cpus: float | None = Field(
        None, gt=0, description="processors; null: no limit (they are shared by weight)"
    )
    pids: int | None = Field(4096, gt=0, description="processes and threads; null: no limit")
    network: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="none, or a Docker network's name; null: Docker's own bridge, as upstream",
    )


class Images(_Table):
    """How the tasks' images come to be on this machine."""

    pull: bool = Field(True, description="pull an image that is not there")
    build: bool = Field(False, description="build it where the data set brings a Dockerfile")
    archive: str | None = Field(
        None, description="a folder with one {image}.tar each, to load from and to write to"
    )
    free_gb: float = Field(
        20, ge=0, description="room Docker's storage must keep beside the images, GB"
    )
    registry: str | None = Field(
        None, description="pull from this registry (host, host:port); null: Docker Hub"
    )
    lock: str = Field("config/images.lock.csv", description="which content each image name has")
    moved: Literal["error", "pinned", "accept"] = Field(
        "error", description="when a tag is not what the lock pins: stop, keep the pinned, pin anew"
    )
    tries: int = Field(5, gt=0, description="how often a pull that breaks off is tried")
    pause_seconds: float = Field(5, ge=0, description="before the second try; it doubles, seconds")
    unpacked: float = Field(
        3.0,
        ge=1,
        description="bytes on disk for each byte of a packed layer, as far as one can say",
    )
    rolling: bool = Field(
        False, description="fetch a task's image when there is room, remove it after its last use"
    )


class Oracle(_Table):
    """The grading of the gold patches."""

    repeats: int = Field(
        1, ge=1, le=50, description="how often each is graded; 2 or more show flaky tests"
    )


class Assumptions(_Table):
    """What an agent is taken to use while no run is done; only for the estimate."""

    calls: int = Field(40, gt=0, description="model calls of one agent")
    input_tokens: int = Field(15_000, gt=0, description="tokens in of one call")
    output_tokens: int = Field(250, gt=0, description="tokens out of one call")
    run_seconds: int = Field(300, gt=0, description="duration of a run, seconds")


class Config(_Table):
    """All keys of config/config.yaml."""

    results: str = Field("results", description="root of everything written")
    dataset: Dataset = Dataset()
    models: dict[str, Model | None]
    agent: Agent = Agent()
    settings: dict[str, list[str] | None]
    repeats: int = Field(1, ge=1, le=99, description="how often each pair is run per setting")
    limits: Limits = Limits()
    redis: Redis = Redis()
    images: Images = Images()
    oracle: Oracle = Oracle()
    containers: Containers = Containers()
    breaker: Breaker = Breaker()
    assume: Assumptions = Assumptions()
    backend: Literal["docker"] = "docker"
    preflight: Literal["full", "light"] = Field(
        "full",
        description="before paid runs, full: try the model with a call of one token, a container,"
        " a Redis; light: only look whether all is there",
    )
    launcher: Literal["warm", "off"] = Field(
        "warm", description="warm: cooperbench is imported once per start; off: by each job"
    )

    @pydantic.field_validator("launcher", mode="before")
    @classmethod
    def _words_that_yaml_takes_for_truth(cls, value: object) -> object:
        return {False: "off", True: "warm"}.get(value, value) if isinstance(value, bool) else value

    accept: Annotated[
        list[str], Field(description="run names whose changed fingerprint is accepted")
    ] = []


def parse(raw: Mapping[str, Any], source: str = "config") -> Config:
    """Check ``raw`` and return the config.

    Raises:
        UserError: naming the key, the value, what is allowed and the nearest name.
    """
    try:
        config = Config.model_validate(dict(raw))
    except pydantic.ValidationError as error:
        raise UserError("\n".join(f"{source}: {line}" for line in _explain(error))) from None
    problems = list(_problems(config))
    if problems:
        raise UserError("\n".join(f"{source}: {line}" for line in problems))
    return config


def from_environment() -> Config:
    """Return the config of the workflow that started this script.

    Raises:
        UserError: the script was not started by the workflow.
    """
    text = os.environ.get(ENVIRONMENT)
    if not text:
        raise UserError(f"{ENVIRONMENT} is not set: this script is started by Snakemake.")
    return Config.model_validate_json(text)


def load(files: list[Path]) -> Config:
    """Return the config of ``files``, each laid over the one before, config.yaml first."""
    import yaml

    merged: dict[str, Any] = {}
    for path in [layout.CONFIG_FILE, *files]:
        try:
            _lay_over(merged, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read ({error}).") from error
    return parse(merged, ", ".join(path.name for path in files) or layout.CONFIG_FILE.name)


def _lay_over(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _lay_over(base[key], value)
        else:
            base[key] = value


def _explain(error: pydantic.ValidationError) -> Iterator[str]:
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


def _keys(path: list[str]) -> list[str]:
    table: type[BaseModel] = Config
    for part in path:
        if table is Config and part in ("models",):
            table = Model
            continue
        field = table.model_fields.get(part)
        kind = None if field is None else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            table = kind
    return list(table.model_fields)


def _problems(config: Config) -> Iterator[str]:
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
            yield from _model_problems(name, model)
    yield from _agent_problems(config.agent)
    if config.dataset.first is not None and config.dataset.sample is not None:
        yield "dataset.first, dataset.sample: only one of them can choose. Take the other out."
    if config.redis.url is not None and not re.match(r"(redis|rediss|unix)://", config.redis.url):
        yield f"redis.url: {config.redis.url!r} is no URL. Allowed: redis://, rediss://, unix://."
    if config.images.registry is not None and not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?(/[a-z0-9._/-]+)?", config.images.registry
    ):
        yield (
            f"images.registry: {config.images.registry!r} is no registry. Write its host, with a "
            "port or a path if need be, such as mirror.example.org:5000; no https://."
        )
    if config.containers.network == "host":
        yield (
            "containers.network: 'host' would let what a model says reach this machine's own"
            " services. Allowed: null, none, or the name of a Docker network."
        )
    if not config.results.strip():
        yield "results: is empty. Write the folder that everything is written to."


def _setting_problems(name: str, flags: list[str]) -> Iterator[str]:
    at = flags.index("--setting") + 1 if "--setting" in flags else len(flags)
    mode = flags[at] if at < len(flags) else None
    if mode not in MODES:
        shown = "nothing" if mode is None else repr(mode)
        yield (
            f"settings.{name}: --setting is followed by {shown}. Allowed: {listed(MODES)}."
            f"{nearest(mode, MODES) if mode else ''}"
        )
    ours = {"-n", "--name", "-m", "--model", "-r", "--repo", "-t", "--task", "-f", "--features"}
    for flag in flags:
        if flag in ours or flag in ("--redis", "--log-dir", "--dataset-dir", "-a", "--agent"):
            yield f"settings.{name}: {flag} is set by the workflow itself; leave it out."


def _model_problems(name: str, model: Model) -> Iterator[str]:
    if model.api_base is not None and not re.match(r"https?://[^/\s]+", model.api_base):
        yield f"models.{name}.api_base: {model.api_base!r} is no http(s) URL."
    if model.api_key is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", model.api_key):
        yield (
            f"models.{name}.api_key: is no name of an environment variable. Write the variable's"
            " name (such as COHERE_API_KEY), never the key itself."
        )
    if not model.model.strip():
        yield f"models.{name}.model: is empty. Write litellm's name of the model."


def _agent_problems(agent: Agent) -> Iterator[str]:
    if agent.name == "openhands_sdk":
        yield (
            "agent.name: 'openhands_sdk' runs on Modal only and cannot run on docker. Allowed:"
            f" {listed(DOCKER_AGENTS)}."
        )
    elif agent.name not in DOCKER_AGENTS and not agent.external:
        yield (
            f"agent.name: {agent.name!r} is not known. Allowed: {listed(DOCKER_AGENTS)}, or one"
            f" that a module in agent.external brings.{nearest(agent.name, DOCKER_AGENTS)}"
        )
    kwargs = (agent.config.get("model") or {}).get("model_kwargs") or {}
    if "api_key" in kwargs:
        yield (
            "agent.config.model.model_kwargs.api_key: a key does not belong in a file. Put it in an"
            " environment variable and name that as models.NAME.api_key."
        )
    unknown = [key for key in agent.config if key not in ("agent", "model", "environment")]
    for key in unknown:
        yield (
            f"agent.config.{key}: there is no such part. Allowed: agent, model, environment."
            f"{nearest(key, ('agent', 'model', 'environment'))}"
        )
