"""Settings of Snakemake: what a session prints."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from snakemake.logging import DefaultFilter
from snakemake.settings.enums import Quietness
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from cooperflow import layout, snakemake_setup


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("snakemake", logging.ERROR, __file__, 1, text, (), None)


def test_a_retried_attempt_and_an_interruption_are_not_shown_as_failures() -> None:
    messages = snakemake_setup._Messages()
    block = "RuleException:\nCalledProcessError: Command 'x' returned non-zero exit status"
    assert not messages.filter(_record(f"{block} 75."))
    assert messages.filter(_record(f"{block} 1."))
    end = _record("WorkflowError:\nAt least one job did not complete successfully.")
    assert messages.filter(end)
    assert "At least one" in end.getMessage()
    messages.filter(_record("Terminating processes on user request, this might take some time."))
    assert not messages.filter(_record(f"{block} 130."))
    assert messages.filter(end)
    assert end.getMessage().startswith("Interrupted: finished runs are kept.")


@pytest.mark.parametrize("quiet", [set(), {Quietness.RULES}, {Quietness.HOST}, {Quietness.ALL}])
@pytest.mark.parametrize("dryrun", [False, True])
def test_only_jobs_that_snakemake_would_hide_are_skipped(
    dryrun: bool, quiet: set[Quietness]
) -> None:
    settings = OutputSettings(dryrun=dryrun, quiet=quiet)
    job = _record("Rule: run_solo, Jobid: 1")
    job.event = LogEvent.JOB_INFO
    is_shown = DefaultFilter(quiet, False, False, dryrun, False).filter(job)
    assert snakemake_setup.hides_jobs(settings) == (dryrun and not is_shown)


def test_a_plugin_of_the_logger_gets_each_job() -> None:
    settings = OutputSettings(
        dryrun=True, quiet={Quietness.RULES}, log_handler_settings={"rich": None}
    )
    assert not snakemake_setup.hides_jobs(settings)


@pytest.mark.parametrize(
    ("cores", "nodes", "slots"), [(2, None, 2), (8, None, 4), (None, 40, 4), (2, 40, 4)]
)
def test_jobs_of_one_machine_limit_the_runs(
    cores: int | None, nodes: int | None, slots: int
) -> None:
    limits = {"run_slots": 4}
    workflow = SimpleNamespace(
        resource_settings=SimpleNamespace(cores=cores, nodes=nodes),
        global_resources={"run_slots": SimpleNamespace(value=4)},
        register_resource=limits.__setitem__,
    )
    snakemake_setup.limit_runs(workflow)
    assert limits == {"run_slots": slots}


def test_only_rules_with_containers_are_tried_again() -> None:
    names = ("run_solo", "eval_solo", "own_coop", "image", "oracle_pair", "aggregate", "adopt")
    rules = [SimpleNamespace(name=name, restart_times=None) for name in names]
    prefixes = ("run_", "eval_", "own_", "image", "oracle_pair")
    snakemake_setup.retry_only(SimpleNamespace(rules=rules), prefixes)
    assert [rule.name for rule in rules if rule.restart_times == 0] == ["aggregate", "adopt"]


def test_the_snakefile_imports_no_statistics() -> None:
    code = (
        "import sys; from cooperflow import layout, processes;"
        "from cooperflow.experiment import config, plan;"
        "print([m for m in ('scipy', 'statsmodels', 'vl_convert') if m in sys.modules])"
    )
    scripts = str(layout.REPOSITORY / "scripts")
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": scripts},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "[]"
