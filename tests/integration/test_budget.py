"""A session with a budget, then a drained one, then the remaining runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from experiment_client import INVENTORY, TEXTKIT, Experiment, wait_for
from listener import make_listener, read_events

Make = Callable[..., Experiment]
RUNS = "runs/*/*/*/*/f*_f*/result.json"


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.slow_model
def test_a_budget_then_a_drain_then_the_remaining_runs(
    make_experiment: Make, tmp_path: Path
) -> None:
    """Three sessions: the budget stops new runs, `make drain` stops them, the last one resumes."""
    command, target = make_listener(tmp_path, more="raise SystemExit(1)\n")
    experiment = make_experiment(
        pairs=[(INVENTORY, 1, 1, 2), (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2)],
        limits={"pause_seconds": 0, "call_tries": 2, "budget_usd": 0.0001},
        notify=command,
    )
    assert "budget: 0.00 of 0.00 USD: 0.00 known" in experiment.dry_run()
    first = experiment.run()
    assert first.returncode == 1, first.stdout
    assert first.stdout.count("Budget reached") == 1
    assert "2 runs remain" in first.stdout
    results = list(experiment.results.glob(RUNS))
    assert len(results) == 1
    assert results[0].with_name("eval.json").exists()  # what ran is evaluated
    assert [event["event"] for event in read_events(target)] == ["budget", "ended"]
    assert "The session is not affected." in first.stdout  # the command fails each time
    assert "reached, no more runs start" in experiment.script("status").stdout
    paid = len(experiment.server.ledger())

    text = experiment.config.read_text()
    experiment.config.write_text(text.replace("budget_usd: 0.0001", "budget_usd: 50"))
    process = experiment.start()
    experiment.wait_until(process, lambda: len(experiment.server.ledger()) > paid)
    drained = experiment.script("drain")
    assert "running runs finish" in drained.stdout
    process.wait(120)
    # Started runs have finished; only evaluations and a run that had not started remain.
    assert {path.parents[2] for path in experiment.results.rglob("attempts/*/attempt.json")} == {
        path.parent for path in experiment.results.glob(RUNS)
    }, process.stdout
    last = experiment.run()
    assert last.returncode == 0, last.stdout
    assert len(experiment.rows()) == 3
    assert experiment.count_unanswered_calls() == 0
    assert "nothing to drain" in experiment.script("drain").stdout
    wait_for(lambda: read_events(target)[-1]["success"] is True)
