"""One attempt at a run: start cooperbench, watch it, end it, and keep what it left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout, processes, redaction, runtime_dir
from cooperflow.attempt import child_process, container_monitor, replay_server, services
from cooperflow.attempt.container_monitor import ENGINE_PATIENCE, Place, clear
from cooperflow.attempt.model_gateway import Upstream
from cooperflow.attempt.redis_server import RedisServer
from cooperflow.attempt.services import Services
from cooperflow.engine import containers, modal_sandboxes, networks
from cooperflow.engine.containers import Labels
from cooperflow.engine.networks import Network
from cooperflow.engine.probes import is_full
from cooperflow.errors import EngineError, StoreError, UserError
from cooperflow.experiment import config_schema
from cooperflow.experiment.plan import Run
from cooperflow.instrumentation.rate_limit import RateLimit
from cooperflow.outcomes import publication, usage
from cooperflow.outcomes.judgement import CallsEnd, Evidence
from cooperflow.upstream import result_files

# How often a running attempt is looked at, seconds.
TICK = 0.1
# How often its containers and the engine are looked at meanwhile, seconds.
LOOK = 1.0


@dataclass(frozen=True)
class OwnNetwork:
    """The network of a run whose agents live in containers."""

    outside: bool  # whether it reaches more than the run's own services
    call_tries: int


@dataclass(frozen=True)
class Job:
    """An attempt that is about to start."""

    run: Run
    folder: Path  # attempts/{n}
    arguments: tuple[str, ...]  # of cooperbench, without --redis
    labels: Labels
    seconds: float
    environment: Mapping[str, str]
    key: str | None
    image: str
    step_limit: int | None
    redis_url: str | None = None
    run_arguments: tuple[str, ...] = ()
    sdk_arguments: Mapping[str, Any] | None = None
    replay: str | None = None
    docker: bool = True  # else its containers are Modal's sandboxes
    pace: RateLimit | None = None
    network: str | None = None  # containers.network of the config
    # For agents that call their model from containers; None: agents call it from here.
    own_network: OwnNetwork | None = None

    @property
    def calls(self) -> Path:
        return self.folder / layout.CALLS

    @property
    def upstream(self) -> Path:
        """Where upstream writes this attempt's results."""
        return publication.upstream_folder(self.run, self.folder)


@dataclass(frozen=True)
class Watched:
    """How a cooperbench process ended, and what became of its containers and of the machine."""

    exit_code: int | None
    timed_out: bool
    seconds: float
    ended: float
    fates: containers.ContainerCounts
    engine_lost: bool
    engine_stalled: float
    disk_full: bool


def new_token() -> str:
    """Return a name for one attempt that no other one has."""
    return uuid.uuid4().hex


def perform(job: Job, agent_file: Mapping[str, Any]) -> Evidence:
    """Run the attempt to its end and return the evidence. Leaves no process and no container.

    Raises:
        Interrupted: this process was asked to end, or the workflow it belongs to has.
    """
    with runtime_dir.scratch() as folder, contextlib.ExitStack() as stack:
        stop_note = folder / "put-away"
        stop_note.touch()
        model = dict(agent_file)
        if job.replay:
            model_name = job.run.experiment.model.model
            base = replay_server.start(str(_recordings(job)), job.folder, model_name, stack)
            model["config"]["model"]["model_kwargs"]["api_base"] = base
        try:
            started = _services(job, model, folder, stack)
        except (EngineError, StoreError, UserError) as error:
            # Without its network or its store a setting is not what it is named after.
            clear(job.labels)
            lost = isinstance(error, EngineError)
            return Evidence(
                document=False,
                engine_lost=lost,
                store_unavailable=not lost,
                detail=redaction.redact(str(error), job.key),
            )
        config = job.folder / "agent.yaml"
        atomic_io.write_text(config, json.dumps(model, indent=2))
        command = child_process.Command(
            arguments=[*job.arguments, *started.arguments, "--agent-config", str(config)],
            log=job.folder / "cooperbench.log",
            stop_note=stop_note,
            labels=job.labels.as_dict(),
            tags=None if job.docker else modal_sandboxes.tags(job.labels),
            run_arguments=[*job.run_arguments, *started.run_arguments],
            sdk_arguments=job.sdk_arguments or {},
            environment={**job.environment, **started.environment},
            model=job.run.experiment.model.model,
            # With a gateway it is that alone which has the key and keeps the books.
            key=None if started.gateway else job.key,
            calls=None if started.gateway else job.calls,
            pace=None if started.gateway else job.pace,
            unread=job.folder / layout.UNREAD,
            return_tool_plan=job.run.experiment.model.return_tool_plan,
        )
        try:
            watched = watch(
                command, _place(job, stop_note), lambda: _limit(job), lambda: started.died
            )
            gateway_died = started.died
            asked = _asked(job, command)
        finally:
            if started.gateway:
                started.gateway.end()  # it writes the last answer down
            redaction.scrub(job.folder, job.key)
        return dataclasses.replace(
            _evidence(job, watched, started.redis, gateway_died), containers_asked=asked
        )


