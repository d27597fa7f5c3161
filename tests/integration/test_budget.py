"""A session with a budget, then a drained one, then the remaining runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from experiment_client import INVENTORY, TEXTKIT, Experiment, wait_for
from listener import listener, said

Make = Callable[..., Experiment]
RUNS = "runs/*/*/*/*/f*_f*/result.json"


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.slow_model
def test_a_budget_then_a_drain_then_the_rest(experiment: Make, tmp_path: Path) -> None:
    """Three sessions: the budget stops new runs, `make drain` stops them, the last one resumes."""
    command, target = listener(tmp_path, more="raise SystemExit(1)\n")
    one = experiment(
        pairs=[(INVENTORY, 1, 1, 2), (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2)],
        limits={"pause_seconds": 0, "call_tries": 2, "budget_usd": 0.0001},
        notify=command,
    )
    assert "budget: 0.00 of 0.00 USD: 0.00 known" in one.dry_run()
    first = one.run()
    assert first.returncode == 1, first.stdout
    assert first.stdout.count("Budget reached") == 1
    assert "2 runs remain" in first.stdout
    results = list(one.results.glob(RUNS))
    assert len(results) == 1
    assert results[0].with_name("eval.json").exists()  # what ran is evaluated
    assert [event["event"] for event in said(target)] == ["budget", "ended"]
    assert "The session is not affected." in first.stdout  # the command fails each time
    assert "reached, no more runs start" in one.script("status").stdout
    paid = len(one.server.ledger())

    text = one.config.read_text()
    one.config.write_text(text.replace("budget_usd: 0.0001", "budget_usd: 50"))
    process = one.start()
    one.until(process, lambda: len(one.server.ledger()) > paid)
    drained = one.script("drain")
    assert "running runs finish" in drained.stdout
    process.wait(120)
    # Started runs have finished; only evaluations and a run that had not started remain.
    assert {path.parents[2] for path in one.results.rglob("attempts/*/attempt.json")} == {
        path.parent for path in one.results.glob(RUNS)
    }, process.stdout
    last = one.run()
    assert last.returncode == 0, last.stdout
    assert len(one.rows()) == 3
    assert one.unanswered() == 0
    assert "nothing to drain" in one.script("drain").stdout
    wait_for(lambda: said(target)[-1]["success"] is True)
