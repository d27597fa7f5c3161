"""Endpoint of the Docker engine, shared by the `docker` command and the SDK, and its limits."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow.errors import EngineError, listed
from cooperflow.experiment.config_schema import Containers

DEFAULT = "default"
# Default endpoint of the `docker` command.
DEFAULT_HOST = "unix:///var/run/docker.sock"
# File that Docker creates in each container.
CONTAINER_MARK = Path("/.dockerenv")
# Not supported, because upstream's evaluation uses the SDK without an SSH client.
SSH = "ssh://"
# Time limit of one call of the `docker` command, seconds.
ANSWER_SECONDS = 20

# If the machine runs out of memory, the kernel kills processes in containers first.
OOM_SCORE = 500

# The field in `docker info` and the cgroup controller for each limit in the config.
CONTROLLERS = {
    "memory": ("MemoryLimit", "memory"),
    "cpus": ("CpuCfsQuota", "cpu"),
    "pids": ("PidsLimit", "pids"),
}
CONTAINERD_STORE = "io.containerd.snapshotter.v1"
SYSTEM_CONTAINERD = ("/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock")
CONTAINERD_ROOT = "/var/lib/containerd"


@dataclass(frozen=True)
class Endpoint:
    """The address of a Docker engine, and the setting that names it."""

    host: str
    source: str  # as a message names it
    context: str | None = None  # the Docker context to resolve into variables; None: not needed
    variables: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.host} ({self.source})"


def config_folder(environment: Mapping[str, str]) -> Path:
    """Return the `docker` command's configuration folder."""
    home = environment.get("HOME") or os.path.expanduser("~")
    return Path(environment.get("DOCKER_CONFIG") or Path(home) / ".docker")


def resolve(environment: Mapping[str, str]) -> Endpoint:
    """Return the endpoint that the `docker` command uses with ``environment``.

    The precedence is the command's: DOCKER_HOST, DOCKER_CONTEXT, the configured current context.

    Raises:
        EngineError: the context does not exist or has no Docker endpoint.
    """
    host = environment.get("DOCKER_HOST")
    if host:
        return Endpoint(host, "DOCKER_HOST")
    folder = config_folder(environment)
    name = environment.get("DOCKER_CONTEXT")
    source = f"DOCKER_CONTEXT={name}"
    if not name:
        name = _current_context(folder)
        source = f"the current Docker context {name}"
    if name == DEFAULT:
        return Endpoint(DEFAULT_HOST, "the default socket")
    return _context(folder, name, source)


def apply(environment: MutableMapping[str, str] | None = None) -> Endpoint:
    """Resolve the endpoint and set it in ``environment`` for both the command and the SDK.

    The SDK ignores contexts. Without this, the two could use different engines.

    Raises:
        EngineError: the context does not exist or has no Docker endpoint.
    """
    variables = os.environ if environment is None else environment
    endpoint = resolve(variables)
    if endpoint.context is not None:
        variables.update(endpoint.variables)
        variables.pop("DOCKER_CONTEXT", None)
    return endpoint


def is_this_machine(
    endpoint: Endpoint, info: Mapping[str, Any], contained: bool | None = None
) -> bool:
    """Return whether an engine runs on this machine, so that its paths and addresses are local.

    A local socket does not prove it, because it may be forwarded or belong to a virtual machine.

    Args:
        contained: whether this process runs in a container, which has its own host name.
    """
    local = platform.uname()
    if contained is None:
        contained = CONTAINER_MARK.exists()
    return (
        endpoint.host.startswith("unix://")
        and info.get("KernelVersion") == local.release
        and (contained or info.get("Name") == local.node)
    )


def ask_command() -> tuple[str, str]:
    """Return the engine's version and id as the `docker` command reports them.

    Raises:
        EngineError: the command cannot use the engine; the text contains the engine's message.
    """
    version = _call(["docker", "version", "--format", "{{.Server.Version}}"])
    return version, _call(["docker", "info", "--format", "{{.ID}}"])


def _call(command: list[str]) -> str:
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"`{' '.join(command[:2])}`: no answer within {ANSWER_SECONDS} s"
        ) from error
    except OSError as error:
        raise EngineError(f"`{' '.join(command[:2])}`: {error}") from error
    lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
    if process.returncode:
        message = lines[-1] if lines else f"exit code {process.returncode}"
        raise EngineError(f"`{' '.join(command[:2])}`: {message[:400]}")
    return process.stdout.strip()


def _current_context(folder: Path) -> str:
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(document.get("currentContext") or DEFAULT)
    except (OSError, ValueError, AttributeError):
        return DEFAULT


