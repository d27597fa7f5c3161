"""Checks of the preflight: one function per prerequisite, which yields findings."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors

from cooperflow import atomic_io, environment, session_state
from cooperflow.attempt import services
from cooperflow.engine import containers, endpoint, modal_sandboxes
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, StoreError, UserError, listed
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import disk_space
from cooperflow.openhands import agent_server
from cooperflow.outcomes import patch_text
from cooperflow.session import model_check
from cooperflow.session.model_check import BAD, NOTE, OK, Finding
from cooperflow.upstream import releases

# Disk space that one run's results may take, bytes.
RUN_BYTES = 5_000_000
# Open files that a session with four runs needs.
OPEN_FILES = 1024
# Memory limit of the container that tests whether limits work, bytes.
MEMORY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Work:
    """The jobs that a session will do."""

    images: bool
    runs: Sequence[Run]
    evaluations: Sequence[Run]
    own_features: Sequence[Run] = ()  # runs whose agents' patches are evaluated alone
    oracles: int = 0
    uses: Mapping[str, Sequence[str]] = field(default_factory=dict)  # output files by image
    slots: int = 4  # concurrent runs
    cluster: bool = False  # jobs run on other machines
    tables: bool = True  # runs, evaluations or tables were requested
    adopting: bool = False
    pulls: int = 0  # images to verify

    @property
    def needs_cooperbench(self) -> bool:
        """True if a job calls upstream's command."""
        return bool(self.runs or self.evaluations or self.own_features) or self.oracles > 0

    @property
    def needs_engine(self) -> bool:
        """True if a job needs containers, here or on the machines of a cluster."""
        return self.images or self.needs_cooperbench


@dataclass(frozen=True)
class Context:
    """Input of the checks."""

    plan: Plan
    work: Work

    @property
    def runs(self) -> Sequence[Run]:
        return self.work.runs

    @property
    def has_local_engine(self) -> bool:
        """True if Docker on this machine runs the containers."""
        return self.plan.config.docker and not self.work.cluster


def check_environment(context: Context) -> Iterator[Finding]:
    """Report variables that the workflow ignores, and variables that contradict the config."""
    paid = {r.experiment.model_name: r for r in context.runs if not r.experiment.model.replay}
    if not paid:
        return
    for line in environment.ignored_variables(os.environ):
        yield Finding("environment", NOTE, line)
    models = []
    for name, run in paid.items():
        models.append((name, run.experiment.model.model, run.experiment.api_base))
    for line in environment.contradictions(models, os.environ):
        yield Finding("environment", BAD, line)
    if problem := model_check.registry_problem(os.environ):
        yield Finding("price", BAD, problem)


def check_keys(context: Context) -> Iterator[Finding]:
    """Check that each model has its key or its recordings."""
    models = {run.experiment.model_name: run.experiment.model for run in context.runs}
    for name, model in models.items():
        yield from model_check.check_key(name, model)


def check_models(context: Context) -> Iterator[Finding]:
    """Call each model for one token."""
    experiments = {run.experiment.model_name: run.experiment for run in context.runs}
    for experiment in experiments.values():
        yield from model_check.check_model(context.plan, experiment)


def check_dataset(context: Context) -> Iterator[Finding]:
    root = Path(context.plan.config.dataset.dir)
    try:
        dataset.check(root, context.plan.pairs)
    except UserError as error:
        yield Finding("data set", BAD, str(error))
        return
    yield Finding("data set", OK, f"{root}: complete for {context.plan.choice}")


def check_patches(context: Context) -> Iterator[Finding]:
    """Report tasks whose patches are not plain text."""
    root = Path(context.plan.config.dataset.dir)
    try:
        caveats = patch_text.task_caveats(root, context.plan.pairs)
    except (OSError, UserError):  # another check reports an incomplete data set
        return
    if caveats:
        tasks = [f"{task} ({', '.join(kinds)})" for task, kinds in caveats.items()]
        yield Finding(
            "patches",
            NOTE,
            f"Not plain text: {listed(tasks, 5)}. Upstream's commands change such patches; the"
            " workflow keeps them byte for byte, and passes with them have a caveat.",
        )


