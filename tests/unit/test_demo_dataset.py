"""Tests of the demo's data set: its format, its patches, its graders, and that recordings fit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from replay_client import DATASET, DEMO, RECORDINGS

from replay.recordings import KINDS, SUBMIT, Recording, Role, load

sys.path.insert(0, str(DEMO))

SUBSET = json.loads((DATASET / "subsets/demo.json").read_text())
TASKS = sorted(path for path in DATASET.glob("*/task*"))
FEATURES = [(task, feature) for task in TASKS for feature in sorted(task.glob("feature*"))]
PAIRS = [
    (entry["repo"], entry["task_id"], pair) for entry in SUBSET["tasks"] for pair in entry["pairs"]
]
RECORDED = load(RECORDINGS)
# Agents that send a message when its receiver has no turn left.
LATE = {Role("demo_textkit_task", 2, (2,), "coop-comm", "agent2")}
DOCUMENTS = [json.loads(path.read_text("utf-8")) for path in sorted(RECORDINGS.glob("*/**/*.json"))]


def name_of(value: Any) -> str:
    """A test's id for a path."""
    return str(value.relative_to(DATASET)) if isinstance(value, Path) else str(value)


def git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """git in the directory, without this machine's own settings."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/"}
    return subprocess.run(
        ["git", *arguments], cwd=directory, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the task's source tree, as a git repository."""
    copy = tmp_path / "repo"
    shutil.copytree(request.node.callspec.params["task"] / "repo", copy)
    git(copy, "init", "--quiet")
    git(copy, "add", "--all")
    return copy


def test_the_size_of_the_demo() -> None:
    """Two tasks, four pairs (one out of order), and every feature."""
    assert len(TASKS) == 2 and len(PAIRS) == 4
    assert any(first > second for _, _, (first, second) in PAIRS)
    for repo, task_id, pair in PAIRS:
        assert repo.endswith("_task")
        for feature in pair:
            assert (DATASET / repo / f"task{task_id}/feature{feature}/feature.md").is_file()


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_a_task_has_its_files(task: Path) -> None:
    """The files upstream reads, the grader executable, nothing of the solutions in the image."""
    for name in ("Dockerfile", "runner.sh", "combined.patch", ".dockerignore"):
        assert (task / name).is_file()
    assert (task / "runner.sh").stat().st_mode & 0o111
    assert "FROM cooperflow/demo-base:bookworm" in (task / "Dockerfile").read_text()
    exceptions = [
        line for line in (task / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert exceptions == ["!repo", "!runner.sh"]


@pytest.mark.parametrize(("task", "feature"), FEATURES, ids=name_of)
def test_patches_apply(task: Path, feature: Path, tree: Path) -> None:
    """The gold patch, the tests, and both together; the tests bring test files only."""
    patches = [str(feature / name) for name in ("feature.patch", "tests.patch")]
    for patch in patches:
        applied = git(tree, "apply", "--check", "--whitespace=error-all", patch)
        assert applied.returncode == 0, applied.stderr
    applied = git(tree, "apply", "--check", *patches)
    assert applied.returncode == 0, applied.stderr
    changed = re.findall(r"^\+\+\+ b/(.*)$", Path(patches[1]).read_text(), re.MULTILINE)
    assert changed and all(re.fullmatch(r"tests/test_\w+\.py", path) for path in changed)
    gold = re.findall(r"^\+\+\+ b/(.*)$", Path(patches[0]).read_text(), re.MULTILINE)
    assert not any(path.startswith("tests/") for path in gold)


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_the_combined_patch_applies(task: Path, tree: Path) -> None:
    """With all features in it."""
    applied = git(tree, "apply", "--check", "--whitespace=error-all", str(task / "combined.patch"))
    assert applied.returncode == 0, applied.stderr


@pytest.mark.parametrize(("task", "feature"), FEATURES, ids=name_of)
def test_files_named_in_the_text_are_those_of_the_patch(task: Path, feature: Path) -> None:
    """The text's list of modified files is true."""
    text = (feature / "feature.md").read_text("utf-8")
    names = re.findall(r"^- `(.+)`$", text.split("**Files Modified**")[1], re.MULTILINE)
    patch = (feature / "feature.patch").read_text("utf-8")
    assert names == sorted(re.findall(r"^\+\+\+ b/(.*)$", patch, re.MULTILINE))


def test_recordings_agree_with_their_sources() -> None:
    """The recordings match their sources."""
    build = [sys.executable, str(RECORDINGS / "build.py"), "--check"]
    process = subprocess.run(build, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


def test_every_run_of_the_demo_is_recorded() -> None:
    """Twelve runs, twenty agents, and no others."""
    expected: set[tuple[str, int, tuple[int, ...], str, str]] = set()
    for repo, task_id, pair in PAIRS:
        first, second = sorted(pair)
        expected.add((repo, task_id, (first, second), "solo", "solo"))
        for kind in KINDS[1:]:
            expected.add((repo, task_id, (first,), kind, "agent1"))
            expected.add((repo, task_id, (second,), kind, "agent2"))
    roles = [recording.role for recording in RECORDED]
    assert {(r.repo, r.task, r.features, r.kind, r.agent) for r in roles} == expected
    assert len(roles) == len(expected) == 20


def test_the_runs_end_in_different_ways() -> None:
    """The outcomes that the demo demonstrates."""
    outcomes: dict[str, dict[str, str]] = {}
    for document in DOCUMENTS:
        pair = f"{document['repo']} {document['features']}"
        assert (
            outcomes.setdefault(pair, {}).setdefault(document["kind"], document["outcome"])
            == document["outcome"]
        )
    assert sorted(tuple(outcomes[pair][kind] for kind in KINDS) for pair in outcomes) == [
        ("pass", "fail: tests_failed", "fail: empty_patch"),
        ("pass", "pass", "fail: merge_conflict"),
        ("pass", "pass", "pass"),
        ("pass", "pass", "pass: lead_alone"),
    ]


@pytest.mark.parametrize("recording", RECORDED, ids=lambda recording: str(recording.role))
def test_a_recording_is_plausible(recording: Recording) -> None:
    """Five to ten turns, a plain submit at the end, messages only where there is messaging."""
    commands = [command for turn in recording.turns for command in turn.commands]
    assert 5 <= len(recording.turns) <= 10
    assert all(turn.text and turn.commands for turn in recording.turns)
    assert commands[-1] == SUBMIT and commands.count(SUBMIT) == 1
    sends = sum("send_message" in command for command in commands)
    late = sum("send_message" in " ".join(turn.commands) for turn in recording.turns if turn.after)
    assert sends == (2 if recording.role.kind == "coop-comm" else 0) + late
    assert late == (recording.role in LATE)
    other = {"agent1": "agent2", "agent2": "agent1"}.get(recording.role.agent)
    for command in commands:
        assert not re.search(r"reset --hard|rm -rf|git init", command)
        messages = re.findall(
            r"send_message (?:--wait )?(\w+) <<'MSG'\n(.+?)\nMSG$", command, re.DOTALL
        )
        assert ("send_message" in command) == bool(messages)
        assert all(to == other for to, _ in messages)
    submits = any("gh pr create" in command for command in commands)
    pushes = any("git push" in command for command in commands)
    assert submits == pushes
