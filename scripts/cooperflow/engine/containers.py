"""Functions on the Docker engine: labelled containers, networks and volumes, and local images."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.credentials.errors
import docker.errors
import requests.exceptions

from cooperflow.engine import endpoint
from cooperflow.errors import EngineError, UserError
from cooperflow.processes import Process, this_process

LABEL = "cooperflow"
RESULTS_LABEL = f"{LABEL}.results"  # id of the results folder
RUN_LABEL = f"{LABEL}.run"
TOKEN_LABEL = f"{LABEL}.token"  # one attempt or evaluation
OWNER_LABEL = f"{LABEL}.owner"  # the process that is responsible for the removal

# Time limit of one request to the engine, seconds.
ANSWER_SECONDS = 60

# Number of times that a container runs until the engine returns its complete output.
OUTPUT_TRIES = 4

# Exceptions of the SDK; a missing credentials helper has a separate class.
FAILURES = (
    docker.errors.DockerException,
    docker.credentials.errors.StoreError,
    requests.exceptions.RequestException,
    OSError,
)

# Settings of an image that affect containers and that every engine reports.
IMAGE_SETTINGS = (
    *("Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels"),
    *("StopSignal", "User", "Volumes", "WorkingDir"),
)
# Messages of an engine without a free subnet: since version 27, and before.
_EXHAUSTED = ("fully subnetted", "non-overlapping IPv4 address pool")
POOLS = (
    "Docker has no address range left for another network. Remove unused networks (`docker "
    'network prune`), or give Docker more in /etc/docker/daemon.json: {"default-address-pools": '
    '[{"base": "172.16.0.0/12", "size": 24}]}, then restart it.'
)


@dataclass(frozen=True)
class Labels:
    """Labels of the containers, networks and volumes of one attempt."""

    results: str
    run: str
    token: str
    owner: str

    @classmethod
    def new(cls, results: str, run: str, token: str) -> Labels:
        return cls(results, run, token, str(this_process()))

    def as_dict(self) -> dict[str, str]:
        return {
            RESULTS_LABEL: self.results,
            RUN_LABEL: self.run,
            TOKEN_LABEL: self.token,
            OWNER_LABEL: self.owner,
        }


@contextlib.contextmanager
def engine_errors() -> Any:
    """Convert the SDK's exceptions in the body to EngineError."""
    try:
        yield
    except FAILURES as error:
        raise EngineError(describe(error)) from error


def describe(error: BaseException) -> str:
    """Return the text of an SDK error, with advice if Docker's configuration is the cause."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, docker.credentials.errors.StoreError):
        path = endpoint.config_folder(os.environ) / "config.json"
        return (
            f"Docker's credentials helper does not work: {text}. Install it, or remove "
            f"`credsStore` and `credHelpers` from {path}"
        )
    return text


def engine(seconds: float = ANSWER_SECONDS) -> docker.DockerClient:
    """Return a client of the engine that the `docker` command uses.

    Raises:
        EngineError: it does not answer within ``seconds`` seconds.
    """
    address = endpoint.apply()
    if address.host.startswith(endpoint.SSH):
        raise EngineError(
            f"{address}: the Docker SDK cannot use ssh:// as the docker command does. Forward the "
            "engine's socket (`ssh -N -L /tmp/docker.sock:/var/run/docker.sock HOST`) and set "
            "DOCKER_HOST=unix:///tmp/docker.sock"
        )
    try:
        client = docker.from_env(timeout=int(max(seconds, 1)))
        client.ping()
    except FAILURES as error:
        raise EngineError(f"{address}: {describe(error)}") from error
    return client


def usable_version(client: docker.DockerClient) -> str:
    """Return the engine's version if the `docker` command and the SDK use the same engine.

    Raises:
        UserError: they use different engines, the command cannot use the engine, or it is not
            Docker.
    """
    with engine_errors():
        answer, info = client.version(), client.info()
    podman = [c for c in answer.get("Components") or [] if "podman" in str(c.get("Name")).lower()]
    if podman:
        raise UserError(
            f"the engine is Podman {podman[0].get('Version')}, which is not supported: it "
            "reports no out-of-memory events and loses output of short containers. Set "
            "DOCKER_HOST to a Docker engine, or run `make engine`."
        )
    try:
        _, command_id = endpoint.ask_command()
    except EngineError as error:
        raise UserError(
            f"the engine ({answer.get('Version')}) answers the SDK, but the docker command "
            f"cannot use it: {error}. Agents need the command; install a newer one (Debian 13: "
            "`apt-get install docker-cli`)."
        ) from error
    if command_id and info.get("ID") and command_id != info["ID"]:
        raise UserError(
            f"the docker command uses engine {command_id}, the SDK uses engine "
            f"{info['ID']}. Set DOCKER_HOST to either (`docker context ls` lists them)."
        )
    return str(answer["Version"])


def is_answering(seconds: float = 10) -> bool:
    """Return whether the engine answers within ``seconds`` seconds."""
    try:
        engine(seconds).close()
    except EngineError:
        return False
    return True


def image_id(client: docker.DockerClient, image: str) -> str | None:
    """Return the id of a local image, None if it is missing."""
    with engine_errors():
        try:
            return str(client.images.get(image).id)
        except docker.errors.ImageNotFound:
            return None


def image_attributes(client: docker.DockerClient, image: str) -> dict[str, Any] | None:
    """Return the engine's description of a local image, None if the image is missing."""
    with engine_errors():
        try:
            return dict(client.images.get(image).attrs)
        except docker.errors.ImageNotFound:
            return None