def check_redis_program(context: Context) -> Iterator[Finding]:
    if _needs_redis(context):
        try:
            services.find_server()
        except UserError as error:
            yield Finding("redis", BAD, str(error))


def check_redis_server(context: Context) -> Iterator[Finding]:
    """Start a private Redis and stop it."""
    if not _needs_redis(context):
        return
    with environment.scratch_folder() as folder:
        try:
            server = services.RedisServer(folder, folder / "log")
        except UserError:  # another check reports a missing program
            return
        except OSError as error:
            yield Finding("redis", BAD, str(error))
            return
        try:
            server.wait(10)
            yield Finding("redis", OK, "a private server starts")
        except StoreError as error:
            yield Finding("redis", BAD, f"{error}.")
        finally:
            server.end()


def _needs_redis(context: Context) -> bool:
    is_private = context.plan.config.redis.url is None
    return is_private and any(run.experiment.setting.redis for run in context.runs)


def check_openhands(context: Context) -> Iterator[Finding]:
    if any(run.experiment.agent.openhands for run in context.runs):
        try:
            agent_server.sources_hash()
        except UserError as error:
            yield Finding("openhands", BAD, str(error))


def check_agent_modules(context: Context) -> Iterator[Finding]:
    """Check that the modules of external agents exist, without importing them."""
    agents = {
        name: run.experiment.agent for run in context.runs for name in run.experiment.agent.external
    }
    for name, agent in agents.items():
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            yield Finding(
                "agent",
                BAD,
                f"the module {name} is missing (external, for {agent.name}). Add its folder to "
                "PYTHONPATH.",
            )


def check_agent_config(context: Context) -> Iterator[Finding]:
    """Compare `agent.config` with upstream's default config of the agent."""
    kinds = {(run.experiment.agent.name, run.experiment.setting.mode): run for run in context.runs}
    for (name, mode), run in kinds.items():
        try:
            config = releases.agent_defaults(name, mode)
        except (OSError, ValueError, SyntaxError) as error:
            text = f"{name}: its config cannot be read ({error}). Run `make setup`."
            yield Finding("agent", BAD, text)
            continue
        defaults = (config or {}).get("agent") or {}
        kwargs = run.experiment.agent.config.get("agent") or {}
        mismatched = [
            key
            for key, value in kwargs.items()
            if key in defaults and not _has_same_type(value, defaults[key])
        ]
        unknown = [f"agent.{key}" for key in kwargs if defaults and key not in defaults]
        if name == "mini_swe_agent_v2":
            unknown += _unread_keys(run.experiment.agent.config)
        for key in mismatched:
            yield Finding(
                "agent",
                BAD,
                f"config.agent.{key}: {kwargs[key]!r} has another type than upstream's default"
                f" {defaults[key]!r}",
            )
        text = f"{name}, {mode}: {'config read' if config else 'upstream has no config file'}"
        if unknown:
            text = f"{text}; not among upstream's keys: {', '.join(unknown)}"
            yield Finding("agent", NOTE, text)
        elif not mismatched:
            yield Finding("agent", OK, text)


# Keys that mini_swe_agent_v2 reads in these parts; it silently ignores others.
_READ = {
    "model": frozenset(
        {"model_kwargs", "cost_tracking", "set_cache_control", "litellm_model_registry"}
        | {"format_error_template", "observation_template", "multimodal_regex"}
        | {"capture_token_ids"}
    ),
    "environment": frozenset({"env"}),
}


def _unread_keys(config: Mapping[str, Any]) -> list[str]:
    return [
        f"{part}.{key}"
        for part, names in _READ.items()
        for key in config.get(part) or {}
        if key not in names
    ]


def _has_same_type(value: Any, default: Any) -> bool:
    """True if a value has the type of upstream's default; None matches every type."""
    return value is None or default is None or _type_of(value) is _type_of(default)


def _type_of(value: Any) -> type:
    """Return a value's type; int and float count as the same type, bool does not."""
    return float if type(value) is int else type(value)


