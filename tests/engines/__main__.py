"""Run the demo and the engine tests on each engine of the matrix, and write the figures."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import docker as sdk
import yaml

from cooperflow import layout
from cooperflow.engine import containers

from . import private

# Tests of what may differ between engines: limits, labels, events, networks, images.
TESTS = (
    "tests/integration/test_engine_notes.py",
    "tests/integration/test_preflight.py",
    "tests/integration/test_upstream_patches.py",
)
COLUMNS = ("engine", "image store", "cgroup", "demo", "seconds", "image content", "engine tests")
# Results that must be the same on every engine.
OUTCOME = ("run_name", "repo", "task_id", "features", "outcome", "reason", "caveat")


@dataclass(frozen=True)
class Row:
    """The figures of one engine."""

    engine: str
    store: str
    cgroup: str
    outcomes: Mapping[tuple[str, ...], tuple[str, ...]]
    seconds: float
    content: str
    tests: str
    passed: bool


def measure(host: str, name: str) -> Row:
    """Run the demo and the tests on an engine."""
    client = sdk.DockerClient(host)
    info = client.info()
    driver = dict(info.get("DriverStatus") or []).get("driver-type", info.get("Driver"))
    private.docker(host, "image", "inspect", private.BASE_IMAGE)
    content = containers.image_hash(client.images.get(private.BASE_IMAGE).attrs)
    environment = {**os.environ, "DOCKER_HOST": host}
    results = layout.REPOSITORY / "results" / f"engine-{name}"
    shutil.rmtree(results, ignore_errors=True)
    config = private.ROOTS / f"{name}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    demo = yaml.safe_load((layout.REPOSITORY / "config/demo.yaml").read_text(encoding="utf-8"))
    demo["results"] = str(results.relative_to(layout.REPOSITORY))
    config.write_text(yaml.safe_dump(demo), encoding="utf-8")
    start = time.monotonic()
    script = [sys.executable, "scripts/commands/demo.py", str(config)]
    code = subprocess.call(script, cwd=layout.REPOSITORY, env=environment)
    seconds = time.monotonic() - start
    outcomes = _outcomes(results / "runs.csv")
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "docker", *TESTS]
    result = subprocess.run(
        pytest, cwd=layout.REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    print(result.stdout[-3000:])
    words = re.sub(r" in .*", "", result.stdout.strip().splitlines()[-1]).strip("= ")
    shutil.rmtree(results, ignore_errors=True)
    version = str(info.get("ServerVersion"))
    cgroup = f"v{info.get('CgroupVersion')}"
    passed = not code and not result.returncode
    return Row(version, str(driver), cgroup, outcomes, seconds, content, words, passed)


def _outcomes(path: Path) -> dict[tuple[str, ...], tuple[str, ...]]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as stream:
        rows = [tuple(row[name] for name in OUTCOME) for row in csv.DictReader(stream)]
    return {row[:4]: row[4:] for row in rows}


def table(rows: list[Row]) -> str:
    """Return the figures as a Markdown table; the first row is the reference."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join('---' for _ in COLUMNS)} |"]
    for row in rows:
        counts = [outcome[0] for outcome in row.outcomes.values()]
        same = "same outcomes" if row.outcomes == rows[0].outcomes else "OTHER OUTCOMES"
        demo = f"{counts.count('pass')} pass, {counts.count('fail')} fail; {same}"
        content = "same" if row.content == rows[0].content else "OTHER"
        cells = (row.engine, row.store, row.cgroup, demo, f"{row.seconds:.0f}", content, row.tests)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(rows: list[Row], path: Path | None) -> str:
    """Return the table of the engines so far, which is also written to ``path``."""
    text = table(rows)
    if path:
        path.write_text(f"{text}\n", encoding="utf-8")
    return text


def main() -> int:
    """Run the matrix; return 0 if every engine gives the same results and passes the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="pattern of the releases")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    own = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    rows: list[Row] = []
    for release in private.RELEASES:
        if fnmatch.fnmatch(release.suite, arguments.only or "*"):
            with private.engine(release) as host:
                private.copy_image(private.BASE_IMAGE, host)
                rows.append(measure(host, release.suite))
            write(rows, arguments.out)
    rows.append(measure(own, "own"))
    print(write(rows, arguments.out))
    same = all((r.outcomes, r.content) == (rows[0].outcomes, rows[0].content) for r in rows)
    return 0 if same and all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
