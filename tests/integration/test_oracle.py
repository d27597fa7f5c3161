"""Gold patches, evaluated by the real benchmark."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cooperflow.attempt import child_process
from cooperflow.jobs import evaluation_jobs
from cooperflow.jobs.evaluation_jobs import Repetition
from cooperflow.jobs.job import Try
from cooperflow.layout import Pair
from cooperflow.tables import oracle

PAIR = Pair("demo_textkit_task", 2, (1, 2))
INVENTORY = Pair("demo_inventory_task", 1, (2, 3))


def _break(patch: Path) -> None:
    """Make the gold patch do something else: its first added `return` returns nothing."""
    lines = patch.read_text().splitlines(keepends=True)
    for at, line in enumerate(lines):
        if line.startswith("+") and line[1:].lstrip().startswith("return "):
            indent = line[1 : len(line) - len(line[1:].lstrip())]
            lines[at] = f"+{indent}return None\n"
            patch.write_text("".join(lines))
            return
    raise AssertionError(f"{patch} adds no return")


@pytest.mark.docker
@pytest.mark.slow
def test_a_broken_gold_patch_is_found_and_reported(make_plan: Any, dataset: Path) -> None:
    plan = make_plan([(PAIR.repo, 2, [[1, 2]])])
    _break(dataset / PAIR.repo / "task2" / "feature1" / "feature.patch")
    child_process.prepare_environment()
    assert evaluation_jobs.OracleJob(plan, Repetition(PAIR, 1), Try(1, last=True)).perform() == 0
    (row,) = oracle.rows(plan)
    assert (row["status"], row["reason"]) == ("failed", "coop_gold_failed")
    assert row["solo_passed"] is True  # combined.patch is complete
    assert row["control_failed"] is True
    assert row["tests_run"] > 0
    assert "1 failed of 1 pairs" in oracle.write_table(plan)
    assert len(pd.read_csv(plan.results.oracle_csv)) == 1


BYTES = b"""\
diff --git a/notes.txt b/notes.txt
new file mode 100644
--- /dev/null
+++ b/notes.txt
@@ -0,0 +1 @@
+caf\xe9\r
"""
BYTES_TEST = b"""\
diff --git a/tests/test_bytes.py b/tests/test_bytes.py
new file mode 100644
--- /dev/null
+++ b/tests/test_bytes.py
@@ -0,0 +1,4 @@
+from pathlib import Path
+
+def test_bytes():
+    assert Path("notes.txt").read_bytes() == b"caf\\xe9\\r\\n"
"""


@pytest.mark.docker
@pytest.mark.slow
def test_patches_reach_the_tests_byte_for_byte(make_plan: Any, dataset: Path) -> None:
    """A file in latin-1 with carriage returns: upstream's own evaluation cannot read its patch."""
    plan = make_plan([(PAIR.repo, 2, [[1, 2]])])
    task = dataset / PAIR.repo / "task2"
    patches = (task / "combined.patch", task / "feature1" / "feature.patch")
    for path in patches:
        path.write_bytes(path.read_bytes() + BYTES)
    tests = task / "feature1" / "tests.patch"
    tests.write_bytes(tests.read_bytes() + BYTES_TEST)
    child_process.prepare_environment()
    assert evaluation_jobs.OracleJob(plan, Repetition(PAIR, 1), Try(1, last=True)).perform() == 0
    (row,) = oracle.rows(plan)
    assert (row["solo_passed"], row["coop_passed"], row["merge_status"]) == (True, True, "clean")
    assert row["patch_text"] == "line_endings;not_utf8"


FLAKY = """\
diff --git a/tests/test_flaky.py b/tests/test_flaky.py
new file mode 100644
--- /dev/null
+++ b/tests/test_flaky.py
@@ -0,0 +1,4 @@
+import os
+
+def test_now_and_then():
+    assert os.urandom(1)[0] % 2
"""


@pytest.mark.docker
@pytest.mark.slow
def test_a_flaky_test_is_found_by_repeating(make_plan: Any, dataset: Path) -> None:
    plan = make_plan([(PAIR.repo, 2, [[1, 2]])])
    tests = dataset / PAIR.repo / "task2" / "feature2" / "tests.patch"
    tests.write_text(tests.read_text() + FLAKY)
    child_process.prepare_environment()
    for number in range(1, 13):  # a coin: not found with chance 2^-22
        assert (
            evaluation_jobs.OracleJob(plan, Repetition(PAIR, number), Try(1, last=True)).perform()
            == 0
        )
        (row,) = oracle.rows(plan)
        if row["status"] == "flaky":
            break
    assert row["status"] == "flaky"
    assert row["flaky"] is True
    assert row["repeats"] == number >= 2


@pytest.mark.docker
@pytest.mark.slow
def test_snakemake_oracle_is_resumed_and_marks_the_runs(
    make_plan: Any, clone: Path, tmp_path: Path
) -> None:
    plan = make_plan([(INVENTORY.repo, 1, [[2, 3]])], oracle={"repeats": 1})
    file = tmp_path / "config.json"
    raw = plan.config.model_dump(mode="json")
    file.write_text(json.dumps({**raw, "models": {**raw["models"], "command-a": None}}))
    command = [str(Path(sys.executable).with_name("snakemake")), "--configfile", str(file)]
    # A session locks its clone, and other workers start sessions too.
    command += ["--directory", str(tmp_path), "-s", str(clone / "Snakefile")]
    command += ["--profile", str(clone / "profiles/default")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def snakemake(*arguments: str) -> str:
        result = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, cwd=clone, env=environment
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    # Ctrl-C while the pair is evaluated: a message, not a failed job.
    log = tmp_path / "interrupted.log"
    with log.open("wb") as stream:
        first = subprocess.Popen(
            [*command, "oracle"],
            stdout=stream,
            stderr=stream,
            cwd=clone,
            env=environment,
            start_new_session=True,
        )
    limit = time.monotonic() + 120
    # The log of the job, which it opens itself.
    while not list((tmp_path / "logs" / "oracle").rglob("*.log")) and time.monotonic() < limit:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(60) != 0
    text = log.read_text()
    assert "Interrupted: finished runs are kept. Start the same command again" in text
    assert "At least one job did not complete" not in text
    assert "Traceback" not in text
    snakemake("oracle")
    table = pd.read_csv(plan.results.oracle_csv)
    assert list(table["merge_status"]) == ["conflicts"]
    assert list(table["status"]) == ["ok"]
    assert "Nothing to be done" in snakemake("oracle", "-n")
    # One more repetition is one more job, not two.
    more = snakemake("oracle", "-n", "--config", "oracle={repeats: 2}")
    assert re.search(r"^oracle_pair +1$", more, re.MULTILINE)
