"""Environment variables of the workflow's processes, and the private folder for their sockets.

Snakemake passes the config and the identity of the session process to its jobs in variables.
cooperbench, litellm and mini-swe-agent read `.env` files and dozens of variables that could
redirect calls to another server or change limits. Every process that imports them therefore first
replaces its environment by a controlled one, in which only the config decides which server is
called.

The module imports only the standard library: it must work in any Python environment, and every job
imports it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path

from cooperflow import locks

# The validated config, as JSON.
CONFIG = "COOPERFLOW_CONFIG"
# The session process, which identifies the session on all machines.
OWNER = "COOPERFLOW_OWNER"
# On a cluster's node: the Snakemake process on that node that executes one job.
NODE = "COOPERFLOW_NODE"
# `off` makes every job a separate process; set from the config's `launcher`.
LAUNCHER = "COOPERFLOW_LAUNCHER"
# The session's pending table jobs, separated by commas.
TABLE_JOBS = "COOPERFLOW_TABLE_JOBS"
# Number of retries of a job after its first try.
RETRIES = "COOPERFLOW_RETRIES"

# Variables set for every process that calls models.
CONTROLLED_VALUES = {
    "PYTHON_DOTENV_DISABLED": "1",  # no `.env` file is read
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else a download with three tries
    "LITELLM_LOG": "ERROR",
    "MSWEA_SILENT_STARTUP": "1",
    "PYTHONUTF8": "1",  # upstream opens its prompts with the locale's encoding
}
# Variables of these families that affect neither the called server nor the number of calls.
ALLOWED_NAMES = ("LITELLM_MODEL_REGISTRY_PATH",)

# Variables that name a server.
ADDRESS = re.compile(
    r"[A-Z0-9_]+_(API_BASE|API_BASE_IMAGE|BASE_URL|API_ENDPOINT|API_HOST)"
    r"|AZURE_OPENAI_ENDPOINT|AZURE_API_TYPE|OPENAI_API_TYPE|AWS_BEDROCK_RUNTIME_ENDPOINT"
    r"|AWS_ENDPOINT_URL\w*|(WATSONX|WX|WML)_URL|DATAROBOT_ENDPOINT|GRADIENT_AI_AGENT_ENDPOINT"
    r"|WATSONX_IAM_URL|GIGACHAT_AUTH_URL"  # the key is sent to these
    r"|USE_LITELLM_PROXY"
)
# Families of variables; keys are passed on, since the config names them.
FAMILY = re.compile(
    r"(AZURE_OPENAI|LITELLM|MSWEA)_\w+(?<!_API_KEY)"
    # Defaults that litellm sends with a call.
    r"|DEFAULT_(MAX_TOKENS|MAX_RETRIES|ANTHROPIC_CHAT_MAX_TOKENS|REASONING_EFFORT_\w+)"
)

# Variables with a key that a client library sends with a call.
KEYS = re.compile(
    r"\w+_(API_KEY|API_TOKEN|AUTH_TOKEN|AI_TOKEN|ZENAPIKEY|APIKEY)|HF_TOKEN|DATABRICKS_TOKEN"
    r"|AWS_BEARER_TOKEN_BEDROCK|AIMLAPI_KEY|COMETAPI_KEY|FRIENDLI_TOKEN|WATSONX_TOKEN"
    r"|GIGACHAT_(CREDENTIALS|ACCESS_TOKEN)|SCW_SECRET_KEY"
)
# Sent to an OpenAI-compatible server that needs no key, because the client requires a key.
NO_KEY = "none"

# The config keys to use instead.
_INSTEAD = {
    "MSWEA_GLOBAL_COST_LIMIT": "agent.config.agent.cost_limit",
    "MSWEA_GLOBAL_CALL_LIMIT": "agent.config.agent.step_limit",
    "MSWEA_COST_TRACKING": "agent.config.model.cost_tracking",
    "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "limits.call_tries",
}
# The provider of a model whose name has no prefix, by the first characters of the name.
_BARE = {
    "command": "cohere",
    "c4ai": "cohere",
    "claude": "anthropic",
    "gpt": "openai",
    "chatgpt": "openai",
    "codex": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "gemini": "gemini",
}

# A unix socket's address has at most 107 bytes; the longest name below this path takes 48.
LONGEST_RUNTIME_DIR = 59

# systemd removes the folders below it when their user logs out, even if a session of the workflow
# continues (nohup, tmux). Its runs would lose their message stores and scratch files.
LOGIN_DIR = "/run/user/"

_PLAIN = re.compile(r"[\w./+@:,=-]+", re.ASCII)


def make_portable(environment: MutableMapping[str, str]) -> None:
    """Set the same text encoding and warnings for a session's processes on every machine.

    Upstream opens its files with the locale's encoding, and `PYTHONWARNINGS=error` would end a run
    because of a deprecation in a library.
    """
    environment["PYTHONUTF8"] = "1"
    environment.pop("PYTHONWARNINGS", None)


# The oldest Snakemake that the workflow supports, and the packages that its rules import.
SNAKEMAKE = (9, 27)
PACKAGES = ("cooperbench", "docker", "litellm", "pandas", "pydantic", "rich", "yaml")


def interpreter_problem(
    version: str, checkout: Path, packages: Sequence[str] = PACKAGES, executable: str | None = None
) -> str:
    """Return why this Snakemake cannot run the workflow, with the remedy; empty if it can.

    Args:
        version: version of Snakemake.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= SNAKEMAKE and not missing:
        return ""
    problems = []
    if numbers < SNAKEMAKE:
        problems.append(f"it is version {version}, and {SNAKEMAKE[0]}.{SNAKEMAKE[1]} is needed")
    if missing:
        problems.append(f"its environment has no {', '.join(missing)}")
    command = checkout / ".venv" / "bin" / "snakemake"
    hint = f"Use {command}" if command.exists() else f"Run `make setup`, then use {command}"
    return (
        f"Wrong Snakemake: {executable or sys.executable}: {'; '.join(problems)}.\n"
        f"{hint} instead of `snakemake`."
    )


