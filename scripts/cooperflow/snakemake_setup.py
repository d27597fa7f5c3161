"""Settings and patches of the Snakemake process, applied while the Snakefile is parsed.

Each function's docstring states its reason. tests/contract/test_snakemake.py checks the Snakemake
internals that they use.
"""

from __future__ import annotations

import _thread
import gc
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cooperflow import environment, processes
from cooperflow.errors import UserError
from cooperflow.experiment.config_schema import Config
from cooperflow.jobs.job import INTERRUPTED, TRY_AGAIN


def collect_garbage_rarely() -> None:
    """Collect garbage only every 50,000 new objects, since those of a large DAG all stay alive.

    With Python's default of 700, garbage collection takes a fifth of a session's start.
    """
    gc.set_threshold(50_000)


def hand_to_jobs(config: Config, on_a_node: bool) -> None:
    """Set the variables that jobs inherit: the checked config, the session, the launcher.

    Args:
        on_a_node: this Snakemake process executes a single job on a cluster's node.

    Raises:
        UserError: the cluster did not pass the session's environment to the job.
    """
    os.environ[environment.CONFIG] = config.model_dump_json()
    environment.make_portable(os.environ)
    if on_a_node:
        if environment.OWNER not in os.environ:
            raise UserError(
                "The cluster passes no environment to its jobs (Slurm: sbatch --export=ALL does)."
            )
        os.environ[environment.NODE] = str(processes.this_process())
        # A launcher would end with the job that started it and interrupt other jobs.
        os.environ[environment.LAUNCHER] = "off"
    else:
        os.environ.pop(environment.NODE, None)
        os.environ[environment.OWNER] = str(processes.this_process())
        os.environ[environment.LAUNCHER] = config.launcher


def limit_providers(workflow: Any, limits: Mapping[str, int]) -> None:
    """Limit each provider's concurrent runs; `--resources provider_NAME=...` takes precedence."""
    for name, slots in limits.items():
        if name not in workflow.global_resources:
            workflow.register_resource(name, slots)


def limit_runs(workflow: Any) -> None:
    """Limit concurrent runs to --jobs, since a run occupies no core (rules/runs.smk).

    To be called when a session starts, because Snakemake may not know the number earlier.
    """
    cores = workflow.resource_settings.cores
    slots = workflow.global_resources.get("run_slots").value
    if workflow.resource_settings.nodes is None and cores and isinstance(slots, int):
        workflow.register_resource("run_slots", min(slots, cores))


class _Messages(logging.Filter):
    """Filter of Snakemake's log for messages that only look like failures."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupted = False

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith("Terminating processes on user request"):
            self.interrupted = True
        if self.interrupted and "At least one job did not complete successfully" in text:
            record.args = ()
            record.msg = (
                "Interrupted: finished runs are kept. Start the same command again to continue."
            )
        # The job has printed the reason, and Snakemake prints that it tries again.
        if f"returned non-zero exit status {TRY_AGAIN}" in text:
            return False
        ends = ("died with <Signals.SIGINT", f"returned non-zero exit status {INTERRUPTED}")
        return not (self.interrupted and any(end in text for end in ends))


def shorten_messages() -> None:
    """Hide the exception of an attempt that is retried; report an interruption as such."""
    from snakemake.logging import logger

    for old in [entry for entry in logger.filters if type(entry).__name__ == _Messages.__name__]:
        logger.removeFilter(old)
    logger.addFilter(_Messages())


def hides_jobs(settings: Any) -> bool:
    """Return whether a dry run with Snakemake's output ``settings`` prints no job.

    Plugins of `--logger` decide for themselves.
    """
    from snakemake.settings.enums import Quietness

    plugins = bool(settings.log_handler_settings)
    return settings.dryrun and Quietness.RULES in settings.quiet and not plugins


def skip_hidden_jobs(workflow: Any) -> None:
    """Skip the description of jobs in a dry run that does not print them.

    Snakemake formats each description and then drops it, which takes a fifth of a dry run of lite.
    """
    if hides_jobs(workflow.output_settings):
        from snakemake.jobs import Job

        Job.log_info = lambda *arguments, **options: None


def handle_sigterm_aside() -> None:
    """Have Snakemake handle SIGTERM in a thread.

    Its handler waits for a lock that the interrupted thread may hold, and then the session hangs
    forever. A halt, `make drain` and clusters send SIGTERM. `threading.Thread` cannot be used,
    because its start takes a lock as well.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    handle = JobScheduler.exit_gracefully

    def handle_aside(self: Any, *arguments: Any) -> None:
        _thread.start_new_thread(handle, (self, *arguments))

    JobScheduler.exit_gracefully = handle_aside


def record_text_parameters() -> None:
    """Have Snakemake record the parameters of jobs without pandas.

    If pandas is installed, Snakemake imports it after the first job to recognize data frames, which
    takes 0.2 s of processor time and 32 MB. All parameters of these rules are text.
    """
    from snakemake.persistence import PersistenceBase

    PersistenceBase._serialize_param = property(lambda self: self._serialize_param_builtin)


def retry_only(workflow: Any, prefixes: tuple[str, ...]) -> None:
    """Apply the profile's retries only to rules whose name starts with one of ``prefixes``.

    `retries: 0` in a rule has no effect, because Snakemake treats it as not set.
    """
    for rule in workflow.rules:
        if not rule.name.startswith(prefixes):
            rule.restart_times = 0


def restore_resources(workflow: Any, profiles: Path) -> None:
    """Restore the shipped profile's value of each resource that the command line does not set.

    Snakemake lets `--resources a=1` replace all resources of a profile, and `--default-resources`
    likewise (snakemake#3429): evaluations and pulls would be unlimited.
    """
    if workflow.remote_exec:
        return  # a single job on a cluster's node, with the resources that its session set
    # The executor is not known yet, but a local one turns --jobs into --cores.
    cluster = workflow.resource_settings.nodes is not None and not workflow.output_settings.dryrun
    profile = _profile(profiles / ("slurm" if cluster else "default"))
    for name, value in _assignments(profile, "resources").items():
        if name not in workflow.global_resources:
            workflow.register_resource(name, int(value))
    if cluster:
        from snakemake.resources import Resources

        defaults = workflow.resource_settings._parsed_default_resources
        shipped = dict(Resources.default("full").items())
        for name, value in _assignments(profile, "default-resources").items():
            # Snakemake adds defaults for memory, disk and the temporary folder.
            if name not in defaults or _is_same(defaults[name], shipped.get(name)):
                defaults[name] = int(value)


def _is_same(resource: Any, other: Any) -> bool:
    return other is not None and resource.raw == other.raw


def _profile(folder: Path) -> Mapping[str, Any]:
    document: Mapping[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return document


def _assignments(profile: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return a profile's NAME=VALUE entries as a mapping."""
    pairs = (entry.partition("=") for entry in profile.get(key) or ())
    return {name: value for name, _, value in pairs}