def image_content(client: docker.DockerClient, image: str) -> str | None:
    """Return a local image's content hash, the same in every image store; None if it is missing."""
    attributes = image_attributes(client, image)
    return None if attributes is None else image_hash(attributes)


def remove(client: docker.DockerClient, labels: Mapping[str, str]) -> int:
    """Remove all containers, networks and volumes with ``labels``; return their number."""
    return _remove(client, labels, lambda _: True)


def remove_stale(client: docker.DockerClient, results: str, run: str | None = None) -> int:
    """Remove the leftovers of a results folder from this engine; return their number.

    Only leftovers of ended processes of this machine are removed, because the state of processes on
    other machines is unknown. All objects of ``run`` are removed, since the caller holds its claim.
    """

    def is_orphaned(labels: Mapping[str, str]) -> bool:
        process = Process.parse(labels.get(OWNER_LABEL, ""))
        return labels.get(RUN_LABEL) == run or process is None or not process.is_alive()

    return _remove(client, {RESULTS_LABEL: results}, is_orphaned)


def _remove(client: docker.DockerClient, labels: Mapping[str, str], is_wanted: Any) -> int:
    """Remove what carries ``labels`` and is wanted; return how much was removed.

    The engine may refuse one of them (a busy file system, an endpoint in use). It stays, and the
    next try or session tries again. The refusal must not prevent other removals, or stop a run.
    """
    filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
    api, count = client.api, 0
    with engine_errors():
        for container in api.containers(all=True, filters=filters):
            if is_wanted(container.get("Labels") or {}):
                count += _is_removed(
                    lambda entry: _remove_container(client, entry["Id"]), container
                )
        for network in api.networks(filters=filters):
            if is_wanted(network.get("Labels") or {}):
                count += _is_removed(lambda entry: api.remove_network(entry["Id"]), network)
        for volume in (api.volumes(filters=filters) or {}).get("Volumes") or []:
            if is_wanted(volume.get("Labels") or {}):
                count += _is_removed(
                    lambda entry: api.remove_volume(entry["Name"], force=True), volume
                )
    return count


def _is_removed(
    remove_entry: Callable[[Mapping[str, Any]], None], entry: Mapping[str, Any]
) -> bool:
    """Remove a listed object; return False if the engine refuses."""
    try:
        remove_entry(entry)
    except docker.errors.NotFound:
        return True
    except docker.errors.APIError as error:
        name = entry.get("Name") or entry.get("Id")
        print(f"Docker does not remove {name}: {describe(error)}. The next session asks again.")
        return False
    return True