def _asked(job: Job, command: child_process.Command) -> int | None:
    """Return how many containers the agents asked the docker program for, None if they do not."""
    if job.run.experiment.agent.name not in config_schema.BY_COMMAND:
        return None
    with contextlib.suppress(OSError):
        return len(command.run_note.read_bytes().splitlines())
    return 0


def watch(
    command: child_process.Command,
    place: Place,
    limit: Callable[[], float],
    in_vain: Callable[[], bool] = lambda: False,
) -> Watched:
    """Run cooperbench for at most ``limit()`` seconds; then its processes and containers are gone.

    It is ended before its time when nothing good can come of it: when a container of it died,
    or the engine did, or ``in_vain`` says so. Each further call would be paid for in vain.

    Raises:
        Interrupted: asked to end, or the owner has ended.
    """
    begun, longest = time.monotonic(), limit()
    status: int | None = None
    timed_out = False
    process = child_process.start(command)
    try:
        place.begin()  # after the fork, which must not inherit a thread
        looked = begun
        while status is None:
            pid, code = os.waitpid(process, os.WNOHANG)
            if pid:
                status = code
                break
            now = time.monotonic()
            if now - begun > longest:
                longest = limit()
            if now - begun > longest:
                timed_out = True
                break
            if now - looked > LOOK:
                looked = now
                if in_vain() or place.doomed():
                    break
            processes.raise_if_orphaned()
            time.sleep(TICK)
    finally:
        ended = time.time()
        processes.kill_group(process)
        if status is None:
            with contextlib.suppress(ChildProcessError):
                os.kill(process, signal.SIGKILL)
                _, status = os.waitpid(process, 0)
        seen = place.end(ended)
    return Watched(
        exit_code=None if status is None else os.waitstatus_to_exitcode(status),
        timed_out=timed_out,
        seconds=time.monotonic() - begun,
        ended=ended,
        fates=seen.fates,
        engine_lost=seen.lost,
        engine_stalled=seen.stalled,
        disk_full=is_full(command.log.parent),
    )


def _place(job: Job, stop_note: Path) -> Place:
    setting = job.run.experiment.setting
    agents = 1 if setting.mode == "solo" else 2
    wanted = agents + setting.git
    return container_monitor.place(job.docker, job.folder, job.labels, stop_note, wanted)


def _limit(job: Job) -> float:
    """Return the time limit with what our own pace has taken of it given back, seconds."""
    if job.pace is None:
        return job.seconds
    held = usage.held(atomic_io.read_lines(job.calls))
    return max(job.seconds, min(job.seconds + held, config_schema.LONGEST_RUN))