def _context(folder: Path, name: str, source: str) -> Endpoint:
    identifier = hashlib.sha256(name.encode()).hexdigest()
    path = folder / "contexts" / "meta" / identifier / "meta.json"
    try:
        endpoints = json.loads(path.read_text(encoding="utf-8"))["Endpoints"]
        docker = endpoints["docker"]
        host = str(docker["Host"])
    except FileNotFoundError as error:
        raise EngineError(
            f"{source}: the context does not exist. `docker context ls` lists the contexts; "
            "`docker context use default` selects this machine's engine"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{source}: {path} names no Docker endpoint") from error
    variables = {"DOCKER_HOST": host}
    certificates = folder / "contexts" / "tls" / identifier / "docker"
    if certificates.is_dir():
        unverified = bool(docker.get("SkipTLSVerify"))
        variables |= {"DOCKER_CERT_PATH": str(certificates), "DOCKER_TLS": "1"}
        # An empty value disables verification in both programs.
        variables["DOCKER_TLS_VERIFY"] = "" if unverified else "1"
    return Endpoint(host, source, name, variables)


def explain_unreachable(error: EngineError) -> str:
    """Return the advice for an engine that does not answer."""
    text = str(error)
    if "Permission denied" in text:
        return (
            "Docker is running, but this user may not use it. Add the user to the group docker "
            "(`sudo usermod -aG docker $USER`, then log in again), or run as root."
        )
    return (
        f"Docker does not answer: {text}. Start it (`systemctl start docker`, or "
        "`make engine` as root), or set DOCKER_HOST to a running engine."
    )


def limits(config: Containers, own_network: bool = False) -> tuple[list[str], dict[str, Any]]:
    """Return the containers' limits, as arguments for `docker run` and for the SDK's run.

    Args:
        own_network: upstream connects them to a separate network.
    """
    arguments: list[str] = [f"--oom-score-adj={OOM_SCORE}"]
    sdk: dict[str, Any] = {"oom_score_adj": OOM_SCORE}
    if config.memory:
        # The same limit for memory and for memory plus swap: no swap, which would only be slow.
        arguments += [f"--memory={config.memory}", f"--memory-swap={config.memory}"]
        sdk |= {"mem_limit": config.memory, "memswap_limit": config.memory}
    if config.cpus:
        # Docker refuses more than the machine has.
        cpus = min(config.cpus, float(os.cpu_count() or 1))
        arguments.append(f"--cpus={cpus:g}")
        sdk["nano_cpus"] = int(cpus * 1e9)
    if config.pids:
        arguments.append(f"--pids-limit={config.pids}")
        sdk["pids_limit"] = config.pids
    if config.network and not own_network:
        arguments.append(f"--network={config.network}")
        sdk["network"] = config.network
    return arguments, sdk


def missing_limits(config: Containers, info: Mapping[str, Any]) -> list[str]:
    """Return the configured limits that the engine silently ignores."""
    return [
        name
        for name, (key, _) in CONTROLLERS.items()
        if getattr(config, name) and not info.get(key)
    ]


def limits_text(missing: list[str], info: Mapping[str, Any]) -> str:
    """Return the advice for an engine that cannot enforce the limits ``missing``."""
    controllers = " ".join(CONTROLLERS[name][1] for name in missing)
    keys = listed(f"containers.{name}" for name in missing)
    text = f"the engine cannot enforce these limits: {keys}. "
    if is_rootless(info):
        text += (
            f"It is rootless: delegate the cgroup controllers ({controllers}) to its user. Write "
            f"`[Service]` and `Delegate={controllers}` to "
            "/etc/systemd/system/user@.service.d/delegate.conf, then `systemctl daemon-reload`, "
            "log out and in, and restart the engine (`systemctl --user restart docker`)"
        )
    else:
        text += (
            f"Enable the cgroup controllers ({controllers}; kernel parameters "
            "cgroup_enable=memory swapaccount=1), then restart the machine"
        )
    return f"{text}. Set these keys to null to run without the limits."


def is_rootless(info: Mapping[str, Any]) -> bool:
    """Return whether the engine runs without root."""
    return any("rootless" in str(option) for option in info.get("SecurityOptions") or [])


def image_store(info: Mapping[str, Any]) -> Path | None:
    """Return the folder in which the images are stored, None if the engine does not report it.

    A system-wide containerd keeps the images of Docker's containerd store outside DockerRootDir.
    """
    root = Path(str(info.get("DockerRootDir")))
    status = dict(pair for pair in info.get("DriverStatus") or [] if len(pair) == 2)
    if status.get("driver-type") != CONTAINERD_STORE:
        return root
    address = str((info.get("Containerd") or {}).get("Address") or "")
    if not address:
        return None
    return Path(CONTAINERD_ROOT) if address in SYSTEM_CONTAINERD else root
