"""What must be there before work starts: everything that is missing, told at once."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import docker

from cooperflow import provider_environment, redaction, session_lock
from cooperflow.attempt import redis_server
from cooperflow.engine import abilities, containers, endpoint, modal_sandboxes, networks
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, UserError, listed
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import disk_space
from cooperflow.openhands import runtime_files

# What the results of a run may take on disk, bytes; a start needs room for all runs to do.
RUN_BYTES = 5_000_000


@dataclass(frozen=True)
class Work:
    """What a start is about to do."""

    images: bool
    runs: Sequence[Run]
    evaluations: Sequence[Run]
    oracles: int = 0
    uses: Mapping[str, Sequence[str]] = field(default_factory=dict)  # files to do, by image
    slots: int = 4  # runs at a time
    cluster: bool = False  # the jobs run on other machines
    tables: bool = True  # runs, evaluations or tables were asked for
    adopting: bool = False
    pulls: int = 0  # images to verify

    @property
    def needs_cooperbench(self) -> bool:
        """Whether there is a job that calls upstream's command."""
        return bool(self.runs) or bool(self.evaluations) or self.oracles > 0

    @property
    def needs_engine(self) -> bool:
        """Whether Docker has work to do, here or on the machines of a cluster."""
        return self.images or self.needs_cooperbench


def check(plan: Plan, work: Work) -> str | None:
    """Return Docker's version if all is well (None: Docker is not needed, or not here).

    Raises:
        UserError: names everything that is missing and what to do about each.
    """
    if not work.needs_engine:
        return None
    problems = [
        *_keys(work.runs),
        *_environment(work.runs),
        *_data(plan),
        *_redis(work.runs, plan),
        *_disk(plan, work),
    ]
    problems += [*_openhands(work.runs), *_external(work.runs)]
    version = None
    if not plan.config.docker:
        problems += filter(None, [modal_sandboxes.lacking()])
    elif work.cluster:
        problems += _cluster(plan)
    else:
        try:
            version = _engine(plan, work.images, work.runs, work.slots)
        except (EngineError, UserError) as error:
            problems.append(str(error))
    if problems:
        lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(problems, start=1))
        raise UserError(f"Not started; this is missing:\n{lines}")
    return version


def _keys(runs: Iterable[Run]) -> Iterator[str]:
    models = {run.experiment.model_name: run.experiment.model for run in runs}
    for name, model in models.items():
        key = redaction.read(model.api_key if model.replay is None else None, os.environ)
        if key.problem:
            yield f"Key: {key.problem}"
        elif model.replay is None and model.api_key and not key.value:
            yield (
                f"Key: the environment variable {model.api_key} (models.{name}.api_key) is not "
                f"set. Run `export {model.api_key}=...`."
            )
        elif key.note:
            print(f"key: {key.note}", file=sys.stderr)
        if model.replay is not None and not Path(model.replay).is_dir():
            yield f"Recordings: models.{name}.replay: there is no folder {model.replay}."


def _environment(runs: Iterable[Run]) -> Iterator[str]:
    """Variables that name another server than the config does."""
    paid = {run.experiment.model_name: run for run in runs if run.experiment.model.replay is None}
    if not paid:
        return
    for line in provider_environment.ignored(os.environ):
        print(f"environment: {line}", file=sys.stderr)
    models = []
    for name, run in paid.items():
        kwargs = (run.experiment.agent.config.get("model") or {}).get("model_kwargs") or {}
        model = run.experiment.model
        models.append((name, model.model, model.api_base or kwargs.get("api_base")))
    for line in provider_environment.contradictions(models, os.environ):
        yield f"Environment: {line}"


def _data(plan: Plan) -> Iterator[str]:
    try:
        dataset.check(Path(plan.config.dataset.dir), plan.pairs)
    except UserError as error:
        yield f"Data set: {error}"


def _redis(runs: Iterable[Run], plan: Plan) -> Iterator[str]:
    if plan.config.redis.url is None and any(r.experiment.setting.redis for r in runs):
        try:
            redis_server.program()
        except UserError as error:
            yield f"Redis: {error}"


def _openhands(runs: Iterable[Run]) -> Iterator[str]:
    if any(run.experiment.agent.openhands for run in runs):
        try:
            runtime_files.stamp()
        except UserError as error:
            yield f"OpenHands: {error}"


def _external(runs: Iterable[Run]) -> Iterator[str]:
    """The modules that bring agents are looked for, not imported: they are not ours."""
    names = {name: run.experiment.agent for run in runs for name in run.experiment.agent.external}
    for name, agent in names.items():
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            yield (
                f"Agent: there is no module {name} (external, for {agent.name}). Put the folder "
                "that holds it into PYTHONPATH."
            )


def _disk(plan: Plan, work: Work) -> Iterator[str]:
    root = plan.results.root
    existing = root
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        yield f"Disk: {existing} is not writable. Set `results` to a folder that is."
        return
    free, needed = shutil.disk_usage(existing).free, RUN_BYTES * max(len(work.runs), 1)
    if free < needed:
        yield (
            f"Disk: {existing} has {free / 1e6:.0f} MB free; {len(work.runs)} runs may take "
            f"{needed / 1e6:.0f} MB. Free some, or set `results` to another disk."
        )