def is_controlled(name: str) -> bool:
    """Return whether a variable is removed for the processes that call models."""
    if name in CONTROLLED_VALUES or name in ALLOWED_NAMES:
        return False
    return bool(ADDRESS.fullmatch(name) or FAMILY.fullmatch(name))


def controlled_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that calls models, derived from ``environment``."""
    variables = {name: value for name, value in environment.items() if not is_controlled(name)}
    # With the value `error`, a deprecation in a library would end a run.
    variables.pop("PYTHONWARNINGS", None)
    # A private folder: mini-swe-agent's default may contain settings or be read-only.
    folder = runtime_folder() / "mini-swe-agent"
    folder.mkdir(mode=0o700, exist_ok=True)
    return {**variables, **CONTROLLED_VALUES, "MSWEA_GLOBAL_CONFIG_DIR": str(folder)}


def remove_keys(environment: MutableMapping[str, str], model: str) -> None:
    """Remove the keys of all providers, for a model without a key in the config.

    Otherwise litellm would send OPENAI_API_KEY to the server that the config names.
    """
    for name in [name for name in environment if KEYS.fullmatch(name)]:
        del environment[name]
    if _provider(model) == "openai":
        environment["OPENAI_API_KEY"] = NO_KEY


def unsent_keys(environment: Mapping[str, str], entry: str, model: str) -> Iterator[str]:
    """Return a sentence for each key in the environment that is not sent to a model's provider.

    Args:
        entry: the model's name in the config.
        model: litellm's name of the model.
    """
    for name in sorted(environment):
        if environment[name] and KEYS.fullmatch(name) and _concerns(name, model):
            yield (
                f"{name} is set, and models.{entry}.api_key is null: no key is sent. Write "
                f"`api_key: {name}` to send it."
            )


def enter_controlled(environment: MutableMapping[str, str]) -> None:
    """Replace ``environment`` (that of this process) by the controlled environment."""
    controlled = controlled_environment(environment)
    for name in set(environment) - set(controlled):
        del environment[name]
    environment.update(controlled)
    # Warnings that PYTHONWARNINGS or -W turned into errors.
    warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]


def ignored_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence, without the value, for each variable that is set and has no effect."""
    return [
        f"{name} is ignored: the config decides how a model is called. Use {config_key_for(name)}."
        for name in sorted(environment)
        if is_controlled(name) and environment[name] and name not in _OWN
    ]


