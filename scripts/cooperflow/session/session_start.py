"""Start of a session: locks, preflight, fingerprints and the printed plan."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from cooperflow import runtime_dir, session_state
from cooperflow.attempt import container_monitor
from cooperflow.errors import EngineError, listed
from cooperflow.experiment import dataset, fingerprint
from cooperflow.experiment.plan import Experiment, Plan
from cooperflow.images import disk_space
from cooperflow.instrumentation import rate_limit
from cooperflow.jobs import admission, launcher_client, notification
from cooperflow.outcomes import run_result
from cooperflow.session import estimate, preflight
from cooperflow.session.checks import Context, Work
from cooperflow.tables import oracle_table


def start_session(plan: Plan, clone: Path, work: Work) -> str:
    """Prepare a session for ``work`` and return its plan as text.

    Raises:
        UserError: another session is running, a prerequisite is missing, or the results under a
            run name were made by another configuration.
    """
    session_state.hold_lock(plan.results, clone)
    context = Context(plan, work)
    docker_version = preflight.require_quick(context)
    if work.needs_cooperbench and not work.cluster:
        launcher_client.start_launcher()
    preflight.require_full(context)
    session_state.clear_halt(plan.results)
    disk_space.plan_use(plan, work.uses)
    admission.reset_breaker(plan.results)
    notification.reset(plan)
    rate_limit.reset(plan.results)
    runtime_dir.remove_stale_files()
    _repair_future_times(plan)
    removed = _remove_stale_containers(plan) if work.needs_engine and not work.cluster else 0
    _check_fingerprints(plan, work, docker_version)
    return plan_text(plan, work, removed)


def _check_fingerprints(plan: Plan, work: Work, docker_version: str | None) -> None:
    # An evaluation reads the data set too, which must be the same as in the run.
    runs = [*work.runs, *work.evaluations, *work.own_features]
    if not runs:
        return
    tasks = dataset.task_hashes(Path(plan.config.dataset.dir), plan.pairs)
    names = (run.experiment.run_name for run in runs if not run.experiment.adopted)
    for name in dict.fromkeys(names):
        fingerprint.settle(plan.experiment(name), plan, tasks, docker_version)


def _repair_future_times(plan: Plan) -> None:
    """Set modification times in the future to now, after the clock was set back.

    Snakemake removes new outputs that are older than their inputs as failures.
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
    """Remove the containers of dead sessions; return their number.

    On Modal these are all containers: no other session uses these results, and jobs end with their
    session.
    """
    try:
        return container_monitor.remove_stale_containers(
            plan.config.docker, session_state.results_identity(plan.results)
        )
    except EngineError:
        return 0


def plan_text(plan: Plan, work: Work, removed_containers: int) -> str:
    """Return the plan that a session prints before its first job."""
    lines = [f"pairs: {plan.choice}"]
    if work.pulls:
        lines.append(f"images to verify: {work.pulls} of {len(plan.images)}")
    if work.oracles:
        lines.append(f"oracle evaluations pending: {work.oracles}")
    if work.tables:
        lines += _run_table(plan, work)
    restored = [run for run in work.runs if run_result.is_restorable(run.folder(plan.results))]
    if restored:
        lines.append(f"{len(restored)} of these runs are restored from their attempts at no cost.")
    paid = [run for run in work.runs if run.experiment.model.replay is None and run not in restored]
    if paid:
        lines += estimate.text(estimate.make(plan, paid), work.slots)
        lines += _budget_lines(plan)
    if work.runs:
        lines.append(f"oracle: {oracle_table.summary(plan)}")
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
    """Return the table of pending and finished runs, as wide as its longest name."""
    labels = {experiment.run_name: _label(experiment) for experiment in plan.experiments}
    width = max(28, *(len(label) + 1 for label in labels.values()))
    lines = [f"{'run name':<{width}}{'pending':>9}{'done':>7}{'of':>6}"]
    for experiment in plan.experiments:
        pending = sum(run.experiment.run_name == experiment.run_name for run in work.runs)
        done = sum(
            run.experiment == experiment and run.folder(plan.results).result.exists()
            for run in plan.runs
        )
        label = labels[experiment.run_name]
        lines.append(f"{label:<{width}}{pending:>9}{done:>7}{len(plan.pairs):>6}")
    lines.append(f"{'evaluations':<{width}}{len(work.evaluations):>9}")
    if work.own_features:
        lines.append(f"{'own features':<{width}}{len(work.own_features):>9}")
    return lines


def _label(experiment: Experiment) -> str:
    if experiment.adopted:
        return f"{experiment.run_name} (adopted)"
    return f"{experiment.run_name} (replay)" if experiment.model.replay else experiment.run_name


def _budget_lines(plan: Plan) -> list[str]:
    """Return the lines about the budget, and write the assumed costs that the jobs need."""
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
    """Return the number of finished runs that the last table lists as infra_error."""
    table = plan.results.summary_csv
    if not table.is_file():
        return 0
    import pandas as pd

    try:
        return int(pd.read_csv(table)["infra_error"].sum())
    except (ValueError, KeyError):
        return 0
