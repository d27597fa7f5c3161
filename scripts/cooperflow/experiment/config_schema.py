"""Keys of the config: types, defaults, descriptions, and validation of single fields.

`make schema` generates the table in config/README.md and config/schema.json from the descriptions,
which are Markdown. Checks across tables are in config.py.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import parse_qsl, urlsplit

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from cooperflow import layout
from cooperflow.errors import listed, suggest
from cooperflow.upstream import published, releases

# Agents of cooperbench that run on docker; external agents are named in `agent.external`.
OPENHANDS = "openhands_docker"  # added by the workflow: upstream's OpenHands in local containers
DOCKER_AGENTS = ("mini_swe_agent_v2", "swe_agent", "claude_code", "codex", OPENHANDS)
# Agents that make all calls in cooperbench's process or through the gateway, which record them.
RECORDED = ("mini_swe_agent_v2", OPENHANDS)
# Agents of cooperbench that call the model from inside their containers, without a record.
UNRECORDED = ("claude_code", "codex")
# Agents of cooperbench that send messages from inside their containers.
INSIDE = ("claude_code", "codex")
# Agents that start all their containers by the docker command.
BY_COMMAND = ("mini_swe_agent_v2", "claude_code", "codex")
MODES = ("solo", "coop", "team")
# Value of `dataset.revision`: the commit in the lock, or else in config/dataset.known.json.
PINNED = "pinned"
# Longest name of a file, bytes, with room for a suffix.
LONGEST_NAME = 200
# The longest time limit or pause, seconds: a week.
LONGEST = 604_800
# An agent's container ends after two hours (upstream's `sleep 2h`).
LONGEST_RUN = 7000

# Upstream's long flags that the workflow sets; it also sets all one-letter flags.
RESERVED_FLAGS = (
    *("--name", "--subset", "--repo", "--task", "--features", "--model", "--agent"),
    *("--concurrency", "--redis", "--force", "--no-auto-eval", "--eval-concurrency", "--backend"),
    *("--agent-config", "--dataset-dir", "--log-dir", "--base-url", "--auth-token"),
)
# Flags of the three settings that most experiments have.
_COMMON_FLAGS = ("--setting", "--no-messaging")
# Parts of an agent's config.
_AGENT_PARTS = ("agent", "model", "environment")

# Parameters of a model call that the agent or the workflow sets, and litellm's parameters that
# would answer without the model, call another model, or make calls that are not recorded.
_RESERVED_KWARGS = {
    **dict.fromkeys(("model", "messages", "tools"), "is set by the agent"),
    **dict.fromkeys(("stream", "n"), "the agents read one whole answer per call"),
    **dict.fromkeys(
        ("num_retries", "max_retries", "retry_policy"),
        "such tries are recorded as one call; use limits.call_tries",
    ),
    **dict.fromkeys(
        ("fallbacks", "context_window_fallback_dict", "model_list"),
        "another model would answer; write an entry of models for it",
    ),
    **dict.fromkeys(
        ("mock_response", "mock_tool_calls", "mock_timeout", "caching"),
        "no model would answer; use models.NAME.replay for recorded answers",
    ),
}
# Values of these parameters that have no effect.
_NEUTRAL = {"stream": (False,), "n": (1,), "num_retries": (0,), "max_retries": (0,)}
# Names of parameters and headers that contain a secret.
_SECRET_NAME = re.compile(
    r"(?:.*[_-])?(?:api[_-]?key|subscription[_-]key|secret|(?:secret|private)[_-](?:access[_-])?key"
    r"|(?:session|ad|access|auth|bearer|refresh|security)[_-]?token|password|authorization"
    r"|credentials)|token|x-.*token",
    re.IGNORECASE,
)
# Number of consecutive letters and digits from which a word counts as a key.
_KEY_LENGTH = 20

# Type of the errors whose context contains complete messages.
PROBLEM = "config_problem"


def refuse(*problems: str) -> NoReturn:
    """Reject a value. A problem that starts with a dot extends the key, such as `.name: ...`."""
    raise PydanticCustomError(PROBLEM, "is refused", {"problems": list(problems)})


def _refuse_any(problems: Iterator[str]) -> None:
    if texts := list(problems):
        refuse(*texts)


def _is_key(text: str) -> bool:
    """Return whether a text looks like a provider's key rather than like a name."""
    runs = re.findall(rf"[A-Za-z0-9]{{{_KEY_LENGTH},}}", text)
    return any(re.search(r"\d", run) and re.search(r"[a-z]", run) for run in runs)


