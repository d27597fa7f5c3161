"""Another choice of runs under the same results: the tables follow it, and nothing runs again."""

from __future__ import annotations

import re
from pathlib import Path

import synthetic
import yaml
from experiment_client import Experiment


def jobs(said: str) -> set[str]:
    """The rules that a dry run counts jobs of."""
    return set(re.findall(r"^(\w+) +\d+$", said, re.MULTILINE)) - {"total"}


def test_tables_follow_the_config(clone: Path, tmp_path: Path) -> None:
    made = synthetic.make_plan(tmp_path / "results", "flash")
    synthetic.finish(made)
    config = tmp_path / "config.yaml"
    target = str(made.results.summary_csv)
    one = Experiment(clone, made.results.root, config, None, target)  # type: ignore[arg-type]
    asked = made.config.model_dump(mode="json")

    def ask(**changes: object) -> str:
        config.write_text(yaml.safe_dump({**asked, **changes}, sort_keys=False))
        return one.dry_run()

    assert "Nothing to be done" in ask()
    # Fewer pairs: the tables alone are made anew.
    fewer = ask(dataset={**asked["dataset"], "first": 5})
    assert jobs(fewer) == {"aggregate"}
    done = one.run()
    assert done.returncode == 0, done.stdout
    assert len(one.rows()) == 15
    assert "Nothing to be done" in one.dry_run()
    # A further model: its runs come first, though only a table was asked for.
    model = {"model": "command-a-03-2025", "replay": "demo/recordings"}
    more = ask(models={**asked["models"], "further": model})
    runs = {name for name in jobs(more) if name.startswith("run_")}
    assert runs == {"run_further_solo", "run_further_coop_comm", "run_further_coop_nocomm"}
