"""A session makes what is requested and unfinished, whatever happened before."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from experiment_client import INVENTORY, TEXTKIT
from simulated import Job, Row, Simulation

from cooperflow import atomic_io, layout, redo
from cooperflow.experiment.plan import Plan

ROWS: list[Row] = [
    (INVENTORY, 1, 1, 2),
    (INVENTORY, 1, 1, 3),
    (INVENTORY, 1, 2, 3),
    (TEXTKIT, 2, 1, 2),
    (TEXTKIT, 2, 1, 3),
    (TEXTKIT, 2, 2, 3),
]
SETTINGS = ("solo", "coop-comm", "coop-nocomm")


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    return Simulation(tmp_path)


def outputs(jobs: list[Job], rules: str) -> set[str]:
    return {output for job in jobs if job.rule.startswith(rules) for output in job.outputs}


def finish(simulation: Simulation, *targets: str) -> list[Job]:
    """Do a complete session and return its jobs."""
    jobs = simulation.jobs(*targets)
    simulation.perform(jobs, random.Random(1))
    return jobs


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder except Snakemake's own cache, with its size and time."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "iocache" not in path.parts]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def test_a_pair_added_while_the_gate_is_old(simulation: Simulation) -> None:
    """Snakemake does not run what is needed through an existing `ancient` file alone (#4166)."""
    simulation.write_config(ROWS[:1], ["solo"])
    finish(simulation)
    simulation.write_config([ROWS[0], ROWS[3]], ["solo"])
    jobs = finish(simulation)
    # The task is new: its image is verified before its run.
    assert {job.rule for job in jobs} >= {"image", "images_verified", "run_solo", "eval_solo"}
    gate = simulation.folder / simulation.plan.results.gate
    os.utime(gate, (1, 1))
    simulation.write_config([ROWS[0], ROWS[1], ROWS[3]], ["solo"])
    jobs = simulation.jobs()
    assert outputs(jobs, "run_") == {
        f"results/runs/command-a-solo/solo/{INVENTORY}/1/f1_f3/result.json"
    }
    assert outputs(jobs, "eval_") == {
        f"results/runs/command-a-solo/solo/{INVENTORY}/1/f1_f3/eval.json"
    }
    simulation.perform(jobs, random.Random(1))
    assert simulation.jobs() == []


@pytest.mark.parametrize("target", ["all", "results/summary.csv", "results/report/index.html"])
def test_a_removed_document_is_regenerated(simulation: Simulation, target: str) -> None:
    simulation.write_config(ROWS[:2], ["solo"])
    finish(simulation)
    run = simulation.plan.runs[0].folder(simulation.plan.results)
    for removed, rules in ((run.eval, "eval_"), (run.result, "run_")):
        (simulation.folder / removed).unlink()
        jobs = finish(simulation, target)
        assert outputs(jobs, rules) == {str(removed)}
        finish(simulation)
        assert simulation.jobs() == []


def test_evaluations_go_before_the_runs_of_many_settings(simulation: Simulation) -> None:
    settings = {f"solo-{number}": ["--setting", "solo"] for number in range(11)}
    simulation.write_config(ROWS[:1], SETTINGS)
    document = yaml.safe_load(simulation.config_file.read_text())
    simulation.config_file.write_text(yaml.safe_dump({**document, "settings": settings}))
    jobs = simulation.jobs("all", "oracle")
    of_runs = [job.priority for job in jobs if job.rule.startswith("run_")]
    of_evaluations = {j.priority for j in jobs if j.rule.startswith(("eval_", "oracle_pair"))}
    of_own = {job.priority for job in jobs if job.rule.startswith("own_")}
    assert len(set(of_runs)) == len(settings) + len(SETTINGS)
    assert max(of_own) < min(of_runs) < max(of_runs) < min(of_evaluations)


def test_a_dry_run_writes_nothing(simulation: Simulation) -> None:
    simulation.write_config(ROWS[:2], ["solo"])
    finish(simulation)
    run = simulation.plan.runs[0].folder(simulation.plan.results)
    (simulation.folder / run.result).write_text("{")
    simulation.write_config(ROWS[:3], ["solo"])
    before = state(simulation.folder)
    assert len(outputs(simulation.jobs(), "run_")) == 2
    assert state(simulation.folder) == before


class Random:
    """An experiment that grows, shrinks and meets accidents, all by chance."""

    def __init__(self, simulation: Simulation, seed: int) -> None:
        self.simulation = simulation
        self.chance = random.Random(seed)
        self.accidents: list[Callable[[Plan], None]] = [
            self.copy_without_times,
            self.touch,
            self.lose,
            self.cut,
            self.break_an_evaluation,
            self.old_gate,
        ]

    def ask(self) -> None:
        rows = self.chance.sample(ROWS, self.chance.randint(1, 4))
        self.simulation.write_config(rows, self.chance.sample(SETTINGS, self.chance.randint(1, 2)))

    def files(self, pattern: str) -> list[Path]:
        paths = sorted((self.simulation.folder / "results").rglob(pattern))
        return [path for path in paths if path.is_file() and ".state" not in path.parts]

    def copy_without_times(self, plan: Plan) -> None:
        for path in self.files("*"):
            moment = 1_700_000_000 + self.chance.random()
            os.utime(path, (moment, moment))

    def touch(self, plan: Plan) -> None:
        for path in self.chance.sample(self.files("*"), min(3, len(self.files("*")))):
            path.touch()

    def lose(self, plan: Plan) -> None:
        for path in self.chance.sample(self.files("*"), min(2, len(self.files("*")))):
            path.unlink()

    def cut(self, plan: Plan) -> None:
        if self.files("*.json"):
            self.chance.choice(self.files("*.json")).write_text('{"cut": ')

    def break_an_evaluation(self, plan: Plan) -> None:
        run = self.chance.choice(plan.runs)
        if (self.simulation.folder / run.folder(plan.results).eval).exists():
            name = self.chance.choice([run.dashed, layout.own_marker(run.dashed)])
            if name == run.dashed or run.experiment.setting.mode == "coop":
                marker = plan.results.redo_markers / f"{name}.1"
                atomic_io.write_text(self.simulation.folder / marker, run.key + "\n")

    def old_gate(self, plan: Plan) -> None:
        gate = self.simulation.folder / plan.results.gate
        if gate.exists():
            os.utime(gate, (1, 1))

    def expected(self, plan: Plan) -> tuple[set[str], set[str], set[str]]:
        """The runs, evaluations and evaluations of own features that are not finished."""
        runs, evaluations, own = set(), set(), set()
        broken = redo.marked_evaluations(layout.Results(self.simulation.folder / "results"))
        for run in plan.runs:
            result, evaluation = (str(path) for path in run.folder(plan.results).documents)
            if not redo.is_complete(self.simulation.folder / result):
                runs.add(result)
                evaluations.add(evaluation)
            if run.dashed in broken or not redo.is_complete(self.simulation.folder / evaluation):
                evaluations.add(evaluation)
            if run.experiment.setting.mode == "coop":
                path = run.folder(plan.results).own
                is_made = redo.is_complete(self.simulation.folder / path) and result not in runs
                if not is_made or layout.own_marker(run.dashed) in broken:
                    own.add(str(path))
        return runs, evaluations, own

    def step(self) -> None:
        """Change the experiment or its files, plan a session, and do some of its jobs."""
        if self.chance.random() < 0.6:
            self.ask()
        for accident in self.chance.sample(self.accidents, self.chance.randint(0, 2)):
            accident(self.simulation.plan)
        plan = self.simulation.plan
        target = self.chance.choice(["all", "results/summary.csv"])
        before = state(self.simulation.folder)
        jobs = self.simulation.jobs(target)
        assert state(self.simulation.folder) == before
        actual = (outputs(jobs, "run_"), outputs(jobs, "eval_"), outputs(jobs, "own_"))
        assert actual == self.expected(plan)
        killed = self.chance.random() < 0.4
        self.simulation.perform(jobs, self.chance, len(jobs) // 2 if killed else None)
        if not killed:
            assert self.expected(plan) == (set(), set(), set())
            assert outputs(self.simulation.jobs(target), "") == set()


@pytest.mark.parametrize("seed", range(6))
def test_executed_runs_are_the_requested_runs(simulation: Simulation, seed: int) -> None:
    experiment = Random(simulation, seed)
    experiment.ask()
    for _ in range(8):
        experiment.step()


def test_a_session_that_omits_a_target_is_not_a_success(tmp_path: Path) -> None:
    present, absent = tmp_path / "a", tmp_path / "b"
    present.touch()
    assert redo.missing_outputs([str(present), str(absent)]) == [str(absent)]
    assert str(absent) in redo.missing_message([str(absent)])
