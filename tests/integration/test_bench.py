"""A short `make bench`: each part on a small workload, checked for its figures, not for speed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import idle, parsing, plot, scale, sides, wave, workload
from bench.cpu import Group, measure

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")
# A little more than is asked for: the kernel counts a process and its group differently.
BURN = "import time\nwhile time.process_time() < 0.6: pass"


def test_bound_of_four_slots() -> None:
    assert sides.bound([4, 3, 2, 1, 5], slots=4) == 6
    assert sides.bound([2, 2, 2], slots=1) == 6
    assert sides.bound([]) == 0


def test_the_share_of_own_features_is_read_from_their_documents(tmp_path: Path) -> None:
    run = tmp_path / "runs/m-coop/coop/repo_task/1/f1_f2"
    run.mkdir(parents=True)
    (run / "eval.json").write_text('{"workflow": {"seconds": 6.0}}')
    agents = '{"agent1": {"seconds": 1.5}, "agent2": {"seconds": 0.5}}'
    (run / "own.json").write_text(f'{{"agents": {agents}}}')
    assert sides.evaluation_seconds(tmp_path) == (6.0, 2.0)


@needs_root
def test_usage_of_a_detached_process_is_counted(tmp_path: Path) -> None:
    detached = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {BURN!r}], start_new_session=True)"
    )
    cost = measure([sys.executable, "-c", detached], tmp_path, dict(os.environ), tmp_path / "log")
    assert cost.code == 0
    assert cost.cpu >= 0.5


@pytest.fixture
def second_version(tmp_path: Path) -> Iterator[Path]:
    """Control groups of the second version, where the machine has those of the first."""
    folder = tmp_path / "cgroup2"
    folder.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@needs_root
def test_the_second_version_of_control_groups_counts_too(second_version: Path) -> None:
    group = Group(second_version)
    subprocess.run([sys.executable, "-c", BURN], check=True, preexec_fn=group.enter)
    assert 0.5 <= group.close() < 5
    assert not group.path.exists()


@needs_root
def test_both_dry_runs_have_the_same_jobs(tmp_path: Path) -> None:
    ours, bare = parsing.dry_runs(tmp_path / "dry", 3)
    assert ours.code == bare.code == 0
    for name in ("ours", "bare"):
        output = (tmp_path / "dry" / name).read_text()
        counts = dict(line.split()[:2] for line in output.splitlines() if len(line.split()) == 2)
        jobs = [int(n) for rule, n in counts.items() if rule.startswith(("run_", "eval_"))]
        assert jobs == [3] * 6, output


@needs_root
@pytest.mark.slow
def test_stages_of_a_finished_experiment(tmp_path: Path) -> None:
    costs = scale.figures(tmp_path, "flash", models=1, first=10)
    assert set(scale.STAGES) | {"status"} < set(costs)


@needs_root
@pytest.mark.slow
def test_a_session_without_pending_jobs(tmp_path: Path) -> None:
    (start,) = idle.figures(tmp_path, 1, "flash", first=10)
    assert start.code == 0


@needs_root
@pytest.mark.docker
@pytest.mark.slow
def test_both_sides_have_the_same_outcomes(tmp_path: Path) -> None:
    settings = ("coop-comm",)  # of solo runs, tests/integration/test_adopted_runs.py
    work = workload.make(tmp_path, copies=1, turns=0, most=1, tasks=1)
    try:
        theirs, costs = sides.upstream(work, tmp_path / "u", "0", 1, settings)
        ours, times = sides.workflow(
            work, tmp_path / "w", "0", 1, own_features=False, settings=settings
        )
    finally:
        workload.untag(work)
    assert [cost.code for cost in costs] == [0] * 2
    assert theirs.passed == ours.passed == {"coop-comm": 1}
    assert len(times) == 1
    parts = [cost.wall for cost in costs * 3]  # as of three settings
    figures = {"upstream_parts_s": parts, "workflow_s": ours.wall, "bound_s": 1.0}
    plot.draw({"makespan": {"figures": {"runs": 1, "rounds": [figures]}}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.docker
def test_containers_of_a_wave_start_staggered_and_are_removed() -> None:
    result = wave.measure(0.5, containers=2)
    assert result.last > 0.5
    assert result.mean < result.last
    assert result.slowest <= result.last