def _remove_container(client: docker.DockerClient, container: str) -> None:
    try:
        client.api.remove_container(container, force=True, v=True)
    except docker.errors.APIError as error:
        # Another process may be removing it at the same time.
        if error.status_code != 409:
            raise
        for _ in range(50):
            time.sleep(0.1)
            client.api.inspect_container(container)


def list_running(labels: Mapping[str, str], seconds: float) -> list[str]:
    """Return the ids of the running containers that carry ``labels``.

    Raises:
        EngineError: the engine does not answer within ``seconds`` seconds.
    """
    filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
    with contextlib.closing(engine(seconds)) as client, engine_errors():
        return [str(entry["Id"]) for entry in client.api.containers(filters=filters)]


# A program that exists in no container and that no agent can create, so that the answer is always
# the engine's message.
PROBE = "/proc/cooperflow-probe"
# Messages for `docker exec CONTAINER PROBE` if the engine works, or if the container is the cause:
# it is not running, or has no processes or memory left.
_NOT_THE_ENGINE = (
    "is not running",
    "no such container",
    "paused",
    "stopped",
    "cooperflow-probe",
    "resource temporarily unavailable",
    "cannot allocate memory",
    "init-p",
    "final child",
)


def is_refusal(message: str) -> bool:
    """Return whether the message of a failed exec shows a fault of the engine. Pure."""
    text = message.strip().lower()
    return bool(text) and not any(reason in text for reason in _NOT_THE_ENGINE)


def storage(client: docker.DockerClient) -> tuple[Path, int | None]:
    """Return the folder of the images and its free bytes, None if it is not visible from here."""
    with engine_errors():
        info = client.info()
    root = endpoint.image_store(info)
    # In a container the path is a different folder, even with this machine's engine.
    if root is None or not endpoint.is_this_machine(endpoint.apply(), info, contained=False):
        return root or Path(info["DockerRootDir"]), None
    try:
        return root, shutil.disk_usage(root).free
    except OSError:
        return root, None


# Storage with less free space than this counts as full, bytes.
FULL_STORAGE = 1_000_000


def is_storage_full(root: Path) -> bool:
    """Return whether the file system at ``root`` is full even for the engine, which is root."""
    try:
        status = os.statvfs(root)
    except OSError:
        return False
    if not status.f_blocks:  # not reported
        return False
    return status.f_bfree * status.f_frsize < FULL_STORAGE or status.f_ffree == 0 < status.f_files


def is_local(client: docker.DockerClient) -> bool:
    """Return whether the engine runs on this machine, so that containers can reach it."""
    with engine_errors():
        return endpoint.is_this_machine(endpoint.apply(), client.info())


def output(
    client: docker.DockerClient,
    image: str,
    script: str,
    is_complete: Callable[[str], bool],
    **options: Any,
) -> str:
    """Run a shell script in a container and return its output.

    Some engines lose the output of short containers. If the output is incomplete, the script runs
    again, a few times.
    """
    text = ""
    for _ in range(OUTPUT_TRIES):
        data = client.containers.run(
            image, ["-c", script], entrypoint="/bin/sh", remove=True, **options
        )
        text = data.decode(errors="replace")
        if is_complete(text):
            break
    return text


def image_hash(attributes: Mapping[str, Any]) -> str:
    """Return a hash of an image's layers and settings.

    Ids and digests of the same content differ between a classic and a containerd store.

    Args:
        attributes: the engine's description of the image (`docker image inspect`).
    """
    settings = attributes.get("Config") or {}
    document = {
        "os": attributes.get("Os"),
        "architecture": attributes.get("Architecture"),
        "layers": (attributes.get("RootFS") or {}).get("Layers") or [],
        # An engine reports an unset setting as null, as empty, or not at all.
        "settings": {name: settings[name] for name in IMAGE_SETTINGS if settings.get(name)},
    }
    text = json.dumps(document, sort_keys=True)
    return f"content:{hashlib.sha256(text.encode()).hexdigest()}"


