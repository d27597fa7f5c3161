"""Images and graders of the demo's data set."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replay_client import DATASET

TASKS = sorted(path for path in DATASET.glob("*/task*"))


def describe(value: Any) -> str:
    """Return the id of a test for a path."""
    return str(value.relative_to(DATASET)) if isinstance(value, Path) else str(value)


def is_docker_available() -> bool:
    """Return whether a Docker daemon and the demo's base image are available."""
    if not shutil.which("docker"):
        return False
    command = ["docker", "image", "inspect", "cooperflow/demo-base:bookworm"]
    return subprocess.run(command, capture_output=True).returncode == 0


needs_docker = pytest.mark.skipif(
    not is_docker_available(),
    reason="no Docker daemon, or no base image (demo/base-image.sh makes it)",
)
LABEL = "cooperflow.test=demo-dataset"


def run(image: str, script: str, mount: Path | None = None) -> str:
    """The output of a shell script in a new container without network, removed afterwards."""
    volume = ["-v", f"{mount}:/task:ro"] if mount else []
    result = subprocess.run(
        [
            *["docker", "run", "--rm", "--init", "--network", "none", "--label", LABEL],
            *[*volume, image, "bash", "-c", script],
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, (result.returncode, result.stdout, result.stderr)
    return result.stdout


@pytest.fixture(scope="module")
def images() -> Iterator[dict[Path, str]]:
    """The tasks' images, under names of this test's own."""
    tags = {task: f"cooperflow-test/{task.parent.name}:{task.name}" for task in TASKS}
    for task, tag in tags.items():
        build = ["docker", "build", "--quiet", "--network", "none", "--tag", tag, str(task)]
        subprocess.run(build, check=True, capture_output=True, timeout=300)
    yield tags
    subprocess.run(["docker", "image", "rm", *tags.values()], capture_output=True)


@needs_docker
@pytest.mark.docker
@pytest.mark.parametrize("task", TASKS, ids=describe)
def test_the_image(task: Path, images: dict[Path, str]) -> None:
    """One commit, always the same; a clean tree; the package's own tests pass; no solutions."""
    script = """
        cd /workspace/repo && git rev-list --count HEAD && git rev-parse HEAD
        git status --porcelain && python3 -m pytest -q -p no:cacheprovider | tail -n 1
        find / -xdev -name 'feature.patch' -o -xdev -name 'combined.patch'
    """
    lines = run(images[task], script).splitlines()
    assert lines[0] == "1"
    commits = {
        "demo_inventory_task": "ab09b90799da86602eea2934b591d00fee4a3c4b",
        "demo_textkit_task": "ea0c93f4e2f01e2f945306bae49d611bbb3ca4df",
    }
    assert lines[1] == commits[task.parent.name]
    assert re.fullmatch(r"\d+ passed in .*", lines[2]) and len(lines) == 3


@needs_docker
@pytest.mark.docker
@pytest.mark.parametrize("task", TASKS, ids=describe)
def test_gold_patches_pass_and_nothing_else_does(task: Path, images: dict[Path, str]) -> None:
    """Each feature's tests: fail without it, pass with its gold patch and the combined one."""
    script = "mkdir -p /patches; cp /task/combined.patch /patches\n"
    expected = []
    for feature in sorted(task.glob("feature*")):
        script += f"cp /task/{feature.name}/*.patch /patches\n"
        for patch in ("", "feature.patch", "combined.patch"):
            script += (
                f"runner.sh tests.patch {patch} >/tmp/out 2>&1; echo {feature.name}:{patch}:$?\n"
            )
            script += "grep -Eq ' (passed|failed) in|, [0-9]+ passed in' /tmp/out || cat /tmp/out\n"
            expected.append(f"{feature.name}:{patch}:{0 if patch else 1}")
    assert run(images[task], script, task).split() == expected


@needs_docker
@pytest.mark.docker
def test_a_wrong_patch_fails_before_the_tests(images: dict[Path, str]) -> None:
    """A patch that does not apply, and an empty one: exit code not 0, no test ran, tree clean."""
    task = TASKS[0]
    script = """
        mkdir -p /patches; cp /task/feature1/tests.patch /patches; : > /patches/empty.patch
        sed 's/summary/nonsense/' /task/feature1/feature.patch > /patches/wrong.patch
        for name in empty wrong; do
            runner.sh tests.patch $name.patch >/tmp/out 2>&1 && echo $name accepted
            grep passed /tmp/out
        done
        cd /workspace/repo && git status --porcelain && echo end
    """
    assert run(images[task], script, task) == "end\n"
