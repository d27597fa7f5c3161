"""Cost of a session without pending jobs, on a synthetic, finished lite experiment."""

from __future__ import annotations

from pathlib import Path

import synthetic
import yaml
from experiment_client import clone_of

from .cpu import Cost, measure
from .sides import BIN, environment

NOTHING = "Nothing to be done"


def figures(
    folder: Path, repeats: int, subset: str = "lite", first: int | None = None
) -> list[Cost]:
    """Return the cost of such starts, one after the other."""
    clone = clone_of(folder / "clone")
    plan = synthetic.make_plan(folder / "results", subset, first=first)
    synthetic.finish(plan)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(plan.config.model_dump(mode="json")))
    command = [str(BIN / "snakemake"), "-j", "4", "all", "--configfile", str(config)]
    log = folder / "log"
    first = measure(command, clone, environment(), log)
    assert first.code == 0, log.read_text()[-2000:]
    starts = []
    for _ in range(repeats):
        log.unlink()
        starts.append(measure(command, clone, environment(), log))
        assert NOTHING in log.read_text(), log.read_text()[-2000:]
    return starts