def _services(
    job: Job, agent_file: Mapping[str, Any], folder: Path, stack: contextlib.ExitStack
) -> Services:
    setting, own = job.run.experiment.setting, job.own_network
    outside = own.outside if own else job.network != "none"
    wanted = services.Wanted(job.labels, job.image, outside, setting.redis, job.redis_url)
    if own is not None:
        kwargs = services.model_kwargs(agent_file)
        model = job.run.experiment.model.model
        plan = job.run.experiment.model.return_tool_plan
        upstream = Upstream(model, job.key, kwargs, own.call_tries, job.calls, job.pace, plan)
        return services.inside(wanted, upstream, folder, job.folder, stack)
    network = _network(job, outside) if job.docker else None
    if not setting.redis:
        return Services()
    if network is None or not job.run.experiment.store_in_containers:
        return services.beside(job.redis_url, folder, job.folder, stack)
    started = services.on_network(network, wanted, folder, job.folder, stack)
    if setting.git:
        return started  # upstream puts the agents' containers there itself
    return dataclasses.replace(started, run_arguments=[f"--network={network.name}"])


def _network(job: Job, outside: bool) -> Network | None:
    """Create the attempt's own network if its setting has one, or look up the configured one.

    Upstream's git server would create its network itself, and what Docker says then is lost.
    """
    setting = job.run.experiment.setting
    if setting.git:
        return networks.create(networks.git_name(job.labels), job.labels, not outside)
    if not job.run.experiment.store_in_containers:
        return None
    if job.network not in (None, "none"):
        return networks.existing(str(job.network))
    return networks.create(networks.own_name(job.labels), job.labels, not outside)


def _recordings(job: Job) -> Path:
    """Return the recordings of just this run if they lie apart, else all that there are.

    A coop agent's prompt does not name the other feature: only the folder tells two pairs apart.
    """
    root = Path(str(job.replay))
    own = layout.recordings(root, job.run.pair)
    setting = own / job.run.experiment.setting.name
    return next((place for place in (setting, own) if place.is_dir()), root)


def _evidence(
    job: Job, watched: Watched, redis: RedisServer | None, gateway_died: bool
) -> Evidence:
    document = upstream_document(job)
    records = atomic_io.read_lines(job.calls)
    calls = usage.calls(records)
    agents, threads = result_files.agent_ends(document), usage.threads(calls)
    recorded = job.run.experiment.agent.name in config_schema.RECORDED
    image_missing = False
    fates = watched.fates
    if job.docker and not watched.engine_lost and not fates.started:
        with contextlib.suppress(EngineError):
            client = containers.engine(ENGINE_PATIENCE)
            image_missing = containers.image_id(client, job.image) is None
            client.close()
    return Evidence(
        document=document is not None,
        timed_out=watched.timed_out,
        exit_code=watched.exit_code,
        seconds=watched.seconds,
        agents=agents,
        silent=max(len(agents) - len(threads), 0) if recorded else 0,
        calls=tuple(
            CallsEnd(
                last=thread[-1].kind,
                waited=usage.waited(thread, watched.ended),
                seconds=watched.ended - thread[0].start,
                refused_setting=usage.is_output_setting(thread[-1].error),
            )
            for thread in threads
        ),
        containers_started=fates.started if job.docker and not watched.engine_lost else None,
        containers_died=fates.died,
        containers_oom=fates.oom,
        exec_refused=fates.refused,
        engine_lost=watched.engine_lost,
        engine_stalled=watched.engine_stalled,
        disk_full=watched.disk_full,
        image_missing=image_missing,
        redis_died=redis is not None and redis.died,
        store_ended_by_agent=redis is not None and redis.port > 0 and redis.ended_by_client,
        gateway_died=gateway_died,
        patch_unread=(job.folder / layout.UNREAD).exists(),
        step_limit=job.step_limit,
        cut_answers=sum(call.hit_output_limit for call in calls),
        held=usage.held(records),
    )


def upstream_document(job: Job) -> dict[str, Any] | None:
    """Return the result.json that upstream wrote, if it is whole and about exactly this pair."""
    document = atomic_io.read_json(job.upstream / layout.RESULT)
    pair = job.run.pair
    if (
        isinstance(document, dict)
        and document.get("repo") == pair.repo
        and document.get("task_id") == pair.task_id
        and sorted(document.get("features") or []) == list(pair.sorted_features)
    ):
        return document
    return None
