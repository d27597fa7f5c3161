"""Settings of Snakemake: what a session prints."""

from __future__ import annotations

import logging

from cooperflow import snakemake_setup


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("snakemake", logging.ERROR, __file__, 1, text, (), None)


def test_a_retried_attempt_and_an_interruption_do_not_read_as_failures() -> None:
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