def _cluster(plan: Plan) -> Iterator[str]:
    """What cannot work where each job sees to the images of its own machine."""
    if plan.config.images.rolling:
        yield (
            "Images: images.rolling keeps count of one machine's images; on a cluster each node "
            "has its own. Set images.rolling: false, and give Docker's storage on the nodes room "
            "for all images, or run fewer tasks per start (dataset.tasks)."
        )
    if plan.config.images.build and plan.config.images.archive is None:
        yield (
            "Images: images.build makes another image on each node. Build once, and let the nodes "
            "load it: name a folder as images.archive that all machines see, and make its tars "
            "with `snakemake images_archive` where Docker is."
        )


def _engine(plan: Plan, images: bool, runs: Sequence[Run] = (), slots: int = 1) -> str:
    if shutil.which("docker") is None:
        raise UserError(
            "Docker: the docker command is not there. Install it (Debian: `apt-get install "
            "docker.io`), or run `make engine`."
        )
    try:
        client = containers.engine(10)
    except EngineError as error:
        raise UserError(_out_of_reach(error)) from error
    try:
        version = _usable(client)
        _address_ranges(plan, runs, slots)
        _local(plan, runs, client)
        _network(plan, client)
        info = client.info()
        missing = abilities.missing_limits(plan.config.containers, info)
        wanted = plan.images if images else ()
        absent = [i for i in wanted if containers.image_id(client, i) is None]
        told = disk_space.check(plan, client, absent)
    finally:
        client.close()
    if missing:
        print(f"limits: {abilities.limits_text(missing, info)}", file=sys.stderr)
    if told:
        print(f"images: {told.words}")
    return version


def _address_ranges(plan: Plan, runs: Iterable[Run], slots: int) -> None:
    """Refuse runs that need more networks at a time than Docker has address ranges for."""
    configured = plan.config.containers.network
    own = sum(run.experiment.has_own_network(configured) for run in runs)
    if own:
        labels = Labels.new(session_lock.identity(plan.results), "preflight", secrets.token_hex(16))
        words = networks.missing(labels, min(own, slots))
        if words:
            raise UserError(f"Network: each run of some settings has its own; {words}")


def _local(plan: Plan, runs: Iterable[Run], client: docker.DockerClient) -> None:
    """Refuse runs whose containers call back to this machine where the engine is elsewhere."""
    calling = {
        run.experiment.run_name
        for run in runs
        if run.experiment.agent.openhands
        or (run.experiment.store_in_containers and plan.config.redis.url is None)
    }
    if calling and not containers.is_local(client):
        raise UserError(
            f"Docker: {endpoint.apply()} is not on this machine, and containers of these "
            f"experiments call back to it: {listed(sorted(calling))}. Use this machine's engine, "
            "or start the workflow on the engine's machine."
        )


def _network(plan: Plan, client: docker.DockerClient) -> None:
    network = plan.config.containers.network
    if network not in (None, "none") and not networks.exists(client, network):
        raise UserError(
            f"Network: Docker has none of the name {network} (containers.network). Make it "
            f"(`docker network create {network}`), or name one that `docker network ls` shows."
        )


def _usable(client: docker.DockerClient) -> str:
    """Return the engine's version where the `docker` command and the SDK use the same engine.

    Raises:
        UserError: they do not, the command cannot use the engine, or it is not Docker's.
    """
    with containers.told():
        answer, info = client.version(), client.info()
    podman = [c for c in answer.get("Components") or [] if "podman" in str(c.get("Name")).lower()]
    if podman:
        raise UserError(
            f"Docker: the engine is Podman {podman[0].get('Version')}, which is not supported: it "
            "reports no out-of-memory events and loses output of short containers. Set "
            "DOCKER_HOST to a Docker engine, or run `make engine`."
        )
    try:
        _, command_id = endpoint.ask_command()
    except EngineError as error:
        raise UserError(
            f"Docker: the engine ({answer.get('Version')}) answers the SDK, but the docker command "
            f"cannot use it: {error}. Agents need the command; install a newer one (Debian 13: "
            "`apt-get install docker-cli`)."
        ) from error
    if command_id and info.get("ID") and command_id != info["ID"]:
        raise UserError(
            f"Docker: the docker command uses engine {command_id}, the SDK uses engine "
            f"{info['ID']}. Set DOCKER_HOST to one of them (`docker context ls` lists them)."
        )
    return str(answer["Version"])


def _out_of_reach(error: EngineError) -> str:
    text = str(error)
    if "Permission denied" in text:
        return (
            "Docker: the daemon runs, but this user may not use it. Add the user to the group "
            "docker (`sudo usermod -aG docker $USER`, then log in anew), or be root."
        )
    return (
        f"Docker: no daemon answers: {text}. Start it (`systemctl start docker`, or "
        "`make engine` as root), or set DOCKER_HOST to one that runs."
    )
