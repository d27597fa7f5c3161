"""Steps before a session's first job: lock, preflight, fingerprints, printed plan."""

from __future__ import annotations

import contextlib
import csv
import enum
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cooperflow import environment, session_state
from cooperflow.attempt import container_monitor
from cooperflow.engine import containers
from cooperflow.errors import EngineError, UserError, listed
from cooperflow.experiment import dataset, fingerprint
from cooperflow.experiment.plan import Experiment, Plan
from cooperflow.images import disk_space
from cooperflow.jobs import admission, launcher
from cooperflow.outcomes import run_result
from cooperflow.session import checks, estimate
from cooperflow.session.checks import Context, Work
from cooperflow.session.model_check import BAD, NOTE, Finding
from cooperflow.tables import oracle


class Level(enum.Enum):
    """QUICK checks only inspect; FULL checks also call a model or start a container or server."""

    QUICK = enum.auto()
    FULL = enum.auto()


@dataclass(frozen=True)
class Check:
    """A check and its level."""

    level: Level
    run: Callable[[Context], Iterator[Finding]]


CHECKS = (
    Check(Level.QUICK, checks.check_keys),
    Check(Level.QUICK, checks.check_environment),
    Check(Level.QUICK, checks.check_dataset),
    Check(Level.QUICK, checks.check_redis_program),
    Check(Level.QUICK, checks.check_disk),
    Check(Level.QUICK, checks.check_openhands),
    Check(Level.QUICK, checks.check_agent_modules),
    Check(Level.QUICK, checks.check_cluster),
    Check(Level.QUICK, checks.check_modal),
    Check(Level.QUICK, checks.check_docker),
    Check(Level.FULL, checks.check_modal_app),
    Check(Level.FULL, checks.check_containers),
    Check(Level.FULL, checks.check_open_files),
    Check(Level.FULL, checks.check_patches),
    Check(Level.FULL, checks.check_agent_config),
    Check(Level.FULL, checks.check_redis_server),
    Check(Level.FULL, checks.check_models),
)


def run_checks(context: Context, *levels: Level) -> Iterator[Finding]:
    """Yield the findings of the checks of ``levels`` (default: both) as they become known."""
    reported = set()
    for check in CHECKS:
        if check.level in (levels or Level):
            for finding in check.run(context):
                if finding not in reported:
                    yield finding
                reported.add(finding)


def require_quick(context: Context) -> str | None:
    """Run the quick checks and print their notes; return the version of the local Docker.

    Raises:
        UserError: the message lists all missing prerequisites and their remedies.
    """
    if not context.work.needs_engine:
        return None
    findings = list(run_checks(context, Level.QUICK))
    for finding in findings:
        if finding.state == NOTE:
            print(f"{finding.name}: {finding.text}", file=sys.stderr)
    _require(findings)
    if not context.has_local_engine:
        return None
    with contextlib.closing(containers.engine(10)) as client:
        return str(client.version()["Version"])


def require_full(context: Context) -> None:
    """Run the full checks before paid runs, unless `preflight` is `light`; print the findings.

    Raises:
        UserError: the message lists all failed checks and their remedies.
    """
    paid = tuple(run for run in context.work.runs if run.experiment.model.replay is None)
    if paid and context.plan.config.preflight == "full":
        _require(print_findings(run_checks(context, Level.FULL), sys.stderr))


def print_findings(findings: Iterable[Finding], stream: TextIO) -> Iterator[Finding]:
    """Print findings as they become known, one line each, and yield them."""
    for finding in findings:
        print(finding, file=stream, flush=True)
        yield finding


