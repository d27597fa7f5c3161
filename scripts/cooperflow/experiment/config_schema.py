"""The keys of the config: their types, their defaults, what each is for."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from cooperflow.upstream import public_run

# Agents of cooperbench that run on docker; external ones are named in `agent.external`.
OPENHANDS = "openhands_docker"  # upstream's OpenHands, in containers of this machine; ours
DOCKER_AGENTS = ("mini_swe_agent_v2", "swe_agent", "claude_code", "codex", OPENHANDS)
# Those whose calls are all recorded: they make them in cooperbench's process or by our gateway.
RECORDED = ("mini_swe_agent_v2", OPENHANDS)
# Agents of cooperbench whose messages are sent from inside their containers.
INSIDE = ("claude_code", "codex")
# Those whose containers are started by the docker command, all of them.
BY_COMMAND = ("mini_swe_agent_v2", "claude_code", "codex")
MODES = ("solo", "coop", "team")
# An agent's container ends by itself after two hours (upstream's `sleep 2h`).
LONGEST_RUN = 7000


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: pydantic.ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {kind, *typing.get_args(kind)}:
            raise PydanticCustomError("number", "Input should be a number")
        return value


class Sample(_Table):
    """A choice of pairs by a seed: the same everywhere; a larger n keeps those of a smaller."""

    n: int = Field(gt=0, description="how many pairs")
    seed: int = Field(0, description="another seed, other pairs")


class Dataset(_Table):
    """Where the benchmark's data set lies and which pairs of it are run."""

    dir: str = Field("dataset", description="CooperBench's data set")
    subset: str = Field("lite", description="a data set's subset, a shipped table, or a path")
    revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="commit of the data set on the hub; null: the one that `lock` pins, else the"
        " newest when it is fetched",
    )
    lock: str = Field(
        "config/dataset.lock.json",
        description="the revision that was fetched first, with the hash of each task",
    )
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


class Agent(_Table):
    """The agent framework and what is laid over upstream's config of it."""

    name: str = "mini_swe_agent_v2"
    config: dict[str, Any] = Field(default_factory=dict)
    external: list[str] = Field(
        default_factory=list, description="modules with agents (COOPERBENCH_EXTERNAL_AGENTS)"
    )
    outside: bool = Field(
        False,
        description="openhands_docker: whether a run reaches more than its own services",
    )

    @property
    def openhands(self) -> bool:
        """Whether it is OpenHands, which works in images with an agent server."""
        return self.name == OPENHANDS


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
    adopt: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="setting -> the folder LOG_DIR/NAME of a finished `cooperbench run`, or a list"
        " of folders, one per repeat; such a model is never run here",
    )
    provider: str | None = Field(
        None, description="an entry of `providers`, whose limits it keeps together with others"
    )
    return_tool_plan: bool = Field(
        False,
        description="Cohere only: send the model's tool_plan back with its tool calls, as Cohere's"
        " API expects; false: it is dropped, as upstream does",
    )
    agent: Agent | None = Field(
        None, description="another agent for this entry, instead of the one at the top level"
    )


class Provider(_Table):
    """What an account at a provider bears; all models that name it share it."""

    runs: int | None = Field(None, gt=0, description="runs at a time; null: run_slots alone")
    requests_per_minute: float | None = Field(
        None, gt=0, description="model calls of all runs, evenly spaced; null: no limit"
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
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="no run starts once the cost so far, the bound of open calls and the expected"
        " cost of running runs exceed it, USD; running runs finish; null: no budget",
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
    notify_minutes: float = Field(
        10, ge=0, description="how long runs wait before `notify` is called, minutes"
    )


class Containers(_Table):
    """What the containers of agents and tests may take of the machine."""

    memory: str | None = Field(
        "16g", pattern=r"^[1-9]\d*[bkmg]$", description="without swap; null: no limit"
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
    """Assumed usage of an agent for the estimate; the default is a published run."""

    calls: float | None = Field(
        None,
        gt=0,
        description="model calls of one agent; null: 10.4 solo, 10.7 with messages, 8.7 without",
    )
    input_tokens: int = Field(public_run.INPUT_TOKENS, gt=0, description="input tokens of one call")
    output_tokens: int = Field(
        public_run.OUTPUT_TOKENS, gt=0, description="output tokens of one call"
    )
    run_seconds: int = Field(300, gt=0, description="duration of a run, seconds")


class Config(_Table):
    """All keys of config/config.yaml."""

    @property
    def docker(self) -> bool:
        """Whether agents and tests run in Docker's containers, here or on a cluster's nodes."""
        return self.backend == "docker"

    results: str = Field("results", description="root of everything written")
    dataset: Dataset = Dataset()
    models: dict[str, Model | None]
    providers: dict[str, Provider | None] = Field(
        default_factory=dict, description="name -> limits that its models share"
    )
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
    backend: Literal["docker", "modal", "gcp"] = Field(
        "docker", description="where agents and tests run; gcp is upstream's word, and cannot work"
    )
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

    notify: list[str] = Field(
        default_factory=list,
        description="command and arguments, called when a session ends, halts, waits long or"
        " reaches its budget, with a JSON document on stdin; empty: none",
    )

    accept: Annotated[
        list[str], Field(description="run names whose changed fingerprint is accepted")
    ] = []
