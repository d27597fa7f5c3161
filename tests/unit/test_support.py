"""The helpers of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import experiment_client
import process_groups
import pytest

from cooperflow import processes


def test_a_command_of_the_tests_that_times_out_leaves_no_process(tmp_path: Path) -> None:
    """A cluster's job that Snakemake waits for would outlive the test otherwise."""
    script = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(subprocess.TimeoutExpired):
        experiment_client.run_group(["sh", "-c", script], 1, tmp_path, os.environ)
    child = int((tmp_path / "pid").read_text())
    experiment_client.wait_for(lambda: processes._start_mark(child) is None)


def test_a_process_that_left_its_group_ends_too(tmp_path: Path) -> None:
    script = f"setsid sleep 300 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(subprocess.TimeoutExpired):
        process_groups.run_group(["sh", "-c", script], 1, tmp_path)
    child = int((tmp_path / "pid").read_text())
    assert processes._start_mark(child) is None
