"""Supervisor of an attempt or evaluation: runs, watches and ends the child process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, environment, layout, processes, redaction, session_state
from cooperflow.attempt import child_process, container_monitor
from cooperflow.attempt.attempt import (
    Attempt,
    Services,
    attempt_secrets,
    new_token,
    read_model_kwargs,
    start_for_containers,
    start_replay_server,
    start_store,
)
from cooperflow.attempt.container_monitor import (
    ENGINE_SECONDS,
    ContainerMonitor,
    ContainerReport,
    remove_containers,
)
from cooperflow.attempt.services import RedisServer, Upstream, ping_store
from cooperflow.engine import containers, endpoint, modal_sandboxes
from cooperflow.engine.containers import Labels, Network
from cooperflow.errors import EngineError, StoreError, UserError
from cooperflow.experiment import config_schema
from cooperflow.experiment.plan import Plan
from cooperflow.images import verification
from cooperflow.layout import Pair
from cooperflow.outcomes import run_result, usage
from cooperflow.outcomes.judgement import CallsEnd, Evidence
from cooperflow.upstream import result_files

# Interval at which interruption and time limit are checked, seconds.
POLL_SECONDS = 0.1
# Interval at which containers and engine are checked, seconds.
CHECK_SECONDS = 1.0
# A file system with less free space than this counts as full, bytes: a document may not fit.
FULL = 1_000_000


@dataclass(frozen=True)
class ProcessReport:
    """The end of a child process, and the state of its containers and of the machine.

    disk_full: the file system of the results or of the containers is full.
    """

    exit_code: int | None
    timed_out: bool
    seconds: float
    ended: float
    containers: ContainerReport
    disk_full: bool


def run_attempt(attempt: Attempt) -> Evidence:
    """Run an attempt to its end and return the evidence. No process or container remains.

    Raises:
        Interrupted: this process was asked to end, or its session has ended.
    """
    with environment.scratch_folder() as scratch, contextlib.ExitStack() as stack:
        stop_note = scratch / "stopped"
        stop_note.touch()
        model = attempt.experiment.model
        agent_file: dict[str, Any] = attempt.agent_file()
        if model.replay:
            base = start_replay_server(str(attempt.recordings), attempt.folder, model.model, stack)
            agent_file["config"]["model"]["model_kwargs"]["api_base"] = base
        try:
            services = _start_services(attempt, agent_file, scratch, stack)
        except (EngineError, StoreError, UserError) as error:
            # Without its network or store, a run would not have the setting that its name states.
            remove_containers(attempt.labels)
            is_engine_lost = isinstance(error, EngineError)
            return Evidence(
                document=False,
                engine_lost=is_engine_lost,
                store_unavailable=not is_engine_lost,
                detail=redaction.redact(str(error), attempt.key),
            )
        command = _command(attempt, agent_file, services, stop_note)
        try:
            report = run_watched(
                command,
                _create_monitor(attempt, stop_note),
                lambda: _time_limit(attempt),
                lambda: services.died,
            )
            gateway_died = services.gateway_died
            requested = _count_requested_containers(attempt, command)
        finally:
            if services.gateway:
                services.gateway.end()  # this records the last answer
            redaction.redact_files(attempt.folder, attempt_secrets(attempt.plan, model))
        evidence = _evidence(attempt, report, services.redis, gateway_died)
        return dataclasses.replace(evidence, containers_asked=requested)


def _command(
    attempt: Attempt, agent_file: Mapping[str, Any], services: Services, stop_note: Path
) -> child_process.Command:
    """Write the agent config and return the cooperbench command."""
    config = attempt.folder / "agent.yaml"
    atomic_io.write_text(config, json.dumps(agent_file, indent=2))
    settings = attempt.plan.config.containers
    limits, sdk_limits = endpoint.limits(
        settings, attempt.experiment.has_own_network(settings.network)
    )
    # If there is a gateway, only it has the key, keeps the rate limit and writes the call log.
    direct = services.gateway is None
    return child_process.Command(
        arguments=[*attempt.arguments, *services.arguments, "--agent-config", str(config)],
        log=attempt.folder / "cooperbench.log",
        stop_note=stop_note,
        labels=attempt.labels.as_dict(),
        tags=None if attempt.is_docker else modal_sandboxes.tags(attempt.labels),
        run_arguments=[*limits, *services.run_arguments],
        sdk_arguments=sdk_limits,
        environment={**attempt.environment, **services.environment},
        model=attempt.experiment.model.model,
        key=attempt.key if direct else None,
        calls=attempt.call_log if direct else None,
        rate_limit=attempt.rate_limit if direct else None,
        unread=attempt.folder / layout.UNREAD,
        return_tool_plan=attempt.experiment.model.return_tool_plan,
    )


def _count_requested_containers(attempt: Attempt, command: child_process.Command) -> int | None:
    """Return how many containers agents requested by the docker program, None if by the SDK."""
    if attempt.experiment.agent.name not in config_schema.BY_COMMAND:
        return None
    with contextlib.suppress(OSError):
        return len(command.run_note.read_bytes().splitlines())
    return 0


def run_watched(
    command: child_process.Command,
    monitor: ContainerMonitor,
    limit: Callable[[], float],
    has_failed: Callable[[], bool] = lambda: False,
) -> ProcessReport:
    """Run cooperbench for at most ``limit()`` seconds, then remove its processes and containers.

    It is ended early when it can no longer succeed, because a container or the engine died or
    ``has_failed`` is true. Further calls would cost money without any benefit. After it has ended
    by itself or by its limit, signals wait until the next call.

    Raises:
        Interrupted: this process was asked to end, or its session has ended.
    """
    processes.allow_interrupts()
    start, longest = time.monotonic(), limit()
    status: int | None = None
    timed_out = False
    process = child_process.start(command)
    try:
        monitor.start()  # after the fork, which must not inherit a thread
        checked = start
        while status is None:
            pid, code = os.waitpid(process, os.WNOHANG)
            if pid:
                status = code
                processes.defer_interrupts()  # its result exists and only has to be published
                break
            now = time.monotonic()
            if now - start > longest:
                longest = limit()
            if now - start > longest:
                timed_out = True
                processes.defer_interrupts()
                break
            if now - checked > CHECK_SECONDS:
                checked = now
                if has_failed() or monitor.has_failed():
                    break
            processes.raise_if_orphaned()
            processes.wait_for_end(process, POLL_SECONDS)
    finally:
        end = time.time()
        processes.kill_group(process)
        if status is None:
            with contextlib.suppress(ChildProcessError):
                os.kill(process, signal.SIGKILL)
                _, status = os.waitpid(process, 0)
        report = monitor.stop()
    return ProcessReport(
        exit_code=None if status is None else os.waitstatus_to_exitcode(status),
        timed_out=timed_out,
        seconds=time.monotonic() - start,
        ended=end,
        containers=report,
        disk_full=report.storage_full or is_full(command.log.parent),
    )


def _create_monitor(attempt: Attempt, stop_note: Path) -> ContainerMonitor:
    expected = _count_agents(attempt) + attempt.experiment.setting.git
    return container_monitor.create_monitor(
        attempt.is_docker, attempt.folder, attempt.labels, stop_note, expected
    )


def _count_agents(attempt: Attempt) -> int:
    return 1 if attempt.experiment.setting.mode == "solo" else 2


def _time_limit(attempt: Attempt) -> float:
    """Return the time limit, extended by the time that calls waited for the rate limit, seconds."""
    if attempt.rate_limit is None:
        return attempt.seconds
    delay = usage.rate_limit_delay(atomic_io.read_lines(attempt.call_log))
    return max(attempt.seconds, min(attempt.seconds + delay, config_schema.LONGEST_RUN))


def _start_services(
    attempt: Attempt, agent_file: Mapping[str, Any], scratch: Path, stack: contextlib.ExitStack
) -> Services:
    experiment = attempt.experiment
    setting, model = experiment.setting, experiment.model
    if experiment.agent.openhands:
        upstream = Upstream(
            model.model,
            attempt.key,
            read_model_kwargs(agent_file),
            attempt.plan.config.limits.call_tries,
            attempt.call_log,
            attempt.rate_limit,
            model.return_tool_plan,
        )
        return start_for_containers(attempt, upstream, scratch, stack)
    network = _create_network(attempt) if attempt.is_docker else None
    if not setting.redis:
        return Services()
    if network is None or not experiment.store_in_containers:
        return start_store(attempt, scratch, stack)
    services = start_store(attempt, scratch, stack, network)
    if setting.git:
        return services  # upstream itself connects the agents' containers
    return dataclasses.replace(services, run_arguments=[f"--network={network.name}"])


def _create_network(attempt: Attempt) -> Network | None:
    """Create the attempt's network if its setting needs one, or find the configured network.

    Upstream's git server would otherwise create the network, and Docker's error would be lost.
    """
    labels, is_internal = attempt.labels, not attempt.has_outside_network
    if attempt.experiment.setting.git:
        return containers.create_network(containers.git_network_name(labels), labels, is_internal)
    if not attempt.experiment.store_in_containers:
        return None
    configured = attempt.plan.config.containers.network
    if configured not in (None, "none"):
        return containers.find_network(str(configured))
    return containers.create_network(containers.own_network_name(labels), labels, is_internal)


def _evidence(
    attempt: Attempt, report: ProcessReport, redis: RedisServer | None, gateway_died: bool
) -> Evidence:
    document = run_result.read_upstream_document(attempt.run, attempt.folder)
    records = atomic_io.read_lines(attempt.call_log)
    calls = usage.calls(records)
    agents, threads = result_files.agent_ends(document), usage.threads(calls)
    recorded = attempt.experiment.agent.name in config_schema.RECORDED
    image_missing = False
    engine_lost, counts = report.containers.engine_lost, report.containers.counts
    if attempt.is_docker and not engine_lost and not counts.started:
        with contextlib.suppress(EngineError):
            client = containers.engine(ENGINE_SECONDS)
            image_missing = containers.image_id(client, attempt.run.image) is None
            client.close()
    return Evidence(
        document=document is not None,
        # Upstream writes its result after its agents have ended, so they met the limit.
        timed_out=report.timed_out and document is None,
        exit_code=report.exit_code,
        seconds=report.seconds,
        agents=agents,
        silent=max((len(agents) or _count_agents(attempt)) - len(threads), 0) if recorded else 0,
        calls=tuple(
            CallsEnd(
                last=thread[-1].kind,
                waited=usage.waiting_seconds(thread, report.ended),
                seconds=report.ended - thread[0].start,
                refused_setting=usage.is_output_setting(thread[-1].error),
                withheld=thread[-1].is_withheld,
                unreadable=thread[-1].has_unreadable_command,
            )
            for thread in threads
        ),
        containers_started=counts.started if attempt.is_docker and not engine_lost else None,
        containers_died=counts.died,
        containers_oom=counts.oom,
        exec_refused=counts.refused,
        engine_lost=engine_lost,
        engine_stalled=report.containers.engine_stalled,
        disk_full=report.disk_full,
        image_missing=image_missing,
        redis_died=(redis is not None and redis.died) or _has_lost_store(attempt),
        store_ended_by_agent=redis is not None and redis.port > 0 and redis.ended_by_client,
        gateway_died=gateway_died,
        patch_unread=(attempt.folder / layout.UNREAD).exists(),
        step_limit=attempt.step_limit,
        cut_answers=sum(call.has_reached_output_limit for call in calls),
        rate_limit_delay=usage.rate_limit_delay(records),
    )


def _has_lost_store(attempt: Attempt) -> bool:
    """Return whether the attempt used the store at `redis.url` and this no longer answers."""
    url = attempt.plan.config.redis.url
    if not url or not attempt.experiment.setting.redis:
        return False
    try:
        ping_store(url)
    except StoreError:
        return True
    return False


def is_full(folder: Path) -> bool:
    """Return whether the file system of ``folder`` is full; some do not report their size."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return True
    if not status.f_blocks:
        return False
    return status.f_bavail * status.f_frsize < FULL or status.f_favail == 0 < status.f_files


