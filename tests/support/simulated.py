"""Simulated sessions: Snakemake builds the DAG of the real Snakefile, and stubs write outputs.

A simulated session starts no process and no container, so that hundreds take only seconds.
"""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

from cooperflow import atomic_io
from cooperflow.experiment import config as configuration
from cooperflow.experiment import fingerprint
from cooperflow.experiment import plan as planning
from cooperflow.experiment.plan import Plan
from cooperflow.layout import REPOSITORY

Row = tuple[str, int, int, int]


@dataclass(frozen=True)
class Job:
    """A job that Snakemake would run."""

    rule: str
    outputs: tuple[str, ...]
    needs: frozenset[int]  # positions of the jobs on which it depends
    priority: int


@dataclass
class Simulation:
    """An experiment in a folder, with its config and simulated sessions."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("config", "demo", "report"):
            (self.folder / name).symlink_to(REPOSITORY / name)

    @property
    def config_file(self) -> Path:
        return self.folder / "mine.yaml"

    @property
    def plan(self) -> Plan:
        with change_directory(self.folder):
            return planning.make(configuration.load([self.config_file]))

    def write_config(self, pairs: Sequence[Row], settings: Iterable[str], **more: Any) -> None:
        """Write the config of an experiment on these pairs."""
        table = self.folder / "pairs.csv"
        rows = ["repo,task_id,feature_a,feature_b", *(",".join(map(str, row)) for row in pairs)]
        table.write_text("\n".join(rows) + "\n")
        requested = set(settings)
        every = ("solo", "coop-comm", "coop-nocomm")
        document = {
            "results": "results",
            "dataset": {"dir": "demo/dataset", "subset": str(table)},
            "settings": {name: None for name in every if name not in requested},
            **more,
        }
        self.config_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def jobs(self, *targets: str) -> list[Job]:
        """Return the jobs of a dry run, in a possible order of execution."""
        variables, chosen = dict(os.environ), logging.root.manager.disable
        thresholds = gc.get_threshold()
        logging.disable(logging.CRITICAL)
        try:
            with (
                change_directory(self.folder),
                SnakemakeApi(OutputSettings(quiet=set(Quietness.all()), dryrun=True)) as api,
            ):
                workflow = api.workflow(
                    resource_settings=ResourceSettings(cores=4, nodes=4),
                    config_settings=ConfigSettings(configfiles=[self.config_file]),
                    snakefile=REPOSITORY / "Snakefile",
                    workdir=self.folder,
                )
                dag = workflow.dag(
                    dag_settings=DAGSettings(
                        targets=frozenset(targets or ("all",)),
                        rerun_triggers=frozenset([RerunTrigger.MTIME]),
                    )
                )
                dag.execute_workflow(executor="dryrun")
                return _ordered(workflow._workflow.dag)
        finally:
            logging.disable(chosen)
            gc.set_threshold(*thresholds)
            os.environ.clear()
            os.environ.update(variables)

    def perform(
        self, jobs: Sequence[Job], chance: random.Random, at_most: int | None = None
    ) -> int:
        """Do jobs in a random possible order; stop after ``at_most``, like a kill."""
        finished: set[int] = set()
        while len(finished) < (len(jobs) if at_most is None else min(at_most, len(jobs))):
            ready = [n for n in range(len(jobs)) if n not in finished and jobs[n].needs <= finished]
            number = chance.choice(ready)
            self._write(jobs[number])
            finished.add(number)
        return len(finished)

    def _write(self, job: Job) -> None:
        plan = self.plan
        if job.rule.startswith("run_"):
            missing = [image for image in plan.images if not self._sentinel(image).exists()]
            assert not missing, f"{job.outputs}: run before {missing} is verified"
        for output in job.outputs:
            atomic_io.write_text(self.folder / output, "{\n}\n")
        if job.rule.startswith(("eval_", "own_")) or job.rule == "oracle_pair":
            key = job.outputs[0].split("/", 1 if job.rule == "oracle_pair" else 2)[-1]
            name = key.rpartition("/")[0].replace("/", "--")
            if job.rule.startswith("own_"):
                name = f"own--{name}"
            for marker in (self.folder / plan.results.redo_markers).glob(f"{name}.*"):
                marker.unlink()
        if job.rule == "aggregate":
            with change_directory(self.folder):
                fingerprint.record_tables(plan)

    def _sentinel(self, image: str) -> Path:
        return self.folder / self.plan.results.sentinel(image)


def _ordered(dag: Any) -> list[Job]:
    needed = list(dag.needrun_jobs(exclude_finished=False))
    numbers = {job: number for number, job in enumerate(needed)}
    return [
        Job(
            str(job.rule),
            tuple(map(str, job.output)),
            frozenset(numbers[other] for other in dag.dependencies[job] if other in numbers),
            dag.priority(job),
        )
        for job in needed
    ]


@contextmanager
def change_directory(folder: Path) -> Iterator[None]:
    """Change the working directory to a folder in the body."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
