"""One attempt at a run: start cooperbench, watch it, end it, and keep what it left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic, layout, processes, runtime
from cooperflow.attempt import child, replay, secrecy, services
from cooperflow.attempt.gateway import Upstream
from cooperflow.attempt.redis_server import RedisServer
from cooperflow.attempt.services import Services
from cooperflow.engine import containers
from cooperflow.engine.containers import EngineError, EventRecord, Labels
from cooperflow.engine.probe import EngineProbe, full
from cooperflow.experiment.plan import Run
from cooperflow.outcomes import publish, usage
from cooperflow.outcomes.outcome import AgentEnd, CallsEnd, Evidence

# How often a running attempt is looked at, seconds.
TICK = 0.1
# How often its containers and the engine are looked at meanwhile, seconds.
LOOK = 1.0
# How long the engine may leave us without an answer before the attempt counts it as lost, seconds.
ENGINE_PATIENCE = 30


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
    # For agents that call their model from containers; None: agents call it from here.
    own_network: OwnNetwork | None = None

    @property
    def calls(self) -> Path:
        return self.folder / layout.CALLS

    @property
    def upstream(self) -> Path:
        """Where upstream writes this attempt's results."""
        return publish.upstream_folder(self.run, self.folder)


@dataclass(frozen=True)
class Watched:
    """How a cooperbench process ended, and what became of its containers and of the machine."""

    exit_code: int | None
    timed_out: bool
    seconds: float
    ended: float
    fates: containers.Fates
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
    with runtime.scratch() as folder, contextlib.ExitStack() as stack:
        stop_note = folder / "put-away"
        stop_note.touch()
        model = dict(agent_file)
        if job.replay:
            model_name = job.run.experiment.model.model
            base = replay.start(job.replay, job.folder, model_name, stack)
            model["config"]["model"]["model_kwargs"]["api_base"] = base
        try:
            started = _services(job, model, folder, stack)
        except EngineError as error:
            print(f"{job.run.key}: {error}")
            clear(job.labels)
            return Evidence(document=False, engine_lost=True)
        config = job.folder / "agent.yaml"
        atomic.write_text(config, json.dumps(model, indent=2))
        command = child.Command(
            arguments=[*job.arguments, *started.arguments, "--agent-config", str(config)],
            log=job.folder / "cooperbench.log",
            stop_note=stop_note,
            labels=job.labels.as_dict(),
            run_arguments=job.run_arguments,
            sdk_arguments=job.sdk_arguments or {},
            environment={**job.environment, **started.environment},
            model=job.run.experiment.model.model,
            # With a gateway it is that alone which has the key and keeps the books.
            key=None if started.gateway else job.key,
            calls=None if started.gateway else job.calls,
        )
        try:
            watched = watch(command, job.labels, job.seconds, lambda: started.died)
            gateway_died = started.died
        finally:
            if started.gateway:
                started.gateway.end()  # it writes the last answer down
            secrecy.scrub(job.folder, job.key)
        return _evidence(job, watched, started.redis, gateway_died)


def watch(
    command: child.Command,
    labels: Labels,
    seconds: float,
    in_vain: Callable[[], bool] = lambda: False,
) -> Watched:
    """Run cooperbench for at most ``seconds``; its processes and containers are gone afterwards.

    It is ended before its time when nothing good can come of it: when a container of it died,
    or the engine did, or ``in_vain`` says so. Each further call would be paid for in vain.

    Raises:
        Interrupted: asked to end, or the owner has ended.
    """
    events = EventRecord(command.log.parent / layout.EVENTS, labels.token)
    probe = EngineProbe()
    begun = time.monotonic()
    status: int | None = None
    timed_out = False
    process = child.start(command)
    try:
        probe.begin()  # after the fork, which must not inherit a thread
        looked = begun
        while status is None:
            pid, code = os.waitpid(process, os.WNOHANG)
            if pid:
                status = code
                break
            now = time.monotonic()
            if now - begun > seconds:
                timed_out = True
                break
            if now - looked > LOOK:
                looked = now
                if in_vain() or _doomed(events, command.stop_note, probe):
                    break
            processes.heed_owner()
            time.sleep(TICK)
    finally:
        ended = time.time()
        processes.kill_group(process)
        if status is None:
            with contextlib.suppress(ChildProcessError):
                os.kill(process, signal.SIGKILL)
                _, status = os.waitpid(process, 0)
        broke, stalled = events.broke, probe.stalled
        probe.end()
        lost = clear(labels)
        processes.end(events.process)
    return Watched(
        exit_code=None if status is None else os.waitstatus_to_exitcode(status),
        timed_out=timed_out,
        seconds=time.monotonic() - begun,
        ended=ended,
        fates=events.fates(_put_away(command.stop_note), ended),
        engine_lost=broke or lost,
        engine_stalled=stalled,
        disk_full=full(command.log.parent),
    )