def is_same_image(sentinel: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Return whether ``sentinel`` describes this image.

    Sentinels of older versions have no content hash; their id or digest must match.
    """
    if sentinel.get("content"):
        return bool(sentinel["content"] == image_hash(attributes))
    if sentinel.get("id") == attributes.get("Id"):
        return True
    digest = digest_of(str(sentinel.get("digest") or ""))
    return bool(digest) and digest in map(digest_of, attributes.get("RepoDigests") or [])


def registry_digests(
    attributes: Mapping[str, Any], pulled: bool = False, pinned: str | None = None
) -> list[str]:
    """Return the digests of an image that a registry assigned.

    A containerd store reports a digest for every image, which may be just its id. Only a pull or
    the lock proves that a registry assigned it.
    """
    return [
        reference
        for reference in attributes.get("RepoDigests") or []
        if pulled or digest_of(reference) == pinned or digest_of(reference) != attributes.get("Id")
    ]


def digest_of(reference: str) -> str:
    """Return the digest in ``name@digest``."""
    return reference.rpartition("@")[2]


@dataclass(frozen=True)
class Network:
    """A bridge network; ``address`` is this machine's address in it, None if it has none."""

    name: str
    address: str | None


def own_network_name(labels: Labels) -> str:
    """Return the name of an attempt's network. Pure."""
    return f"cooperflow-{labels.token[:12]}"


def git_network_name(labels: Labels) -> str:
    """Return the name of an attempt's git server network, which upstream_patches sets."""
    return f"cooperbench-{labels.token[:12]}"


def create_network(name: str, labels: Labels, internal: bool) -> Network:
    """Create a network with ``labels``, so that it is removed with the run's containers.

    Args:
        internal: its containers can reach only this machine.

    Raises:
        EngineError: Docker refuses; the text contains the engine's message.
    """
    try:
        with contextlib.closing(engine()) as client:
            network = client.networks.create(
                name, driver="bridge", internal=internal, labels=labels.as_dict()
            )
            network.reload()
            return Network(name, _network_gateway(network.attrs))
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(f"no network for the run: {explain_shortage(str(error))}") from error


def find_network_shortage(labels: Labels, count: int) -> str | None:
    """Create and remove ``count`` networks; return the problem if Docker cannot create them.

    The engine does not list its address ranges, so only a trial shows whether they suffice.
    """
    created = 0
    try:
        for number in range(count):
            create_network(f"{own_network_name(labels)}-{number}", labels, internal=True)
            created += 1
    except EngineError as error:
        return f"{created} of {count} networks could be created ({error})"
    finally:
        with contextlib.suppress(EngineError), contextlib.closing(engine()) as client:
            remove(client, {TOKEN_LABEL: labels.token})
    return None


def find_network(name: str) -> Network:
    """Return an existing network that the user created.

    Raises:
        EngineError: it does not exist, or the engine does not answer.
    """
    with contextlib.closing(engine()) as client, engine_errors():
        return Network(name, _network_gateway(client.networks.get(name).attrs))


def explain_shortage(message: str) -> str:
    """Return the engine's message, with advice if its address pools are exhausted. Pure."""
    return f"{message} {POOLS}" if any(text in message for text in _EXHAUSTED) else message


def _network_gateway(attrs: Mapping[str, Any]) -> str | None:
    """Return the IPv4 gateway in a network's description, None without one."""
    subnets = (attrs.get("IPAM") or {}).get("Config") or []
    addresses = [
        str(subnet["Gateway"]).partition("/")[0] for subnet in subnets if subnet.get("Gateway")
    ]
    return next((address for address in addresses if ":" not in address), None)


def network_exists(client: docker.DockerClient, name: str) -> bool:
    """Return whether a network with this name or id exists.

    Raises:
        EngineError: the engine does not answer.
    """
    with engine_errors():
        try:
            client.networks.get(name)
        except docker.errors.NotFound:
            return False
        return True