def check_disk(context: Context) -> Iterator[Finding]:
    root = context.plan.results.root
    folder = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not os.access(folder, os.W_OK):
        text = f"{folder} is not writable. Set `results` to a folder that is."
        yield Finding("disk", BAD, text)
        return
    usage, amount = shutil.disk_usage(folder), RUN_BYTES * max(len(context.runs), 1)
    free = usage.free
    if not usage.total:
        yield Finding("disk", OK, f"{folder} is on a file system that reports no size")
    elif free < amount:
        yield Finding(
            "disk",
            BAD,
            f"{folder} has {free / 1e6:.0f} MB free; {len(context.runs)} runs may take "
            f"{amount / 1e6:.0f} MB. Free some, or set `results` to another disk.",
        )
    else:
        yield Finding("disk", OK, f"{free / 1e9:.1f} GB free for results in {folder}")


def check_open_files(context: Context) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        yield Finding(
            "open files", BAD, f"the limit is {soft}: `ulimit -n 4096` (at most {limit})."
        )
    else:
        yield Finding("open files", OK, f"limit {soft}")


def check_cluster(context: Context) -> Iterator[Finding]:
    """Reject image settings that cannot work with a separate Docker on each node."""
    images = context.plan.config.images
    if not (context.plan.config.docker and context.work.cluster):
        return
    if images.rolling:
        yield Finding(
            "images",
            BAD,
            "images.rolling counts the images of one machine; on a cluster each node has its "
            "own. Set images.rolling: false, and give Docker's storage on the nodes enough space "
            "for all images, or run fewer tasks per session (dataset.tasks).",
        )
    if images.build and images.archive is None:
        yield Finding(
            "images",
            BAD,
            "images.build builds a different image on each node. Build once and let the nodes "
            "load it: set images.archive to a folder that all machines see, and write its tars "
            "with `snakemake images_archive` on a machine with Docker.",
        )


def check_modal(context: Context) -> Iterator[Finding]:
    """Check Modal's package and credentials."""
    if not context.plan.config.docker and (problem := modal_sandboxes.missing_credentials()):
        yield Finding("modal", BAD, problem)


def check_modal_app(context: Context) -> Iterator[Finding]:
    """Query upstream's app on Modal, which is free."""
    if context.plan.config.docker or modal_sandboxes.missing_credentials():
        return
    try:
        modal_sandboxes.check_access()
        yield Finding("modal", OK, "its app answers; Docker is not needed")
    except EngineError as error:
        text = f"{error}. Check the token and the network (`.venv/bin/modal token info`)."
        yield Finding("modal", BAD, text)


def check_docker(context: Context) -> Iterator[Finding]:
    """Check that Docker answers and supports everything that the runs need."""
    if not context.has_local_engine:
        return
    if shutil.which("docker") is None:
        yield Finding(
            "docker",
            BAD,
            "the docker command is missing. Install it (Debian: `apt-get install docker.io`), or "
            "run `make engine`.",
        )
        return
    try:
        client = containers.engine(10)
    except EngineError as error:
        yield Finding("daemon", BAD, endpoint.explain_unreachable(error))
        return
    with contextlib.closing(client):
        try:
            yield Finding("daemon", OK, f"Docker {containers.usable_version(client)}")
        except (EngineError, UserError) as error:
            yield Finding("daemon", BAD, str(error))
            return
        yield from _check_address_ranges(context)
        yield from check_callbacks(context, client)
        yield from _check_network(context, client)
        info = client.info()
        if missing := endpoint.missing_limits(context.plan.config.containers, info):
            yield Finding("limits", NOTE, endpoint.limits_text(missing, info))
        yield from _check_image_space(context, client)


def check_containers(context: Context) -> Iterator[Finding]:
    """Start a container, and compare Docker's clock and the verified images."""
    if not context.has_local_engine:
        return
    try:
        client = containers.engine(10)
    except EngineError as error:
        yield Finding("daemon", BAD, endpoint.explain_unreachable(error))
        return
    with contextlib.closing(client):
        info = client.info()
        yield try_limits(context.plan, client, info)
        yield model_check.check_clock(str(info.get("SystemTime") or ""), "Docker's")
        yield from check_verified_images(context.plan, client)


