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
def test_a_recorded_experiment_ends_as_it_did(make_experiment: Make) -> None:
    """Outcomes, steps, tokens and costs are those of the recorded runs; no key is required.

    A pilot makes half of the runs and estimates the others.
    """
    experiment = make_experiment(
        pairs=[(INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2)], settings=SETTINGS
    )
    subset = str(experiment.config.with_name("pairs.csv"))
    pilot = experiment.script("pilot", "--subset", subset, "--first", "1", seconds=300)
    assert pilot.returncode == 0, pilot.stdout[-3000:]
    assert len(list((experiment.results / "runs").glob("*/*/*/*/*/result.json"))) == 2
    rest = pilot.stdout[pilot.stdout.index("Remaining runs of") :]
    assert rest.splitlines()[0].endswith(": 2")
    assert "USD" in rest
    session = experiment.run()
    assert session.returncode == 0, session.stdout
    rows = experiment.rows()
    assert [row["attempts"] for row in rows] == ["1"] * 4
    assert {row["reason"] for row in rows} == {"", "merge_conflict", "tests_failed", "empty_patch"}
    to = experiment.results.parent / "published"
    result = experiment.script("record", "--to", str(to))
    assert result.returncode == 0, result.stdout
    assert "Recorded 4 runs of 2 pairs in" in result.stdout
    # An existing recording may hold more than a new one: it is not overwritten.
    result = experiment.script("record", "--to", str(to))
    assert result.returncode == 1
    assert "is not empty" in result.stdout

    calls = len(experiment.server.ledger())
    config = yaml.safe_load((to / "replay.yaml").read_text())
    config["results"] = str(experiment.results.parent / "replayed")
    (to / "replay.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    again = Experiment(
        experiment.clone, Path(config["results"]), to / "replay.yaml", experiment.server
    )
    session = again.run()
    assert session.returncode == 0, session.stdout
    assert len(experiment.server.ledger()) == calls
    played = again.rows()
    assert {row["replay"] for row in played} == {"True"}
    assert {row["model"] for row in played} == {"tested-replay"}
    for key in (*SAME, *COUNTED):
        assert [row[key] for row in played] == [row[key] for row in rows], key


def test_nothing_to_record(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    result = experiment.script("record", "--to", str(tmp_path / "to"))
    assert result.returncode == 1
    assert "nothing to record" in result.stdout
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    result = experiment.script("record", "--to", str(tmp_path / "other"))
    assert "is not empty" in result.stdout
    assert (tmp_path / "other" / "thesis.tex").exists()
    result = experiment.script("record", "--to", str(tmp_path / "other" / "thesis.tex"))
    assert "cannot be written" in result.stdout
    assert "Traceback" not in result.stdout
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
