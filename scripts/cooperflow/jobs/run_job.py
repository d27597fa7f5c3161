"""A run's job from claim to result.json: what Snakemake starts, once per attempt."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from pathlib import Path
from typing import Any

from cooperflow import (
    atomic_io,
    halt,
    layout,
    locks,
    processes,
    redaction,
    runtime_dir,
    session_lock,
)
from cooperflow.attempt import container_monitor, supervisor
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, UserError
from cooperflow.experiment import fingerprint
from cooperflow.experiment.config_schema import Model
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import local_image
from cooperflow.instrumentation.rate_limit import RateLimit
from cooperflow.jobs import budget, circuit_breaker, notification
from cooperflow.jobs.attempt_number import DONE, HALTED, INTERRUPTED, TRY_AGAIN, Try, claim_seconds
from cooperflow.outcomes import judgement, publication, usage
from cooperflow.outcomes.judgement import Evidence, Verdict
from cooperflow.outcomes.records import AttemptRecord
from cooperflow.processes import Interrupted

# The longest pause that a provider's Retry-After can ask for, seconds.
LONGEST_PAUSE = 600


def perform(plan: Plan, run: Run, this: Try) -> int:
    """Do one attempt at ``run`` and return the exit code of the job."""
    folder = run.folder(plan.results)
    try:
        if orphaned := session_lock.orphaned(plan.results):
            print(f"{run.key}: not begun: {orphaned}.")
            return INTERRUPTED
        with locks.claim(plan.results.claims, run.key, claim_seconds(plan)):
            if atomic_io.read_json(folder.result) is not None:
                return DONE
            for place in (folder.path, *map(folder.attempt, folder.attempt_numbers())):
                atomic_io.remove_temporary_files(place)
            _redact_killed(run, folder)
            if publication.restore(run, folder) is not None:
                print(f"{run.key}: result.json was gone; put back from its attempt, nothing paid.")
                return DONE
            if this.number > 1:
                runtime_dir.remove_stale_files()
            _pause(plan, folder, this)
            with circuit_breaker.passage(plan, run):
                if halt.current(plan.results):
                    print(f"{run.key}: not started: no further run is started.")
                    return HALTED
                with budget.admission(plan, run) as refusal:
                    if not refusal:
                        begun = _begin(folder)
                if refusal:
                    return _over_budget(plan, run, refusal)
                return _attempt(plan, run, folder, this, begun)
    except Interrupted as why:
        print(f"{run.key}: ended: {why}")
        return INTERRUPTED


def _redact_killed(run: Run, folder: layout.RunFolder) -> None:
    """Remove the key from the files of attempts that were killed before they could do so."""
    for number in folder.attempt_numbers():
        record = atomic_io.read_json(folder.attempt(number) / layout.ATTEMPT)
        if isinstance(record, dict) and record.get("state") == "running":
            redaction.scrub(folder.attempt(number), key_of(run.experiment.model))


def _begin(folder: layout.RunFolder) -> AttemptRecord:
    """Make the folder of a further attempt and note there that it is running."""
    number = max(folder.attempt_numbers(), default=0) + 1
    folder.attempt(number).mkdir(parents=True)
    record = AttemptRecord(number, "running", time.time(), str(processes.this_process()))
    atomic_io.write_json(folder.attempt(number) / layout.ATTEMPT, record.as_dict())
    return record


def _over_budget(plan: Plan, run: Run, message: str) -> int:
    """Halt the session, unless another run has done so, and return the exit code of the job."""
    if not halt.current(plan.results) and halt.declare(
        plan.results, run.key, budget.REASON, message
    ):
        print(message)
        notification.send(plan, notification.BUDGET, message)
    return HALTED


def _attempt(
    plan: Plan, run: Run, folder: layout.RunFolder, this: Try, record: AttemptRecord
) -> int:
    number, started = record.number, record.started
    place = folder.attempt(number)
    image, trouble = _image(plan, run)
    document: dict[str, Any] | None = None
    upstream = place / "logs"
    try:
        if trouble is not None:
            evidence = trouble
        else:
            job = _job(plan, run, place)
            base = run.experiment.model.api_base
            evidence = supervisor.perform(job, fingerprint.agent_file(run.experiment, plan, base))
            document, upstream = supervisor.upstream_document(job), job.upstream
    except Interrupted:
        _note(place, dataclasses.replace(record, state="interrupted", ended=time.time()))
        raise
    verdict = judgement.judge_run(evidence)
    if evidence.detail:
        print(f"{run.key}: {evidence.detail}")
    _note(
        place,
        dataclasses.replace(
            record,
            state="ended",
            ended=time.time(),
            outcome=verdict.outcome,
            reason=verdict.reason,
            evidence=dataclasses.asdict(evidence),
        ),
    )
    circuit_breaker.note(plan.results, run, verdict.reason if verdict.again else "")
    if verdict.halts:
        message = _halt_message(run, verdict, place)
        first = halt.declare(plan.results, run.key, verdict.reason, message)
        print(message if first else f"{run.key}: refused as well: {verdict.reason}.")
        if first:
            notification.send(plan, notification.HALTED, message)
        return HALTED
    if verdict.again and not this.last:
        print(f"{run.key}: attempt {number}: {verdict.outcome} {verdict.reason}; tried again.")
        return TRY_AGAIN
    known = atomic_io.read_json(plan.results.experiment(run.experiment.run_name)) or {}
    publication.result(
        run,
        folder,
        number,
        upstream,
        document,
        verdict,
        evidence,
        image or None,
        known.get("fingerprint"),
        started,
    )
    print(f"{run.key}: {verdict.outcome or 'ready for its tests'} {verdict.reason}".rstrip())
    return DONE


def _image(plan: Plan, run: Run) -> tuple[str | None, Evidence | None]:
    """Return the id of the run's image if it is the verified one, else why it cannot be used.

    On Modal there is none to look at: the id is empty.
    """
    docker = plan.config.docker
    try:
        container_monitor.sweep(docker, session_lock.identity(plan.results), run.key)
        return local_image.ensure(plan, run.image) if docker else "", None
    except EngineError as error:
        words = f"Docker does not answer: {error}" if docker else str(error)
        return None, Evidence(False, engine_lost=True, detail=words)
    except UserError as error:
        return None, Evidence(False, image_missing=True, detail=str(error))


def _job(plan: Plan, run: Run, place: Path) -> supervisor.Job:
    config, setting = plan.config, run.experiment.setting
    a, b = run.pair.features
    model, agent = run.experiment.model, run.experiment.agent
    token = supervisor.new_token()
    logs = place.resolve() / "logs"
    arguments = [
        "run",
        "-n",
        run.experiment.run_name,
        "-m",
        model.model,
        "-a",
        agent.name,
    ]
    arguments += ["-r", run.pair.repo, "-t", str(run.pair.task_id), "-f", f"{a},{b}"]
    arguments += [*setting.flags, "--backend", config.backend]
    arguments += ["--dataset-dir", str(Path(config.dataset.dir).resolve()), "--log-dir", str(logs)]
    arguments += ["--no-auto-eval", "-c", "1"]
    environment = {"MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": str(config.limits.call_tries)}
    if agent.external:
        environment["COOPERBENCH_EXTERNAL_AGENTS"] = ",".join(agent.external)
    if agent.name == "claude_code" and model.api_base:
        environment["ANTHROPIC_BASE_URL"] = model.api_base
    rate = plan.limits(run.experiment).requests_per_minute
    own_network = None
    if agent.openhands:
        own_network = supervisor.OwnNetwork(agent.outside, config.limits.call_tries)
    network = config.containers.network
    limits, sdk_limits = containers.limits(
        config.containers, run.experiment.has_own_network(network)
    )
    return supervisor.Job(
        run=run,
        folder=place.resolve(),
        arguments=tuple(arguments),
        labels=Labels.new(session_lock.identity(plan.results), run.key, token),
        seconds=config.limits.run_seconds,
        environment=environment,
        key=key_of(model),
        image=run.image,
        step_limit=fingerprint.step_limit(run.experiment, plan),
        redis_url=config.redis.url,
        run_arguments=tuple(limits),
        sdk_arguments=sdk_limits,
        replay=str(Path(model.replay).resolve()) if model.replay else None,
        docker=config.docker,
        pace=RateLimit(plan.results.rate_limits / str(model.provider), rate) if rate else None,
        network=network,
        own_network=own_network,
    )


def key_of(model: Model) -> str | None:
    """Return the key of a model's provider; a replay takes any."""
    if model.replay is not None:
        return "replay"
    return redaction.key_value(model.api_key, os.environ)