def _check_image_space(context: Context, client: docker.DockerClient) -> Iterator[Finding]:
    images = context.plan.images if context.work.images else ()
    missing = [image for image in images if containers.image_id(client, image) is None]
    try:
        amount = disk_space.check_space(context.plan, client, missing)
    except UserError as error:
        yield Finding("images", BAD, str(error))
        return
    if amount:
        yield Finding("images", NOTE, amount)
    elif context.work.images:
        yield Finding("images", OK, f"all {len(images)} are on this machine")


def _check_address_ranges(context: Context) -> Iterator[Finding]:
    """Reject runs that need more concurrent networks than Docker has address ranges."""
    configured = context.plan.config.containers.network
    count = sum(run.experiment.has_own_network(configured) for run in context.runs)
    if count:
        problem = containers.find_network_shortage(
            _labels(context.plan), min(count, context.work.slots)
        )
        if problem:
            text = f"some settings need a network per run; {problem}"
            yield Finding("network", BAD, text)


def _labels(plan: Plan) -> Labels:
    return Labels.new(
        session_state.results_identity(plan.results), "preflight", secrets.token_hex(16)
    )


def check_callbacks(context: Context, client: docker.DockerClient) -> Iterator[Finding]:
    """Reject runs whose containers connect to this machine if the engine is on another one."""
    names = {
        run.experiment.run_name
        for run in context.runs
        if run.experiment.agent.openhands
        or (run.experiment.store_in_containers and context.plan.config.redis.url is None)
    }
    if names and not containers.is_local(client):
        yield Finding(
            "docker",
            BAD,
            f"{endpoint.apply()} is not on this machine, and containers of these experiments "
            f"connect to this machine: {listed(sorted(names))}. Use this machine's engine, or "
            "start the workflow on the engine's machine.",
        )


def _check_network(context: Context, client: docker.DockerClient) -> Iterator[Finding]:
    network = context.plan.config.containers.network
    if network not in (None, "none") and not containers.network_exists(client, network):
        yield Finding(
            "network",
            BAD,
            f"Docker has no network {network} (containers.network). Create it "
            f"(`docker network create {network}`), or use a network of `docker network ls`.",
        )


def check_verified_images(plan: Plan, client: docker.DockerClient) -> Iterator[Finding]:
    """Report images that changed since they were verified, because every run would refuse them."""
    for image in plan.images:
        path = plan.results.sentinel(image)
        sentinel = atomic_io.read_object(path)
        attributes = containers.image_attributes(client, image)
        if sentinel.get("id") and attributes and not containers.is_same_image(sentinel, attributes):
            text = (
                f"{image} has changed since it was verified: remove {path} to verify the new image."
            )
            yield Finding("images", BAD, text)


def try_limits(plan: Plan, client: docker.DockerClient, info: Mapping[str, Any]) -> Finding:
    """Start a container and check that its memory limit works, if there is an image."""
    if missing := endpoint.missing_limits(plan.config.containers, info):
        return Finding("limits", BAD, endpoint.limits_text(missing, info))
    image = next((i for i in plan.images if containers.image_id(client, i)), None)
    if image is None:
        text = "supported by the kernel; tested in a container once an image is available"
        return Finding("limits", OK, text)
    labels = _labels(plan)
    files = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
    try:
        output = containers.output(
            client,
            image,
            f"cat {files} 2>/dev/null; true",
            lambda text: bool(text.strip()),
            labels=labels.as_dict(),
            network_mode="none",
            **({"mem_limit": MEMORY} if plan.config.containers.memory else {}),
        )
    except docker.errors.DockerException as error:
        return Finding(
            "limits", BAD, f"no container starts ({error}). `docker info` may show the reason."
        )
    finally:
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
    if not plan.config.containers.memory:
        return Finding("limits", OK, "a container starts; containers.memory is null")
    if str(MEMORY) in output.split():
        return Finding("limits", OK, "a container's memory limit works")
    return Finding(
        "limits",
        BAD,
        "a container's memory limit has no effect: check the cgroup driver in `docker info` "
        f"(the container printed: {output.strip() or 'nothing'}).",
    )
