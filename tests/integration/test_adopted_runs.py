"""Runs of plain cooperbench in this workflow's tables; its results, read by upstream's tools."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from experiment_client import INVENTORY, TEXTKIT, Experiment, run_group

from cooperflow.upstream import trajectory

Make = Callable[..., Experiment]
MODEL = "command-a-03-2025"


def cooperbench(experiment: Experiment, *arguments: str) -> str:
    """Run upstream's command as its own users do; return what it printed."""
    environment = {
        **os.environ,
        "COHERE_API_KEY": "not-a-real-key",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "1",
    }
    command = [".venv/bin/cooperbench", *arguments, "--dataset-dir", "demo/dataset"]
    result = run_group(command, 500, experiment.clone, environment)
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(900)  # on a busy machine
def test_runs_of_plain_cooperbench(
    make_experiment: Make, tmp_path: Path, demo_images: None
) -> None:
    """Their outcomes are upstream's where evidence permits; an error is never a fail."""
    # Each conversation is compacted after its first turns.
    settings = {"compaction_token_trigger": 1}
    experiment = make_experiment(
        pairs=[(INVENTORY, 1, 1, 2), (INVENTORY, 1, 2, 3), (TEXTKIT, 2, 1, 2)],
        agent={"config": {"agent": settings}},
    )
    experiment.target = str(experiment.results / "report" / "index.html")
    agent = tmp_path / "agent.yaml"
    base = {"api_base": f"{experiment.server.url}/v2/chat"}
    agent.write_text(
        yaml.safe_dump({"config": {"model": {"model_kwargs": base}, "agent": settings}})
    )
    logs = tmp_path / "logs"

    experiment.server.faults({"match": {"repo": TEXTKIT}, "action": "server_error"})
    what = ["-n", "plain", "-m", MODEL, "--setting", "solo", "-s", "demo"]
    what += ["--agent-config", str(agent), "--log-dir", str(logs), "-c", "2"]
    cooperbench(experiment, "run", *what)
    experiment.server.faults()
    (other,) = (logs / f"plain/solo/{TEXTKIT}/2").glob("f*3*")
    shutil.rmtree(other)  # not one of the experiment's pairs
    (logs / f"plain/solo/{INVENTORY}/1/f2_f3/eval.json").unlink()  # as with --no-auto-eval
    graded = json.loads((logs / f"plain/solo/{TEXTKIT}/2/f1_f2/eval.json").read_text())
    assert not graded["both_passed"]
    assert not graded["error"]  # upstream calls it a fail
    paid = experiment.server.ledger()

    raw = yaml.safe_load(experiment.config.read_text())
    raw["models"]["theirs"] = {"model": MODEL, "adopt": {"solo": str(logs / "plain")}}
    experiment.config.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert "theirs" not in experiment.dry_run()
    session = experiment.run("adopt")
    assert "theirs-solo: 3 runs imported, 2 with their evaluation" in session.stdout
    assert experiment.server.ledger() == paid
    session = experiment.run()
    assert session.returncode == 0, session.stdout
    ours = [row for row in experiment.rows() if row["model"] == "tested"]
    theirs = [row for row in experiment.rows() if row["model"] == "theirs"]
    assert [_end(row) for row in theirs] == ["pass ", "pass ", "infra_error agent_error"]
    assert [_end(row) for row in ours] == ["pass "] * 3
    assert {row["adopted"] for row in theirs} == {"True"}
    assert {row["adopted"] for row in ours} == {"False"}
    assert {row["cost_complete"] for row in theirs} == {"False"}
    assert {row["cost_bound_usd"] for row in theirs} == {""}
    full = list(experiment.results.glob("runs/*/*/*/*/*/solo_full_traj.json"))
    assert len(full) == 5  # of the runs that ended, here and there
    for path in full:
        document = json.loads((path.parent / "result.json").read_text())
        named = {p.name: json.loads(p.read_text()) for p in path.parent.glob("*_traj.json")}
        (read,) = trajectory.parse(named).values()
        assert len(read.turns) == document["agent"]["steps"]
        assert len(read.entries) > len(read.turns)  # the summaries
    # The tokens of its trajectories equal those of the call log of the same answers.
    same = [(row["input_tokens"], row["output_tokens"]) for row in ours[:2]]
    assert [(r["input_tokens"], r["output_tokens"]) for r in theirs[:2]] == same
    # Upstream multiplies counted tokens; Cohere bills its own units, which are fewer here.
    costs = [
        (float(a["cost_usd"]), float(b["cost_usd"])) for a, b in zip(ours, theirs, strict=True)
    ]
    assert all(0 < billed < counted for billed, counted in costs[:2])
    assert [(r["run_name"], r["adopted"], r["cost_complete"]) for r in experiment.summary()] == [
        ("tested-solo", "False", "True"),
        ("theirs-solo", "True", "False"),
    ]
    document = json.loads((experiment.results / "provenance.json").read_text())
    assert document["facts"]["adopted"] == "theirs-solo"
    assert document["experiments"]["theirs-solo"]["adopted"]["config"]["run_name"] == "plain"
    page = (experiment.results / "report" / "index.html").read_text()
    assert "Adopted." in page
    assert "(adopted)</th>" in page
    # Nothing of it is ever run here: not after a retry, and not a second time.
    assert "nothing to requeue" in experiment.script("retry_infra").stdout
    assert (
        "0 runs imported, 0 with their evaluation; 3 imported before"
        in experiment.run("adopt").stdout
    )
    assert "Nothing to be done" in experiment.dry_run()

    # The other direction: upstream finds the workflow's runs and their evaluations.
    there = ["--log-dir", str(experiment.results / "runs")]
    output = cooperbench(experiment, "eval", "-n", "tested-solo", *there)
    assert "skipping 3 already evaluated" in output
    before = (
        experiment.results / f"runs/tested-solo/solo/{INVENTORY}/1/f1_f2/result.json"
    ).read_bytes()
    pair = ["-r", INVENTORY, "-t", "1", "-f", "1,2"]
    assert "pass" in cooperbench(experiment, "eval", "-n", "tested-solo", *there, *pair, "--force")
    after = (
        experiment.results / f"runs/tested-solo/solo/{INVENTORY}/1/f1_f2/result.json"
    ).read_bytes()
    assert after == before


def _end(row: dict[str, str]) -> str:
    return f"{row['outcome']} {row['reason']}"