# Set by the workflow itself and inherited by its jobs.
_OWN = ("MSWEA_DOCKER_EXECUTABLE", "MSWEA_GLOBAL_CONFIG_DIR")


def config_key_for(name: str) -> str:
    """Return the config key to use instead of the variable ``name``."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    if name.startswith("AZURE_OPENAI_"):
        return "models.NAME.model (openai/DEPLOYMENT), models.NAME.api_base, models.NAME.api_key"
    if ADDRESS.fullmatch(name):
        return "models.NAME.api_base"
    return "agent.config.model.model_kwargs"


def contradictions(
    models: Iterable[tuple[str, str, str | None]], environment: Mapping[str, str]
) -> Iterator[str]:
    """Return the problems that prevent a session: variables that name a model's server.

    Without a configured address the user expects the named server, but the calls would go to the
    provider's server and be paid there.

    Args:
        models: name in the config, litellm's name and api_base of each paid model.
        environment: environment of the session.
    """
    addresses = [
        name for name in sorted(environment) if environment[name] and ADDRESS.fullmatch(name)
    ]
    for entry, model, api_base in models:
        for name in addresses:
            if api_base is None and _concerns(name, model):
                yield (
                    f"{name} is set, and models.{entry}.api_base is null: the environment does not "
                    f"decide which server is called. Write the URL as models.{entry}.api_base, or "
                    f"run `unset {name}`."
                )


def _concerns(variable: str, model: str) -> bool:
    """Return whether a variable appears to name a server of the provider of ``model``."""
    provider = _provider(model)
    return not provider or provider in variable.replace("_", "").lower()


def _provider(model: str) -> str:
    """Return the provider of a model in lower-case letters and digits, empty if unknown."""
    providers = (provider for start, provider in _BARE.items() if model.lower().startswith(start))
    prefix = model.partition("/")[0] if "/" in model else next(providers, "")
    return re.sub(r"[^a-z0-9]", "", prefix.lower()).removesuffix("chat")


def is_plain_path(path: str) -> bool:
    """True if ``path`` needs no quoting in a shell, in a URL and in a config file."""
    return bool(_PLAIN.fullmatch(path))


def runtime_folder() -> Path:
    """Return a folder that only this user can enter, short enough for a socket's path.

    Raises:
        PermissionError: the path exists and does not belong to this user alone.
    """
    base_dir = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    # A cluster passes the variable to another machine, where the folder may not exist.
    if not (
        not base_dir.startswith(LOGIN_DIR)
        and Path(base_dir).is_dir()
        and is_plain_path(base_dir)
        and len(os.fsencode(base_dir)) <= LONGEST_RUNTIME_DIR
    ):
        base_dir = "/tmp"
    base = Path(base_dir) / f"cooperflow-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{base} does not belong to this user alone")
    return base


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a private folder, which is removed on exit.

    The folder is locked while this process runs, so that the folder of a killed process can be
    recognized.
    """
    with contextlib.ExitStack() as stack:
        path = _lock_new_folder(stack)
        # Before it was locked, another job may have removed it as that of a killed process.
        while not path.exists():
            path = _lock_new_folder(stack)
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def _lock_new_folder(stack: contextlib.ExitStack) -> Path:
    path = Path(tempfile.mkdtemp(prefix="run-", dir=runtime_folder()))
    with contextlib.suppress(FileNotFoundError):
        stack.enter_context(locks.hold(path, os.O_RDONLY))
    return path


def remove_stale_runtime_files() -> None:
    """Remove the scratch folders and sockets of dead processes."""
    for path in list(runtime_folder().iterdir()):
        with contextlib.suppress(OSError), _unlocked(path):
            if path.name.startswith("run-") and path.is_dir():
                shutil.rmtree(path)
            elif path.suffix == ".lock":
                # The job that starts a launcher holds this lock until the launcher listens.
                _remove_unless_served(path)


@contextlib.contextmanager
def _unlocked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder. BlockingIOError (an OSError) if a process holds it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if not locks.try_lock(handle):
            raise BlockingIOError(path)
        yield
    finally:
        os.close(handle)


def _remove_unless_served(lock: Path) -> None:
    """Remove a launcher's socket, log and lock unless it listens."""
    address = lock.with_suffix(".sock")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(address))
        return
    address.unlink(missing_ok=True)
    lock.with_suffix(".log").unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
