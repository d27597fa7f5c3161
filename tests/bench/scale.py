"""Cost of tables, report and status of many finished runs, on a synthetic results folder."""

from __future__ import annotations

import time
from pathlib import Path

import synthetic
import yaml

from cooperflow import environment as names

from .cpu import Cost, measure
from .sides import BIN, environment
from .workload import REPOSITORY

# Models of the full set: 652 pairs x 3 settings x 10 = 19,560 runs.
MODELS = 10
STAGES = ("aggregate", "derived_tables", "plots", "provenance", "report")


def figures(
    folder: Path, subset: str = "full", models: int = MODELS, first: int | None = None
) -> dict[str, Cost]:
    """Return the cost of each stage on one core: the first time, then after one more run."""
    plan = synthetic.make_plan(folder / "results", subset, models, first)
    synthetic.finish(plan)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(plan.config.model_dump()))
    variables = {**environment(), names.CONFIG: plan.config.model_dump_json()}
    python = ["taskset", "-c", "0", str(BIN / "python")]

    def stage(name: str, *arguments: str) -> Cost:
        log = folder / f"{Path(name).name}.log"
        script = str(REPOSITORY / "scripts" / f"{name}.py")
        cost = measure([*python, script, *arguments], REPOSITORY, variables, log)
        assert cost.code == 0, log.read_text()[-2000:]
        return cost

    costs = {name: stage(name) for name in STAGES}
    run = plan.runs[0]
    synthetic.write_run(plan, run, "fail", time.time(), synthetic.Words())
    costs |= {f"{name}, one run later": stage(name) for name in ("aggregate", "report")}
    costs["status"] = stage("commands/status", "--configfile", str(config))
    return costs