def _check_path(path: str) -> str:
    """Check a path that the workflow creates or reads."""
    if not path.strip():
        refuse("is empty. Write a path.")
    if re.search(r"[\x00-\x1f\x7f]", path):
        refuse(f"{path!r} contains a control character. Remove it.")
    _check_length(path)
    if path.startswith("~"):
        refuse(f"{path!r}: `~` is not expanded. Write the full path.")
    return path


def _check_length(path: str) -> str:
    if any(len(part.encode(errors="replace")) > LONGEST_NAME for part in path.split("/")):
        refuse(f"{path[:40]!r}... has a name of more than {LONGEST_NAME} bytes. Shorten it.")
    return path


_Path = Annotated[str, AfterValidator(_check_path)]


def _check_url(url: str) -> str:
    """Check the address of a model. The messages do not repeat a secret in it."""
    if not re.match(r"https?://[^/\s]+", url):
        refuse(f"{url!r} is not an http(s) URL.")
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_valid = False
    if "@" in url.split("/")[2]:
        refuse(
            "contains a user name or a password. Set an environment variable to the secret, and"
            " name it in models.NAME.api_key."
        )
    if not is_valid or re.search(r"[\x00-\x20\x7f]", url):
        refuse(f"{url!r} is not an http(s) URL: its host or port is wrong, or it has a space.")
    for name, value in parse_qsl(parts.query):
        if value and (_SECRET_NAME.fullmatch(name) or name in ("key", "sig")):
            refuse(
                f"contains a key ({name}=...). Set an environment variable to the key, and name it"
                " in models.NAME.api_key."
            )
    return url


