"""One attempt at a run: start cooperbench, watch it, end it, and keep what it left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic, layout, processes, runtime
from cooperflow.attempt import child, secrecy
from cooperflow.attempt.pace import Pace
from cooperflow.attempt.places import ENGINE_PATIENCE, DockerHere, ModalElsewhere, Place
from cooperflow.attempt.redis_server import RedisServer
from cooperflow.engine import containers, sandboxes
from cooperflow.engine.containers import EngineError, Labels
from cooperflow.engine.probe import full
from cooperflow.experiment import keys
from cooperflow.experiment.plan import Run
from cooperflow.outcomes import outcome, publish, usage
from cooperflow.outcomes.outcome import CallsEnd, Evidence

# How often a running attempt is looked at, seconds.
TICK = 0.1
# How often its containers and the engine are looked at meanwhile, seconds.
LOOK = 1.0


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
    pace: Pace | None = None

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
        redis, arguments = _redis(job, folder, stack)
        model = dict(agent_file)
        if job.replay:
            base = _replay(job, stack)
            model["config"]["model"]["model_kwargs"]["api_base"] = base
        config = job.folder / "agent.yaml"
        atomic.write_text(config, json.dumps(model, indent=2))
        command = child.Command(
            arguments=[*job.arguments, *arguments, "--agent-config", str(config)],
            log=job.folder / "cooperbench.log",
            stop_note=stop_note,
            labels=job.labels.as_dict(),
            tags=None if job.docker else sandboxes.tags(job.labels),
            run_arguments=job.run_arguments,
            sdk_arguments=job.sdk_arguments or {},
            environment=job.environment,
            model=job.run.experiment.model.model,
            key=job.key,
            calls=job.calls,
            pace=job.pace,
        )
        try:
            watched = watch(command, _place(job, stop_note), job.seconds)
        finally:
            secrecy.scrub(job.folder, job.key)
        return _evidence(job, watched, redis)


def watch(command: child.Command, place: Place, seconds: float) -> Watched:
    """Run cooperbench for at most ``seconds``; its processes and containers are gone afterwards.

    It is ended before its time when nothing good can come of it: when a container of it died,
    or the engine did. Each further model call would be paid for in vain.

    Raises:
        Interrupted: asked to end, or the owner has ended.
    """
    begun = time.monotonic()
    status: int | None = None
    timed_out = False
    process = child.start(command)
    try:
        place.begin()  # after the fork, which must not inherit a thread
        looked = begun
        while status is None:
            pid, code = os.waitpid(process, os.WNOHANG)
            if pid:
                status = code
                break
            now = time.monotonic()
            if now - begun > seconds and now - begun > _limit(command, seconds):
                timed_out = True
                break
            if now - looked > LOOK:
                looked = now
                if place.doomed():
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
        seen = place.end(ended)
    return Watched(
        exit_code=None if status is None else os.waitstatus_to_exitcode(status),
        timed_out=timed_out,
        seconds=time.monotonic() - begun,
        ended=ended,
        fates=seen.fates,
        engine_lost=seen.lost,
        engine_stalled=seen.stalled,
        disk_full=full(command.log.parent),
    )


def _place(job: Job, stop_note: Path) -> Place:
    if job.docker:
        return DockerHere(job.folder, job.labels, stop_note)
    setting = job.run.experiment.setting
    agents = 1 if setting.mode == "solo" else 2
    return ModalElsewhere(job.folder, job.labels, agents + ("--git" in setting.flags))


def _limit(command: child.Command, seconds: float) -> float:
    """Return the time limit with what our own pace has taken of it given back, seconds."""
    if command.pace is None or command.calls is None:
        return seconds
    held = usage.held(atomic.read_lines(command.calls))
    return max(seconds, min(seconds + held, keys.LONGEST_RUN))


def _redis(
    job: Job, folder: Path, stack: contextlib.ExitStack
) -> tuple[RedisServer | None, list[str]]:
    setting = job.run.experiment.setting
    if not setting.redis:
        return None, []
    if job.redis_url:
        return None, ["--redis", job.redis_url]
    gateway = _gateway() if setting.redis_in_containers else None
    server = RedisServer(folder, job.folder / "redis.log", gateway)
    stack.callback(server.end)
    server.wait()
    return server, ["--redis", server.url]


def _gateway() -> str | None:
    """Return the address at which containers reach this machine; None if nobody can say."""
    with contextlib.suppress(EngineError):
        client = containers.engine(ENGINE_PATIENCE)
        try:
            return containers.gateway(client)
        finally:
            client.close()
    return None


def _replay(job: Job, stack: contextlib.ExitStack) -> str:
    """Start a server that plays recordings in the model's place; return its URL."""
    port = job.folder / ".port"
    command = [sys.executable, str(layout.REPOSITORY / "demo" / "replay_server.py")]
    command += ["--recordings", str(_recordings(job)), "--port-file", str(port)]
    command += ["--ledger", str(job.folder / "ledger.jsonl")]
    with (job.folder / "replay.log").open("ab") as log:
        server = processes.spawn(command, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(port.unlink, missing_ok=True)
    stack.callback(processes.end, server)
    limit = time.monotonic() + 30
    while not port.exists() and server.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    base = f"http://127.0.0.1:{port.read_text().strip() if port.exists() else 9}"
    openai = job.run.experiment.model.model.startswith("openai/")
    return f"{base}/v1" if openai else f"{base}/v2/chat"


def _recordings(job: Job) -> Path:
    """Return the recordings of just this run if they lie apart, else all that there are.

    A coop agent's prompt does not name the other feature: only the folder tells two pairs apart.
    """
    pair = job.run.pair
    a, b = pair.sorted_features
    root = Path(str(job.replay))
    own = root / pair.repo / f"task{pair.task_id}" / f"f{a}_f{b}"
    setting = own / job.run.experiment.setting.name
    return next((place for place in (setting, own) if place.is_dir()), root)


def _evidence(job: Job, watched: Watched, redis: RedisServer | None) -> Evidence:
    document = upstream_document(job)
    records = atomic.read_lines(job.calls)
    calls = usage.calls(records)
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
        agents=outcome.agent_ends(document),
        calls=tuple(
            CallsEnd(
                last=thread[-1].kind,
                waited=usage.waited(thread, watched.ended),
                seconds=watched.ended - thread[0].start,
            )
            for thread in usage.threads(calls)
        ),
        containers_started=fates.started if job.docker and not watched.engine_lost else None,
        containers_died=fates.died,
        containers_oom=fates.oom,
        engine_lost=watched.engine_lost,
        engine_stalled=watched.engine_stalled,
        disk_full=watched.disk_full,
        image_missing=image_missing,
        redis_died=redis is not None and redis.died,
        step_limit=job.step_limit,
        held=usage.held(records),
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