def failed_checks(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that prevent a session."""
    return [finding for finding in findings if finding.state == BAD]


def _require(findings: Iterable[Finding]) -> None:
    failures = failed_checks(findings)
    if failures:
        lines = (f"  {n}. {finding.title}: {finding.text}" for n, finding in enumerate(failures, 1))
        raise UserError("\n".join(["Cannot start. Missing prerequisites:", *lines]))


def start_session(plan: Plan, clone: Path, work: Work) -> str:
    """Prepare a session for ``work`` and return the text of its plan.

    Raises:
        UserError: another session is running, a prerequisite is missing, or the results under a
            run name were made by another configuration.
    """
    session_state.hold_lock(plan.results, clone)
    context = Context(plan, work)
    docker_version = require_quick(context)
    if work.needs_cooperbench and not work.cluster:
        launcher.start_launcher()
    require_full(context)
    session_state.clear(plan.results)
    disk_space.plan_use(plan, work.uses)
    environment.remove_stale_runtime_files()
    _repair_future_times(plan)
    removed = _remove_stale_containers(plan) if work.needs_engine and not work.cluster else 0
    _check_fingerprints(plan, work, docker_version)
    return plan_text(plan, work, removed)


def _check_fingerprints(plan: Plan, work: Work, docker_version: str | None) -> None:
    # An evaluation reads the data set too, which must be the same as for the run.
    runs = [*work.runs, *work.evaluations, *work.own_features]
    if not runs:
        return
    tasks = dataset.task_hashes(Path(plan.config.dataset.dir), plan.pairs)
    names = (run.experiment.run_name for run in runs if not run.experiment.adopted)
    for name in dict.fromkeys(names):
        fingerprint.write_or_compare(plan.experiment(name), plan, tasks, docker_version)


def _repair_future_times(plan: Plan) -> None:
    """Set modification times that are in the future to now, in case the clock was set back.

    Snakemake treats new outputs that are older than their inputs as failures and removes them.
    """
    results, now = plan.results, time.time()
    documents = [path for run in plan.runs for path in run.folder(results).documents]
    documents += [results.gate, *(results.sentinel(image) for image in plan.images)]
    documents += [results.runs_csv, results.summary_csv]
    for path in documents:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime > now:
                os.utime(path, (now, now))


def _remove_stale_containers(plan: Plan) -> int:
    """Remove the containers of sessions that have ended; return their number.

    On Modal these are all sandboxes of the results folder, since jobs end with their session.
    """
    try:
        return container_monitor.remove_stale_containers(
            plan.config.docker, session_state.results_identity(plan.results)
        )
    except EngineError:
        return 0


def plan_text(plan: Plan, work: Work, removed_containers: int) -> str:
    """Return the text of the plan, which a session prints before its first job."""
    lines = [f"pairs: {plan.choice}"]
    if work.pulls:
        lines.append(f"images to verify: {work.pulls} of {len(plan.images)}")
    if work.oracles:
        lines.append(f"oracle evaluations pending: {work.oracles}")
    if work.tables:
        lines += _run_table(plan, work)
    restored = [run for run in work.runs if run_result.is_restorable(run, run.folder(plan.results))]
    if restored:
        lines.append(f"{len(restored)} of these runs are restored from their attempts at no cost.")
    paid = [run for run in work.runs if run.experiment.model.replay is None and run not in restored]
    if paid:
        lines += estimate.describe(estimate.make(plan, paid), work.slots)
        lines += _budget_lines(plan)
    if work.runs:
        lines.append(f"oracle: {oracle.summary(plan)}")
    not_adopted = [
        experiment.run_name
        for experiment in plan.experiments
        if experiment.adopted and not plan.results.experiment(experiment.run_name).exists()
    ]
    if not_adopted and not work.adopting:
        lines.append(f"Not adopted yet: {listed(not_adopted)}. Run `snakemake adopt`.")
    if removed_containers:
        lines.append(f"Removed {removed_containers} containers of an earlier session.")
    failures = count_infra_errors(plan) if work.tables else 0
    if failures:
        lines.append(f"{failures} finished runs are infra_error; `make retry-infra` requeues them.")
    return "\n".join(lines)


def _run_table(plan: Plan, work: Work) -> list[str]:
    """Return the lines of the table of pending and finished runs."""
    labels = {experiment.run_name: _label(experiment) for experiment in plan.experiments}
    width = max(28, *(len(label) + 1 for label in labels.values()))
    lines = [f"{'run name':<{width}}{'pending':>9}{'done':>7}{'of':>6}"]
    for experiment in plan.experiments:
        pending = sum(run.experiment.run_name == experiment.run_name for run in work.runs)
        finished = sum(
            run.experiment == experiment and run.folder(plan.results).result.exists()
            for run in plan.runs
        )
        label = labels[experiment.run_name]
        lines.append(f"{label:<{width}}{pending:>9}{finished:>7}{len(plan.pairs):>6}")
    lines.append(f"{'evaluations':<{width}}{len(work.evaluations):>9}")
    if work.own_features:
        lines.append(f"{'own features':<{width}}{len(work.own_features):>9}")
    return lines


def _label(experiment: Experiment) -> str:
    if experiment.adopted:
        return f"{experiment.run_name} (adopted)"
    return f"{experiment.run_name} (replay)" if experiment.model.replay else experiment.run_name


def _budget_lines(plan: Plan) -> list[str]:
    """Return the lines about the budget, and save the assumed costs for the jobs."""
    if plan.config.limits.budget_usd is None:
        return []
    assumed = estimate.assumptions(plan)
    admission.save_assumptions(plan, assumed)
    lines = [text for text in [admission.describe_budget(plan)] if text]
    unknown = admission.find_uncounted(plan, assumed)
    if unknown:
        lines.append(f"budget: excludes the cost of {listed(unknown)}, which is unknown.")
    return lines


def count_infra_errors(plan: Plan) -> int:
    """Return the number of runs that summary.csv counts as infra_error."""
    table = plan.results.summary_csv
    if not table.is_file():
        return 0
    try:
        with table.open(newline="", encoding="utf-8") as stream:  # importing pandas takes 0.6 s
            return sum(int(row["infra_error"]) for row in csv.DictReader(stream))
    except (ValueError, KeyError, TypeError):
        return 0
