"""The launcher: the modules that it imports in advance exist."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest
from experiment_client import REPOSITORY

from cooperflow.jobs import launcher


@pytest.mark.parametrize("name", launcher.MODULES)
def test_what_is_warmed_exists(name: str) -> None:
    """A missing name would be skipped, and each job would be slow without a message."""
    assert importlib.import_module(name)


FIRST_CALL = """
import json, os, sys
from cooperflow.attempt import child_process
from cooperflow.jobs import launcher
child_process.prepare_environment()
launcher._import_modules()
threads = len(os.listdir("/proc/self/task"))
before = set(sys.modules)
import litellm
try:
    litellm.completion(
        model=sys.argv[1],
        messages=[{"role": "user", "content": "?"}],
        api_base="http://127.0.0.1:9",
        api_key="x",
        max_retries=0,
    )
except Exception:  # nobody listens there
    pass
print(json.dumps([threads, sorted(set(sys.modules) - before)]))
"""


@pytest.mark.parametrize("model", ["command-a-03-2025", "openai/any", "gemini/gemini-2.0-flash"])
def test_a_first_call_imports_little(model: str) -> None:
    """Each fork pays for what litellm leaves to its first call; and none inherits a thread."""
    environment = {**os.environ, "PYTHONPATH": "scripts"}
    told = subprocess.run(
        [sys.executable, "-c", FIRST_CALL, model],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    threads, imported = json.loads(told.splitlines()[-1])
    assert threads == 1
    assert [name for name in imported if not name.startswith("litellm.")] == []
    assert len(imported) < 60, imported