@dataclass(frozen=True)
class Subject:
    """Input of an evaluation: patches under upstream's file names, and a result.json."""

    key: str  # its name in messages and on its containers
    run_name: str
    mode: str  # solo, coop, team
    pair: Pair
    files: Mapping[str, Path]


def run_evaluation(plan: Plan, subject: Subject, folder: Path) -> dict[str, Any] | None:
    """Run upstream's tests on the patches; return its eval.json, None if the evaluation broke.

    ``folder`` receives the document, the log and the engine's events of this evaluation. It is
    packed into an archive unless the evaluation broke.
    """
    pair = subject.pair
    logs = folder / "logs"
    input_folder = logs / subject.run_name / subject.mode / pair.folder
    input_folder.mkdir(parents=True)
    for name, path in subject.files.items():
        (input_folder / name).symlink_to(os.path.relpath(path.resolve(), input_folder.resolve()))
    labels = Labels.new(
        session_state.results_identity(plan.results), f"eval {subject.key}", new_token()
    )
    with environment.scratch_folder() as scratch:
        stop_note = scratch / "stopped"
        stop_note.touch()
        try:
            _prepare_evaluation(plan, labels, pair)
        except (EngineError, UserError) as error:
            print(error)
            return None
        report = run_watched(
            child_process.Command(
                arguments=_evaluation_arguments(plan, subject, logs),
                log=folder / "cooperbench.log",
                stop_note=stop_note,
                labels=labels.as_dict(),
                tags=None if plan.config.docker else modal_sandboxes.tags(labels),
                sdk_arguments=endpoint.limits(plan.config.containers)[1],
                command_seconds=plan.config.limits.test_seconds,
            ),
            container_monitor.create_monitor(plan.config.docker, folder, labels, stop_note, None),
            lambda: float(plan.config.limits.eval_seconds),
        )
    document = _replace_surrogates(atomic_io.read_json(input_folder / layout.EVAL))
    with contextlib.suppress(OSError):
        (input_folder / layout.EVAL).replace(folder / layout.EVAL)
    shutil.rmtree(logs, ignore_errors=True)
    failures = {
        "time limit": report.timed_out,
        "disk full": report.disk_full,
        "docker": report.containers.engine_lost
        or report.containers.engine_stalled > report.seconds / 2,
        "container died": report.containers.counts.died > 0,
        "out of memory": report.containers.counts.oom > 0,
        f"exit code {report.exit_code}": bool(report.exit_code),
        "no complete document": not isinstance(document, dict),
    }
    reasons = [name for name, is_true in failures.items() if is_true]
    if reasons:
        print(f"{subject.key}: evaluation broke: {', '.join(reasons)}; see {folder}")
        return None
    with contextlib.suppress(OSError):  # a folder can be read too
        atomic_io.pack_folder(folder)
    return document


def _replace_surrogates(document: Any) -> Any:
    """Return a document with unpaired surrogates replaced, since UTF-8 cannot encode them.

    They represent bytes that are not UTF-8 in a merged patch, which upstream quotes.
    """
    text = json.dumps(document, ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace"))


def _prepare_evaluation(plan: Plan, labels: Labels, pair: Pair) -> None:
    """Remove containers of earlier tries, and provide the verified image.

    Upstream uses any image with the name, and pulls a missing one.
    """
    container_monitor.remove_stale_containers(plan.config.docker, labels.results, labels.run)
    if plan.config.docker:
        verification.ensure_verified(plan, pair.image)


def _evaluation_arguments(plan: Plan, subject: Subject, logs: Path) -> list[str]:
    pair = subject.pair
    a, b = pair.features
    arguments = ["eval", "-n", subject.run_name, "-r", pair.repo, "-t", str(pair.task_id)]
    arguments += ["-f", f"{a},{b}", "--backend", plan.config.backend]
    arguments += ["--dataset-dir", str(Path(plan.config.dataset.dir).resolve())]
    return [*arguments, "--log-dir", str(logs.resolve()), "-c", "1"]
