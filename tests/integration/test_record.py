"""A finished experiment as a recording: played back, each run ends as it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from experiment_client import INVENTORY, TEXTKIT, Experiment

Make = Callable[..., Experiment]
SETTINGS = ("coop-comm", "coop-nocomm")  # of solo runs, the demo's test
SAME = ("setting", "features", "outcome", "reason", "caveat", "steps", "messages_sent")
COUNTED = ("input_tokens", "output_tokens", "cost_usd", "patch_lines")


@pytest.mark.docker
@pytest.mark.slow
def test_a_recorded_experiment_ends_as_it_did(experiment: Make) -> None:
    """Outcomes, steps, tokens and costs are those of the recorded runs; no key is asked for.

    A pilot makes half of the runs and estimates the others.
    """
    one = experiment(pairs=[(INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2)], settings=SETTINGS)
    subset = str(one.config.with_name("pairs.csv"))
    pilot = one.script("pilot", "--subset", subset, "--first", "1", seconds=300)
    assert pilot.returncode == 0, pilot.stdout[-3000:]
    assert len(list((one.results / "runs").glob("*/*/*/*/*/result.json"))) == 2
    rest = pilot.stdout[pilot.stdout.index("Remaining runs of") :]
    assert rest.splitlines()[0].endswith(": 2")
    assert "USD" in rest
    done = one.run()
    assert done.returncode == 0, done.stdout
    rows = one.rows()
    assert [row["attempts"] for row in rows] == ["1"] * 4
    assert {row["reason"] for row in rows} == {"", "merge_conflict", "tests_failed", "empty_patch"}
    to = one.results.parent / "published"
    said = one.script("record", "--to", str(to))
    assert said.returncode == 0, said.stdout
    assert "Recorded 4 runs of 2 pairs in" in said.stdout
    # An existing recording may hold more than a new one: it is not overwritten.
    said = one.script("record", "--to", str(to))
    assert said.returncode == 1
    assert "is not empty" in said.stdout

    calls = len(one.server.ledger())
    config = yaml.safe_load((to / "replay.yaml").read_text())
    config["results"] = str(one.results.parent / "replayed")
    (to / "replay.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    again = Experiment(one.clone, Path(config["results"]), to / "replay.yaml", one.server)
    done = again.run()
    assert done.returncode == 0, done.stdout
    assert len(one.server.ledger()) == calls
    played = again.rows()
    assert {row["replay"] for row in played} == {"True"}
    assert {row["model"] for row in played} == {"tested-replay"}
    for key in (*SAME, *COUNTED):
        assert [row[key] for row in played] == [row[key] for row in rows], key


def test_nothing_to_record(experiment: Make, tmp_path: Path) -> None:
    one = experiment()
    said = one.script("record", "--to", str(tmp_path / "to"))
    assert said.returncode == 1
    assert "nothing to record" in said.stdout
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    said = one.script("record", "--to", str(tmp_path / "other"))
    assert "is not empty" in said.stdout
    assert (tmp_path / "other" / "thesis.tex").exists()
    said = one.script("record", "--to", str(tmp_path / "other" / "thesis.tex"))
    assert "cannot be written" in said.stdout
    assert "Traceback" not in said.stdout
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
