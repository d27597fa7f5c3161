"""The beginning of a start: one at a time, nothing missing, nothing mixed, the plan told."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from cooperflow import halt, runtime_dir, session_lock
from cooperflow.attempt import container_monitor
from cooperflow.errors import EngineError, UserError, listed
from cooperflow.experiment import dataset, fingerprint
from cooperflow.experiment.plan import Experiment, Plan
from cooperflow.images import rolling
from cooperflow.instrumentation import rate_limit
from cooperflow.jobs import budget, circuit_breaker, launcher_client, notification
from cooperflow.outcomes import publication
from cooperflow.session import estimate, preflight, preflight_checks
from cooperflow.session.preflight import Work
from cooperflow.tables import oracle_table


def start_session(plan: Plan, clone: Path, work: Work) -> str:
    """Make ready for ``work`` and return the plan as text.

    Raises:
        UserError: another start is at work, something is missing, or the experiment under a
            run name is another one than before.
    """
    session_lock.hold(plan.results, clone)
    docker_version = preflight.check(plan, work)
    if work.needs_cooperbench and not work.cluster:
        launcher_client.begin_launcher()
    _try_for_real(plan, work)
    halt.lift(plan.results)
    rolling.plan_use(plan, work.uses)
    circuit_breaker.forget(plan.results)
    notification.forget(plan)
    rate_limit.forget(plan.results)
    runtime_dir.sweep()
    _bring_to_now(plan)
    swept = _sweep(plan) if work.needs_engine and not work.cluster else 0
    root = Path(plan.config.dataset.dir)
    # A grading reads the data set too: it must be the one that the run was made with.
    if work.runs or work.evaluations:
        tasks = dataset.task_hashes(root, plan.pairs)
        touched = [*work.runs, *work.evaluations]
        own = (run.experiment.run_name for run in touched if not run.experiment.adopted)
        for name in dict.fromkeys(own):
            fingerprint.settle(plan.experiment(name), plan, tasks, docker_version)
    return _told(plan, work, swept)


def _try_for_real(plan: Plan, work: Work) -> None:
    """Before paid runs: a call of one token, a limit in a container, a Redis, ..."""
    paid = [run for run in work.runs if run.experiment.model.replay is None]
    if not paid or plan.config.preflight == "light":
        return
    found = preflight_checks.lines(plan, paid, engine=not work.cluster)
    bad = preflight_checks.show(found, lambda text: print(text, file=sys.stderr))
    if bad:
        raise UserError("Not started:\n" + "\n".join(f"  {line.name}: {line.text}" for line in bad))


def _bring_to_now(plan: Plan) -> None:
    """Take files from the future back, should the clock have been set back since.

    Snakemake would call every new output a failure, and remove it, for being older than those.
    """
    results, now = plan.results, time.time()
    documents = [path for run in plan.runs for path in run.folder(results).documents]
    documents += [results.gate, *(results.sentinel(image) for image in plan.images)]
    documents += [results.runs_csv, results.summary_csv]
    for path in documents:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime > now:
                os.utime(path, (now, now))


def _sweep(plan: Plan) -> int:
    """Remove the containers of earlier starts that are dead.

    On Modal that is all of them: no other start is at work on these results, and jobs here end
    with their start.
    """
    try:
        return container_monitor.sweep(plan.config.docker, session_lock.identity(plan.results))
    except EngineError:
        return 0


def _told(plan: Plan, work: Work, swept: int) -> str:
    lines = [f"pairs: {plan.choice}"]
    if work.pulls:
        lines.append(f"images to verify: {work.pulls} of {len(plan.images)}")
    if work.oracles:
        lines.append(f"oracle evaluations pending: {work.oracles}")
    if work.tables:
        lines += _table(plan, work)
    restored = [run for run in work.runs if publication.is_restorable(run.folder(plan.results))]
    if restored:
        lines.append(f"{len(restored)} of these runs are restored from their attempts at no cost.")
    paid = [run for run in work.runs if run.experiment.model.replay is None and run not in restored]
    if paid:
        lines += estimate.text(estimate.make(plan, paid), work.slots)
        lines += _budget(plan)
    if work.runs:
        lines.append(f"oracle: {oracle_table.summary(plan)}")
    waiting = [
        one.run_name
        for one in plan.experiments
        if one.adopted and not plan.results.experiment(one.run_name).exists()
    ]
    if waiting and not work.adopting:
        lines.append(f"Not taken over yet: {listed(waiting)}. `snakemake adopt` does it.")
    if swept:
        lines.append(f"Removed {swept} containers that a dead start had left.")
    failed = infra_errors(plan) if work.tables else 0
    if failed:
        lines.append(
            f"{failed} finished runs are infra_error; `make retry-infra` puts them back to be done."
        )
    return "\n".join(lines)


def _table(plan: Plan, work: Work) -> list[str]:
    """Return the table of pending and finished runs, as wide as its longest name."""
    labels = {one.run_name: _label(one) for one in plan.experiments}
    width = max(28, *(len(label) + 1 for label in labels.values()))
    lines = [f"{'run name':<{width}}{'to do':>7}{'done':>7}{'of':>6}"]
    for one in plan.experiments:
        to_do = sum(run.experiment.run_name == one.run_name for run in work.runs)
        done = sum(
            run.experiment == one and run.folder(plan.results).result.exists() for run in plan.runs
        )
        label = labels[one.run_name]
        lines.append(f"{label:<{width}}{to_do:>7}{done:>7}{len(plan.pairs):>6}")
    return [*lines, f"{'gradings':<{width}}{len(work.evaluations):>7}"]


def _label(one: Experiment) -> str:
    if one.adopted:
        return f"{one.run_name} (adopted)"
    return f"{one.run_name} (replay)" if one.model.replay else one.run_name


def _budget(plan: Plan) -> list[str]:
    """Return the lines about the budget, and leave what the jobs need to keep it."""
    if plan.config.limits.budget_usd is None:
        return []
    assumed = estimate.assumptions(plan)
    budget.remember(plan, assumed)
    lines = [text for text in [budget.line(plan)] if text]
    unknown = budget.uncounted(plan, assumed)
    if unknown:
        lines.append(f"budget: does not hold the cost of {listed(unknown)}, which is not known.")
    return lines


def infra_errors(plan: Plan) -> int:
    """Return how many finished runs ended as infra_error, by the last table."""
    text = plan.results.summary_csv
    if not text.is_file():
        return 0
    import pandas as pd

    try:
        return int(pd.read_csv(text)["infra_error"].sum())
    except (ValueError, KeyError):
        return 0