def _doomed(events: EventRecord, stop_note: Path, probe: EngineProbe) -> bool:
    if events.broke:
        return probe.gone
    fates = events.fates(_put_away(stop_note), time.time())
    return fates.died > 0 or fates.oom > 0


def _put_away(stop_note: Path) -> list[str]:
    """Return the containers that upstream ended itself."""
    return stop_note.read_text().split()


def clear(labels: Labels) -> bool:
    """Remove the attempt's containers; return whether the engine is lost to us."""
    try:
        client = containers.engine(ENGINE_PATIENCE)
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
        client.close()
    except EngineError:
        return True
    return False


def _services(
    job: Job, agent_file: Mapping[str, Any], folder: Path, stack: contextlib.ExitStack
) -> Services:
    messaging, own = job.run.experiment.setting.messaging, job.own_network
    if own is None:
        return services.beside(messaging, job.redis_url, folder, job.folder, stack)
    kwargs = services.model_kwargs(agent_file)
    model = job.run.experiment.model.model
    upstream = Upstream(model, job.key, kwargs, own.call_tries, job.calls)
    wanted = services.Wanted(job.labels, upstream, own.outside, messaging, job.redis_url)
    return services.inside(wanted, folder, job.folder, stack)


def _evidence(
    job: Job, watched: Watched, redis: RedisServer | None, gateway_died: bool
) -> Evidence:
    document = upstream_document(job)
    calls = usage.calls(atomic.read_lines(job.calls))
    image_missing = False
    fates = watched.fates
    if not watched.engine_lost and not fates.started:
        with contextlib.suppress(EngineError):
            client = containers.engine(ENGINE_PATIENCE)
            image_missing = containers.image_id(client, job.image) is None
            client.close()
    return Evidence(
        document=document is not None,
        timed_out=watched.timed_out,
        exit_code=watched.exit_code,
        seconds=watched.seconds,
        agents=agent_ends(document),
        calls=tuple(
            CallsEnd(
                last=thread[-1].kind,
                waited=usage.waited(thread, watched.ended),
                seconds=watched.ended - thread[0].start,
            )
            for thread in usage.threads(calls)
        ),
        containers_started=None if watched.engine_lost else fates.started,
        containers_died=fates.died,
        containers_oom=fates.oom,
        engine_lost=watched.engine_lost,
        engine_stalled=watched.engine_stalled,
        disk_full=watched.disk_full,
        image_missing=image_missing,
        redis_died=redis is not None and redis.died,
        gateway_died=gateway_died,
        step_limit=job.step_limit,
    )


def upstream_document(job: Job) -> dict[str, Any] | None:
    """Return the result.json that upstream wrote, if it is whole and about exactly this pair."""
    document = atomic.read_json(job.upstream / layout.RESULT)
    pair = job.run.pair
    if (
        isinstance(document, dict)
        and document.get("repo") == pair.repo
        and document.get("task_id") == pair.task_id
        and sorted(document.get("features") or []) == list(pair.sorted_features)
    ):
        return document
    return None


def agent_ends(document: Mapping[str, Any] | None) -> tuple[AgentEnd, ...]:
    """Return how each agent ended, by upstream's document."""
    if document is None:
        return ()
    agents = document.get("agents") or {"solo": document.get("agent") or {}}
    return tuple(
        AgentEnd(
            agent=name,
            status=str(end.get("status") or "Error"),
            error=str(end.get("error") or ""),
            steps=int(end.get("steps") or 0),
            cost=float(end.get("cost") or 0.0),
        )
        for name, end in agents.items()
    )
