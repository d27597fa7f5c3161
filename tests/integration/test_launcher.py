"""The launcher: the modules that it imports in advance exist."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_client import REPOSITORY

from cooperflow.jobs import launcher


@pytest.mark.parametrize(
    "name", [*launcher.RUN_MODULES, *launcher.TABLE_MODULES.values(), *launcher.LATE_MODULES]
)
def test_modules_imported_in_advance_exist(name: str) -> None:
    """A missing name would be skipped, and each job would be slow without a message."""
    assert importlib.import_module(name)


FIRST_CALL = """
import json, os, sys
from cooperflow.attempt import child_process
from cooperflow.jobs import launcher
child_process.prepare_environment()
launcher._import_modules(launcher.RUN_MODULES)
threads = len(os.listdir("/proc/self/task"))
before = set(sys.modules)
import litellm
for model in sys.argv[1:]:
    if not os.fork():  # as for an attempt
        try:
            litellm.completion(
                model=model,
                messages=[{"role": "user", "content": "?"}],
                api_base="http://127.0.0.1:9",
                api_key="x",
                max_retries=0,
            )
        except Exception:  # nobody listens there
            pass
        print(json.dumps([threads, sorted(set(sys.modules) - before)]), flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_first_call_imports_little() -> None:
    """Each fork pays for what litellm leaves to its first call; and none inherits a thread."""
    models = ["command-a-03-2025", "openai/any", "gemini/gemini-2.0-flash"]
    environment = {**os.environ, "PYTHONPATH": "scripts"}
    result = subprocess.run(
        [sys.executable, "-c", FIRST_CALL, *models],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    answers = [json.loads(line) for line in result.splitlines()[-len(models) :]]
    assert len(answers) == len(models)
    for threads, imported in answers:
        assert threads == 1
        assert imported, "no call was made"
        assert [name for name in imported if not name.startswith("litellm.")] == []
        assert len(imported) < 60, imported


# As `make table` and the rules do with the tables of a small experiment.
TABLES = """
import json, os, sys
from pathlib import Path
from cooperflow.jobs import launcher
launcher._import_modules((*launcher.TABLE_MODULES.values(), *launcher.LATE_MODULES))
threads = len(os.listdir("/proc/self/task"))
import synthetic
plan = synthetic.make_plan(Path(sys.argv[1]), "lite")  # imports yaml; forks get the plan as JSON
before = set(sys.modules)
synthetic.finish(plan)
for module in launcher.TABLE_MODULES.values():
    if "oracle" not in module:
        sys.modules[module].perform(plan)
print(json.dumps([threads, sorted(set(sys.modules) - before)]))
"""


def test_the_jobs_for_tables_find_their_packages_imported(tmp_path: Path) -> None:
    """Each fork would import again what the launcher for tables leaves out."""
    result = subprocess.run(
        [sys.executable, "-c", TABLES, str(tmp_path / "results")],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "scripts:tests/support"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    threads, imported = json.loads(result.stdout.splitlines()[-1])
    assert threads == 1
    standard = sys.stdlib_module_names | {"cooperflow"}
    assert [name for name in imported if name.partition(".")[0] not in standard] == []


CLIENT = """
import json, sys
sys.argv = ["aggregate"]
from cooperflow.jobs import launcher
print(json.dumps([n for n in sys.modules if n.partition(".")[0] not in sys.stdlib_module_names]))
"""


def test_the_client_imports_the_standard_library_only() -> None:
    env = {**os.environ, "PYTHONPATH": "scripts"}
    result = subprocess.run(
        [sys.executable, "-S", "-c", CLIENT],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert {name.partition(".")[0] for name in json.loads(result.stdout)} <= {
        "__main__",
        "cooperflow",
    }