def _number_or_text(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "[number]" if is_number else "[text]"


def _text_or_table(value: object) -> str:
    return "[table]" if isinstance(value, dict | BaseModel) else "[text]"


def _text_or_list(value: object) -> str:
    return "[list]" if isinstance(value, list) else "[text]"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: object, info: pydantic.ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {kind, *typing.get_args(kind)}:
            raise PydanticCustomError("number", "Input should be a number")
        return value


class Sample(_Table):
    """A random sample of pairs."""

    n: int = Field(gt=0, description="number of pairs in the sample")
    seed: int = Field(0, description="seed of the choice")


class Dataset(_Table):
    """The benchmark's data set, and the selection of pairs."""

    dir: _Path = Field("dataset", description="folder of CooperBench's data set")
    subset: Annotated[str, AfterValidator(_check_length)] = Field(
        "lite",
        description="a shipped table (`lite`: 100 pairs of 26 tasks, `flash`: 50 of 20, `spark`:"
        " 20 of 13, `flash_10` and `core`: 10 of 10, `full`: 652 of 30), the name of a file in"
        " `{dir}/subsets/`, or a path to a `.json` (upstream's format) or `.csv` file"
        " (`repo,task_id,feature_a,feature_b`)",
    )
    revision: str | None = Field(
        PINNED,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="the data set's commit or branch that `make dataset` fetches from the hub."
        " `pinned`: the commit in `dataset.lock`, or without a lock the commit in"
        " `config/dataset.known.json`, b612b1a35af722751454813d9e5a7888f065fc9e; `main`: the"
        " newest commit; `null`: the commit in `dataset.lock`, or without a lock the newest",
    )
    lock: _Path = Field(
        "config/dataset.lock.json",
        description="file with the fetched revision and the hash of each task, written by the"
        " first fetch. Commit it so that everyone gets the same benchmark",
    )
    languages: dict[str, str] = Field(
        default_factory=dict,
        description="languages of additional repos (`repo: language`) for the table by language",
    )
    repos: list[str] = Field(default_factory=list, description="only these repos; empty: all")
    tasks: list[
        Annotated[
            Annotated[int, Tag("[number]")] | Annotated[str, Tag("[text]")],
            Discriminator(_number_or_text),
        ]
    ] = Field(
        default_factory=list,
        description="only these tasks: a number, or `repo/number`; empty: all",
    )
    pairs: list[str] = Field(
        default_factory=list, description="only these pairs: `repo/number/a,b`; empty: all"
    )
    first: int | None = Field(
        None, gt=0, description="only the first N of the remaining pairs; `null`: all of them"
    )
    sample: Sample | None = Field(
        None,
        description="`{n: 10, seed: 1}`: a random sample of the remaining pairs. It is the same on"
        " every machine, and a larger n keeps the pairs of a smaller n",
    )

    @pydantic.model_validator(mode="after")
    def _check_choice(self) -> Dataset:
        if self.first is not None and self.sample is not None:
            refuse("first and sample exclude each other. Remove first or sample.")
        return self


class Agent(_Table):
    """The agent framework and its config."""

    name: str = Field(
        "mini_swe_agent_v2",
        description="an agent of cooperbench that supports docker (`mini_swe_agent_v2`,"
        " `swe_agent`, `claude_code`, `codex`), or an agent from a module in `external`."
        " `openhands_docker` is the paper's OpenHands ([docs/agents.md](../docs/agents.md));"
        " upstream's `openhands_sdk` runs on Modal only",
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="changes to upstream's agent config, in the parts `agent` (`step_limit`,"
        " `cost_limit`, ...), `model` (`model_kwargs`) and `environment` (`env`)",
    )
    external: list[str] = Field(
        default_factory=list,
        description="modules with additional agents (COOPERBENCH_EXTERNAL_AGENTS)",
    )
    outside: bool = Field(
        False,
        description="only for `openhands_docker`; `true`: a run's network also reaches the outside",
    )

    @property
    def openhands(self) -> bool:
        """True for OpenHands, which needs images with an agent server."""
        return self.name == OPENHANDS

    @pydantic.field_validator("external")
    @classmethod
    def _check_external(cls, modules: list[str]) -> list[str]:
        for name in modules:
            if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
                refuse(f"{name!r} is not a module's name. Write it as Python's import does.")
        return modules

    @pydantic.field_validator("config")
    @classmethod
    def _check_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        _refuse_any(_agent_config_problems(config))
        return config

    @pydantic.model_validator(mode="after")
    def _check_name(self) -> Agent:
        if self.name == "openhands_sdk":
            refuse(
                ".name: 'openhands_sdk' runs on Modal only and cannot run on docker:"
                f" {OPENHANDS!r} is the same agent in containers of this machine. Allowed:"
                f" {listed(DOCKER_AGENTS)}."
            )
        if self.name not in DOCKER_AGENTS and not self.external:
            refuse(
                f".name: {self.name!r} is unknown. Allowed: {listed(DOCKER_AGENTS)}, or an agent"
                f" of a module in `external`.{suggest(self.name, DOCKER_AGENTS)}"
            )
        return self


def _agent_config_problems(config: dict[str, Any]) -> Iterator[str]:
    model = config.get("model")
    parts = {f".{key}": value for key, value in config.items()}
    if isinstance(model, dict):
        parts[".model.model_kwargs"] = model.get("model_kwargs")
    for key, value in parts.items():
        if value is not None and not isinstance(value, dict):
            yield f"{key}: {value!r} is not a table. Write keys and values below it."
            return
    yield from _document_problems(config, "")
    if "model_name" in (model or {}):
        yield ".model.model_name: the workflow sets it. Write models.NAME.model instead."
    yield from _kwargs_problems(dict((model or {}).get("model_kwargs") or {}))
    variables = (config.get("environment") or {}).get("env") or {}
    if not isinstance(variables, dict):
        yield f".environment.env: {variables!r} is not a table. Write names and values below it."
        return
    for name, value in variables.items():
        if _SECRET_NAME.fullmatch(str(name)) and isinstance(value, str) and _is_key(value):
            yield (
                f".environment.env.{name}: a key must not be in a file, and a container's commands"
                " would read it. Remove it."
            )
    for key in ("step_limit", "cost_limit", "max_iterations"):
        limit = (config.get("agent") or {}).get(key)
        if isinstance(limit, int | float) and limit < 0:
            yield f".agent.{key}: {limit!r} is negative. Allowed: a number from 0 (0: no limit)."
    for key in config:
        if key not in _AGENT_PARTS:
            yield (
                f".{key}: there is no such part. Allowed: {listed(_AGENT_PARTS)}."
                f"{suggest(key, _AGENT_PARTS)}"
            )


def _document_problems(value: object, key: str) -> Iterator[str]:
    """Return the problems of a value that JSON documents cannot represent."""
    if isinstance(value, dict):
        for name, entry in value.items():
            if not isinstance(name, str):
                yield f"{key}: the key {name!r} is not text. Put it in quotes."
            yield from _document_problems(entry, f"{key}.{name}")
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _document_problems(entry, f"{key}.{number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key}: {value!r} is not a finite number. Write a number."
    elif not isinstance(value, str | int | float | None):
        yield f"{key}: {value} is a {type(value).__name__} in YAML. Put it in quotes."


def _kwargs_problems(kwargs: dict[str, Any]) -> Iterator[str]:
    key = ".model.model_kwargs"
    for name, value in kwargs.items():
        if name in _RESERVED_KWARGS and value not in (None, *_NEUTRAL.get(name, ())):
            yield f"{key}.{name}: {_RESERVED_KWARGS[name]}. Remove it."
    for name in _secret_names(kwargs, ""):
        yield (
            f"{key}{name}: a key must not be in a file. Set an environment variable and name it in"
            " models.NAME.api_key; litellm reads credentials of AWS, Azure and Google from their"
            " own variables."
        )
    for name in ("api_base", "base_url"):
        if kwargs.get(name) is not None:
            try:
                _check_url(str(kwargs[name]))
            except PydanticCustomError as error:
                yield from (f"{key}.{name}: {text}" for text in (error.context or {})["problems"])


def _secret_names(table: dict[str, Any], prefix: str) -> Iterator[str]:
    """Return the keys of a table, also of nested ones, whose values are secrets."""
    for name, value in table.items():
        path = f"{prefix}.{name}"
        if isinstance(value, dict):
            yield from _secret_names(value, path)
        elif isinstance(value, str) and value and _SECRET_NAME.fullmatch(str(name)):
            is_file = (
                str(name).endswith("credentials") and "{" not in value
            )  # Google's may be a document
            if not is_file:
                yield path


class Model(_Table):
    """A model and how to call it."""

    model: str = Field(description="the model's name in litellm")
    api_base: str | None = Field(
        None, description="full URL of the end point; `null`: the provider's default"
    )
    api_key: str | None = Field(
        None,
        description="name of the environment variable with the key, never the key itself; `null`:"
        " no key is needed, and none is sent",
    )
    replay: _Path | None = Field(
        None,
        description="a folder of recordings, which a local server plays in place of the model; the"
        " results are labelled replay",
    )
    adopt: dict[
        str,
        Annotated[
            Annotated[str, Tag("[text]")] | Annotated[list[str], Tag("[list]")],
            Discriminator(_text_or_list),
        ],
    ] = Field(
        default_factory=dict,
        description="results that `snakemake adopt` imports; the model is then never called. For"
        " each setting a folder `LOG_DIR/RUN_NAME` of a finished `cooperbench run`, a list of"
        " folders (one per repeat), or `FILE#MODEL`, a model in CooperBench's public record"
        " ([docs/sharing.md](../docs/sharing.md))",
    )
    provider: str | None = Field(
        None,
        description="an entry of `providers`; all models that name it share its limits",
    )
    return_tool_plan: bool = Field(
        False,
        description="only for Cohere; `true`: the model's `tool_plan` is sent back with its tool"
        " calls, as Cohere's API expects. `false`: it is dropped as in upstream, so that results"
        " stay comparable ([docs/agents.md](../docs/agents.md#answers-of-the-model))",
    )
    agent: Agent | None = Field(
        None,
        description="a different agent for this model, with the keys of `agent`; `null`: the agent"
        " at the top level. This way one config can compare two agents"
        " ([docs/agents.md](../docs/agents.md))",
    )

    @pydantic.field_validator("model")
    @classmethod
    def _check_model(cls, model: str) -> str:
        if not model.strip():
            refuse("is empty. Write litellm's name of the model.")
        if model.startswith("-") or re.search(r"[\s\x00-\x1f\x7f]", model):
            refuse(
                f"{model!r} is not a model's name. Write litellm's name, without spaces and not"
                " starting with a dash."
            )
        return model

    @pydantic.field_validator("api_base")
    @classmethod
    def _check_api_base(cls, url: str | None) -> str | None:
        return url if url is None else _check_url(url)

    @pydantic.field_validator("api_key")
    @classmethod
    def _check_api_key(cls, name: str | None) -> str | None:
        # The message does not repeat the value, which may be the key itself.
        if name is None:
            return None
        if _is_key(name) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            refuse(
                "is not the name of an environment variable. Write the variable's name (such as"
                " COHERE_API_KEY), never the key itself."
            )
        return name

    @pydantic.field_validator("adopt")
    @classmethod
    def _check_adopt(cls, adopt: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        _refuse_any(_adopt_problems(adopt))
        return adopt

    @pydantic.model_validator(mode="after")
    def _check_source(self) -> Model:
        if self.adopt and self.replay is not None:
            refuse("adopt and replay exclude each other. Remove adopt or replay.")
        return self


def _adopt_problems(adopt: dict[str, str | list[str]]) -> Iterator[str]:
    for setting, folders in adopt.items():
        names = [folders] if isinstance(folders, str) else folders
        if not names or not all(name.strip() for name in names):
            yield (
                f".{setting}: names no folder. Write LOG_DIR/RUN_NAME, or a list of such folders,"
                " one per repeat."
            )
        for name in dict.fromkeys(n for n in names if names.count(n) > 1):
            yield (
                f".{setting}: names {name} twice. Repeats are different runs: name each folder"
                " once."
            )


class Provider(_Table):
    """Limits of an account at a provider, shared by all models that name it."""

    runs: int | None = Field(
        None,
        gt=0,
        description="concurrent runs of all its models; `null`: limited only by `run_slots`",
    )
    requests_per_minute: float | None = Field(
        None,
        ge=0.01,
        description="rate of model calls of all its models, evenly spaced; `null`: no limit",
    )


class Limits(_Table):
    """Time limits, retries and the budget."""

    run_seconds: int = Field(
        600,
        gt=0,
        le=LONGEST_RUN,
        description="time limit of one attempt at a run; at most 7000, because an agent's"
        " container ends after two hours",
    )
    eval_seconds: int = Field(1800, gt=0, le=LONGEST, description="time limit of one evaluation")
    test_seconds: int = Field(
        600, gt=0, le=600, description="time limit of one feature's tests; upstream's limit is 600"
    )
    call_seconds: int = Field(300, gt=0, le=LONGEST, description="time limit of one model call")
    call_tries: int = Field(
        10,
        gt=0,
        le=1000,
        description="how often an agent tries a model call, with pauses of 4 to 60 s (OpenHands:"
        " at most 5 tries, 8 to 64 s)",
    )
    pause_seconds: float = Field(
        30,
        ge=0,
        le=LONGEST,
        description="pause before attempt 2, doubled before attempt 3 and varied at random by up"
        " to a half; longer if the provider's Retry-After demands it",
    )
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="budget in USD. No run starts once the cost so far, the bound of open calls"
        " and the expected cost of running runs exceed it; running runs finish. `null`: no budget"
        " ([docs/costs.md](../docs/costs.md))",
    )


class Redis(_Table):
    """The message store of the agents."""

    url: str | None = Field(
        None,
        description="an existing Redis for the agents' messages; `null`: a private server per run."
        " With `team`, and with agents that send messages from inside their containers, the"
        " containers must be able to reach it",
    )

    @pydantic.field_validator("url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not re.match(r"(redis|rediss|unix)://", url):
            refuse(f"{url!r} is not a Redis URL. Allowed: redis://, rediss://, unix://.")
        try:
            parts = urlsplit(url)
            is_valid = parts.scheme == "unix" or bool(parts.hostname and parts.port != 0)
        except ValueError:
            is_valid = False
        if not is_valid or re.search(r"[\x00-\x20\x7f]", url):
            # It may contain a password.
            refuse("its host or port is wrong, or it has a space. Write redis://HOST:PORT.")
        return url


class Breaker(_Table):
    """Circuit breaker: new runs wait after consecutive infrastructure failures."""

    failures: int = Field(
        3,
        ge=0,
        description="number of consecutive infrastructure failures after which new runs wait; 0:"
        " never",
    )
    pause_seconds: float = Field(
        30,
        ge=0,
        le=LONGEST,
        description="pause before a waiting run tries again, doubled each time, at most 600",
    )
    notify_minutes: float = Field(
        10, ge=0, description="waiting time of runs after which `notify` is called, minutes"
    )


class Containers(_Table):
    """Resources of the agents' and tests' containers."""

    memory: str | None = Field(
        "16g",
        pattern=r"^[1-9]\d*[bkmg]$",
        description="memory limit of one container, without swap; `null`: no limit",
    )
    cpus: float | None = Field(
        None, ge=0.01, description="processor limit of one container; `null`: shared by weight"
    )
    pids: int | None = Field(
        4096,
        gt=0,
        le=4_194_304,
        description="limit of processes and threads in one container; `null`: no limit",
    )
    network: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="`none`, or the name of a Docker network; `null`: Docker's default bridge, as"
        " in upstream ([docs/security.md](../docs/security.md))",
    )

    @pydantic.field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: str | None) -> str | None:
        if memory is not None:
            size = int(memory[:-1]) * 1024 ** "bkmg".index(memory[-1])
            if not 6 * 1024**2 <= size < 2**63:
                refuse(f"{memory!r}: Docker's smallest limit is 6m. Write a number such as 16g.")
        return memory

    @pydantic.field_validator("network")
    @classmethod
    def _check_network(cls, network: str | None) -> str | None:
        if network == "host":
            refuse(
                "'host' would let a model's commands reach this machine's services. Allowed: null,"
                " none, or the name of a Docker network."
            )
        return network


class Images(_Table):
    """Sources and storage of the tasks' images."""

    pull: bool = Field(True, description="pull missing images")
    build: bool = Field(
        False, description="build missing images from the Dockerfiles in the data set"
    )
    archive: _Path | None = Field(
        None,
        description="a folder with one tar file per image, which takes precedence over a pull; the"
        " rule `images_archive` writes it",
    )
    free_gb: float = Field(
        20, ge=0, description="space on Docker's disk that the images must leave free, GB"
    )
    registry: str | None = Field(
        None,
        description="pull from this registry (`host`, `host:port`, optionally with a path);"
        " `null`: Docker Hub",
    )
    lock: _Path = Field("config/images.lock.csv", description="file with the pinned digests")
    moved: Literal["error", "pinned", "accept"] = Field(
        "error",
        description="reaction to a tag that differs from its pin: stop (`error`), use the pinned"
        " content (`pinned`), or pin the new content (`accept`)",
    )
    tries: int = Field(5, gt=0, description="maximum number of tries of a pull")
    pause_seconds: float = Field(
        5, ge=0, description="pause before the second try of a pull, doubled each time"
    )
    unpacked: float = Field(
        3.0, ge=1, description="assumed bytes on disk for each byte of a packed layer"
    )
    rolling: bool = Field(
        False,
        description="fetch a task's image when there is space, and remove it after its last use",
    )

    @pydantic.field_validator("registry")
    @classmethod
    def _check_registry(cls, host: str | None) -> str | None:
        pattern = r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?(/[a-z0-9._/-]+)?"
        if host is not None and not re.fullmatch(pattern, host):
            refuse(
                f"{host!r} is not a registry. Write its host, optionally with a port and a path,"
                " such as mirror.example.org:5000; no https://."
            )
        return host


class Evaluation(_Table):
    """Options of the evaluation."""

    own_features: bool = Field(
        True,
        description="also evaluate each agent's patch of a coop run alone, by the tests of the"
        " agent's own feature. This calls no model, costs nothing and uses idle evaluation slots"
        " ([docs/results.md](../docs/results.md#where-a-run-is-lost))",
    )


class Oracle(_Table):
    """Options of the oracle, the evaluation of the gold patches."""

    repeats: int = Field(
        1,
        ge=1,
        le=50,
        description="number of evaluations of each gold patch; 2 or more reveal flaky tests",
    )


class Judge(_Table):
    """Model that labels failed runs of two agents: `snakemake judge`, never part of `all`."""

    model: (
        Annotated[
            Annotated[str, Tag("[text]")] | Annotated[Model, Tag("[table]")],
            Discriminator(_text_or_table),
        ]
        | None
    ) = Field(
        None,
        description="the judge: an entry of `models`, or a table with the keys of such an entry"
        " (`model`, `api_base`, `api_key`, `provider`); `null`: no judge. Its calls are paid"
        " ([docs/results.md](../docs/results.md#judge))",
    )
    sample: int = Field(
        20,
        gt=0,
        description="number of failed runs to judge, a random sample; a larger sample keeps the"
        " runs of a smaller one",
    )
    seed: int = Field(0, description="seed of the choice")
    repeats: int = Field(
        1,
        ge=1,
        le=10,
        description="number of answers for each run; 2 or more measure the agreement",
    )


class Assumptions(_Table):
    """Assumed usage of an agent, for the estimate; the defaults are from a published run."""

    calls: float | None = Field(
        None,
        gt=0,
        description="assumed model calls of one agent; `null`: 10.4 in solo, 10.7 with messages,"
        " 8.7 without ([docs/costs.md](../docs/costs.md))",
    )
    input_tokens: int = Field(
        published.INPUT_TOKENS, gt=0, description="assumed input tokens of one call"
    )
    output_tokens: int = Field(
        published.OUTPUT_TOKENS, gt=0, description="assumed output tokens of one call"
    )
    run_seconds: int = Field(300, gt=0, description="assumed duration of a run")


def _check_folder_name(name: str) -> str:
    if not layout.NAME.fullmatch(name):
        refuse(
            f"{name!r} cannot be a folder name. Allowed: up to 64 letters, digits, dots, dashes and"
            " underscores, first a letter or digit."
        )
    return name


def _check_provider_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        refuse(
            "cannot be the name of a Snakemake resource. Allowed: letters, digits and underscores,"
            " first a letter."
        )
    return name


def _check_flags(flags: list[str]) -> list[str]:
    if not flags:
        refuse("has no upstream flags. Write for example [--setting, solo].")
    _refuse_any(_flag_problems(flags))
    return flags


def _flag_problems(flags: list[str]) -> Iterator[str]:
    index = flags.index("--setting") + 1 if "--setting" in flags else len(flags)
    mode = flags[index] if index < len(flags) else None
    if mode not in MODES:
        value = "nothing" if mode is None else repr(mode)
        yield (
            f"--setting is followed by {value}. Allowed: {listed(MODES)}."
            f"{suggest(mode, MODES) if mode else ''}"
        )
    if flags.count("--setting") > 1:
        yield "--setting is given more than once. Write one."
    # Upstream's source is read only for unusual flags, because every job parses the config.
    is_unusual = bool(set(flags) - {*_COMMON_FLAGS, *MODES})
    upstream_flags = releases.run_flags() if is_unusual else frozenset()
    for flag in flags:
        name, _, value = flag.partition("=")
        # Upstream accepts every unambiguous prefix of a flag.
        matches = [f for f in RESERVED_FLAGS if name == f or (len(name) > 2 and f.startswith(name))]
        if matches or re.match(r"-[A-Za-z]", flag):
            full = f" ({matches[0]})" if matches and matches[0] != name else ""
            yield f"{flag}{full} is set by the workflow; leave it out."
        elif value or (name != "--setting" and len(name) > 2 and "--setting".startswith(name)):
            yield f"{flag}: write flags in full, and each value as a separate word."
        elif (
            upstream_flags
            and name.startswith("--")
            and name not in {*_COMMON_FLAGS, *upstream_flags}
        ):
            allowed = sorted(upstream_flags - set(RESERVED_FLAGS))
            yield (
                f"{flag}: upstream's `cooperbench run` has no such flag. Allowed:"
                f" {listed(allowed)}.{suggest(name, allowed)}"
            )


_Name = Annotated[str, AfterValidator(_check_folder_name)]
_Flags = Annotated[list[str], AfterValidator(_check_flags)]


class Config(_Table):
    """All keys of config/config.yaml."""

    results: _Path = Field(
        "results", description="folder of all written files, except the logs in `logs/`"
    )
    dataset: Dataset = Dataset()
    models: dict[_Name, Model | None] = Field(
        description="a model; NAME is the first part of its run names"
    )
    providers: dict[Annotated[str, AfterValidator(_check_provider_name)], Provider | None] = Field(
        default_factory=dict, description="limits that the models of an account share"
    )
    agent: Agent = Agent()
    settings: dict[_Name, _Flags | None] = Field(
        description="flags of `cooperbench run`; settings run in this order. `--setting` is"
        " required; the workflow sets name, model, task, features, redis and folders"
    )
    repeats: int = Field(
        1,
        ge=1,
        le=99,
        description="number of runs of each pair in each setting; the run names of repeats end in"
        " -r2, -r3, ...",
    )
    limits: Limits = Limits()
    redis: Redis = Redis()
    images: Images = Images()
    evaluation: Evaluation = Evaluation()
    oracle: Oracle = Oracle()
    judge: Judge = Judge()
    containers: Containers = Containers()
    breaker: Breaker = Breaker()
    assume: Assumptions = Assumptions()
    backend: Literal["docker", "modal", "gcp"] = Field(
        "docker",
        description="where agents and tests run: `docker` or `modal`"
        " ([docs/scaling.md](../docs/scaling.md) lists the limits of `modal`). Upstream's `gcp` is"
        " refused",
    )
    preflight: Literal["full", "light"] = Field(
        "full",
        description="checks before paid runs. `full`: also call the model for one token and start a"
        " container and a Redis; `light`: only check for missing prerequisites",
    )
    launcher: Literal["warm", "off"] = Field(
        "warm",
        description="`warm`: cooperbench is imported once per session; `off`: by each job, with"
        " the same results",
    )
    notify: list[str] = Field(
        default_factory=list,
        description="a command and its arguments as a list. It is called once when a session ends,"
        " halts, waits long or reaches its budget, and gets a JSON document on stdin"
        " ([docs/costs.md](../docs/costs.md))",
    )
    accept: list[str] = Field(
        default_factory=list, description="run names whose changed configuration is accepted"
    )

    @property
    def key_names(self) -> list[str]:
        """The environment variables with the keys of the models and the judge."""
        judge = self.judge.model if isinstance(self.judge.model, Model) else None
        models = [*self.models.values(), judge]
        return [model.api_key for model in models if model is not None and model.api_key]

    @property
    def docker(self) -> bool:
        """True if agents and tests run in Docker containers, here or on a cluster's nodes."""
        return self.backend == "docker"

    @pydantic.field_validator("results")
    @classmethod
    def _check_results(cls, folder: str) -> str:
        if not folder.strip():
            refuse("is empty. Write the folder for all results.")
        if set(folder) == {"/"}:
            refuse("'/' is the root of the file system. Write a dedicated folder.")
        if re.search(r"[{}]", folder):
            refuse(f"{folder!r} must not contain `{{` or `}}`, which Snakemake reserves.")
        return folder

    @pydantic.field_validator("models", "settings")
    @classmethod
    def _require_entry(cls, entries: dict[str, Any]) -> dict[str, Any]:
        if not any(entry is not None for entry in entries.values()):
            refuse("has no entry; at least one is needed.")
        return entries

    @pydantic.field_validator("launcher", mode="before")
    @classmethod
    def _undo_yaml_booleans(cls, value: object) -> object:
        return {False: "off", True: "warm"}.get(value, value) if isinstance(value, bool) else value

    @pydantic.field_validator("notify")
    @classmethod
    def _check_notify(cls, command: list[str]) -> list[str]:
        if command and not command[0].strip():
            refuse("the first word is empty. Write a command and its arguments as a list.")
        return command