def _pause(plan: Plan, folder: layout.RunFolder, this: Try) -> None:
    """Wait before a second or third try, longer if the provider asked for it."""
    if this.number == 1:
        return
    base = plan.config.limits.pause_seconds * 2 ** (this.number - 2) * random.uniform(0.5, 1.5)
    last = [publication.attempt_calls(folder.attempt(n)) for n in folder.attempt_numbers()[-1:]]
    asked = max((usage.asked_pause(calls, time.time()) for calls in last), default=0.0)
    seconds = max(base, min(asked, LONGEST_PAUSE))
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not halt.current(plan.results):
        processes.raise_if_orphaned()
        time.sleep(min(0.5, max(limit - time.monotonic(), 0)))


def _halt_message(run: Run, verdict: Verdict, place: Path) -> str:
    if verdict.reason == judgement.SETUP_ERROR:
        log = place / "cooperbench.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return (
            f"No further run is started: {verdict.reason} ({run.key}).\n"
            f"{lines[-1] if lines else ''}\n{halt.ADVICE[verdict.reason]} See {log}."
        )
    calls = [c for c in publication.attempt_calls(place) if c.kind != usage.ANSWERED]
    said = calls[-1].error if calls else ""
    advice = halt.ADVICE[verdict.reason].format(
        key=run.experiment.model.api_key or "(none is configured)",
        model=run.experiment.model_name,
    )
    return (
        f"No further run is started: {verdict.reason} ({run.key}).\n"
        f"The provider said: {said[:300]}\n{advice} Then start again: finished runs stay."
    )


def _note(place: Path, record: AttemptRecord) -> None:
    atomic_io.write_json(place / layout.ATTEMPT, record.as_dict())
