"""The workflow as its user meets it: real cooperbench, litellm, Docker and Redis, no model."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from experiment_client import (
    INVENTORY,
    REPOSITORY,
    TEXTKIT,
    Experiment,
    containers_of,
    ledger_tokens,
    run_group,
)

from cooperflow import layout

pytestmark = [pytest.mark.docker, pytest.mark.slow]

Make = Callable[..., Experiment]


def test_demo(clone: Path) -> None:
    """Twelve runs end as intended, and a second session has no pending jobs."""

    def demo() -> str:
        result = run_group([".venv/bin/python", "scripts/commands/demo.py"], 500, clone)
        assert result.returncode == 0, result.stdout
        return result.stdout

    output = demo()
    results = clone / "results" / "demo"
    experiment = Experiment(clone, results, clone / "config" / "demo.yaml", None)  # type: ignore[arg-type]
    ends = {(r["setting"], r["repo"], r["features"]): _end(r) for r in experiment.rows()}
    assert ends == {
        ("solo", INVENTORY, "1,2"): "pass",
        ("solo", INVENTORY, "2,3"): "pass",
        ("solo", TEXTKIT, "1,2"): "pass",
        ("solo", TEXTKIT, "2,3"): "pass",
        ("coop-comm", INVENTORY, "1,2"): "pass",
        ("coop-comm", INVENTORY, "2,3"): "pass",
        ("coop-comm", TEXTKIT, "1,2"): "fail tests_failed",
        ("coop-comm", TEXTKIT, "2,3"): "pass",
        ("coop-nocomm", INVENTORY, "1,2"): "pass",
        ("coop-nocomm", INVENTORY, "2,3"): "fail merge_conflict",
        ("coop-nocomm", TEXTKIT, "1,2"): "fail empty_patch",
        ("coop-nocomm", TEXTKIT, "2,3"): "pass lead_alone",
    }
    losses = {
        (r["setting"], r["repo"], r["features"]): r["loss"] for r in experiment.rows() if r["loss"]
    }
    assert losses == {
        ("coop-comm", TEXTKIT, "1,2"): "integration",
        ("coop-nocomm", INVENTORY, "2,3"): "merge",
        ("coop-nocomm", TEXTKIT, "1,2"): "agent",
    }
    coop = [r for r in experiment.rows() if r["mode"] == "coop"]
    own = {
        (r["setting"], r["repo"], r["features"]): r["own1_passed"] + r["own2_passed"] for r in coop
    }
    # Everything else passes alone: two agents in each of eight runs.
    failing = {key: value for key, value in own.items() if value != "TrueTrue"}
    assert failing == {
        ("coop-comm", TEXTKIT, "2,3"): "FalseTrue",  # works with the other agent's function
        ("coop-nocomm", TEXTKIT, "1,2"): "TrueFalse",
    }
    assert {r["own1_passed"] + r["loss"] for r in experiment.rows() if r["mode"] == "solo"} == {""}
    overlaps = {
        (r["setting"], r["repo"], r["features"]): (r["hunks_overlapping"], r["merge_status"])
        for r in coop
        if r["hunks_overlapping"] != "0"
    }
    assert {key: status for key, (_, status) in overlaps.items()} == {
        ("coop-nocomm", INVENTORY, "2,3"): "conflicts",
        ("coop-nocomm", TEXTKIT, "2,3"): "conflicts",
    }
    assert [(r["run_name"], r["pass"], r["replay"]) for r in experiment.summary()] == [
        ("replay-solo", "4", "True"),
        ("replay-coop-comm", "3", "True"),
        ("replay-coop-nocomm", "2", "True"),
    ]
    assert "replay-coop-comm" in output
    assert "These runs are a replay" in output
    ledgers = [
        json.loads(line)
        for path in results.rglob("ledger.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert all(line["answered"] for line in ledgers)
    assert experiment.recorded_tokens() == (
        sum(line["input_tokens"] for line in ledgers),
        sum(line["output_tokens"] for line in ledgers),
    )
    messages = sum(
        int(r["messages_sent"]) for r in experiment.rows() if r["setting"] == "coop-comm"
    )
    assert messages == 17
    sent = list(csv.DictReader((results / "messages.csv").open()))
    assert {(r["run_name"], r["features"], r["sender"]) for r in sent if r["late"] == "True"} == {
        ("replay-coop-comm", "1,2", "agent2")
    }
    assert containers_of(results) == []
    before = {p: p.stat().st_mtime_ns for p in results.rglob("*.json")}
    demo()
    assert before == {p: p.stat().st_mtime_ns for p in results.rglob("*.json")}
    dry = experiment.run("--dry-run")
    assert "Nothing to be done" in dry.stdout
    packed = experiment.run("--report", str(results / "snakemake-report.zip"))
    assert packed.returncode == 0, packed.stdout
    names = {
        name.rpartition("/")[2]
        for name in zipfile.ZipFile(results / "snakemake-report.zip").namelist()
    }
    assert {"report.html", "summary.csv", "comparison.csv"} <= names
    assert {f"{name}.svg" for name in layout.PLOTS} <= names


def _end(row: dict[str, str]) -> str:
    return " ".join(filter(None, (row["outcome"], row["reason"], row["caveat"])))


def test_provider_down_then_another_configuration(make_experiment: Make) -> None:
    """A dead provider is not a failed task; afterwards only that run can be requeued.

    A second session meanwhile on the same results names the running session, and stops. A paid
    result is restored from the attempt's folder. Results of two configurations do not mix, unless
    that is accepted by name. Runs that are added then, with less time, run out of it: an agent
    has failed, unless it waited for its provider.
    """
    experiment = make_experiment(pairs=[(INVENTORY, 1, 1, 2), (TEXTKIT, 2, 1, 2)])
    experiment.server.faults({"match": {"repo": TEXTKIT}, "action": "server_error"})
    process = experiment.start()
    experiment.wait_until(process, lambda: experiment.count_recorded_calls() > 0, 120)
    with (
        experiment.server.hold_answers()
    ):  # the first session cannot end before the second has tried
        second = experiment.run()
    assert second.returncode != 0
    assert f"process {process.pid} " in second.stdout
    assert "Traceback" not in second.stdout
    assert process.wait(240) == 0, process.stdout
    ends = {r["repo"]: (r["outcome"], r["reason"], r["attempts"]) for r in experiment.rows()}
    assert ends[INVENTORY] == ("pass", "", "1")
    assert ends[TEXTKIT] == ("infra_error", "api_unavailable", "3")
    assert experiment.summary()[0]["pass_rate"] == "1.0"
    assert experiment.summary()[0]["pass_rate_all"] == "0.5"
    assert "Nothing to be done" in experiment.dry_run()

    experiment.server.faults()
    listed = experiment.script("retry_infra", "--list")
    assert "api_unavailable" in listed.stdout
    assert "Nothing to be done" in experiment.dry_run()
    put_back = experiment.script("retry_infra")
    assert "1 runs" in put_back.stdout
    dry = experiment.run("--dry-run", "--quiet", "rules").stdout
    assert re.search(r"^run_solo +1$", dry, re.MULTILINE), dry
    (result,) = (experiment.results / "runs").glob(f"*/*/{INVENTORY}/*/*/result.json")
    content = result.read_text()
    result.unlink()
    calls = experiment.count_recorded_calls()
    paid = len(experiment.server.ledger())
    # `all` asks for each result too.
    session = experiment.run("-j", "4", experiment.target, str(result))
    assert session.returncode == 0, session.stdout
    assert result.read_text() == content
    ends = {r["repo"]: (r["outcome"], r["attempts"]) for r in experiment.rows()}
    assert ends == {INVENTORY: ("pass", "1"), TEXTKIT: ("pass", "4")}
    assert experiment.count_recorded_calls() > calls
    assert {line["repo"] for line in experiment.server.ledger()[paid:]} == {TEXTKIT}
    assert experiment.recorded_tokens() == ledger_tokens(experiment.server)
    _another_configuration(experiment)


def _another_configuration(experiment: Experiment) -> None:
    """Grow a finished experiment by two runs with less time."""
    text = experiment.config.read_text()
    pairs = experiment.config.parent / "pairs.csv"
    pairs.write_text(f"{pairs.read_text()}{INVENTORY},1,2,3\n{TEXTKIT},2,3,2\n")
    experiment.config.write_text(text.replace("call_tries: 2", "call_tries: 3\n  run_seconds: 25"))
    stopped = experiment.run()
    assert stopped.returncode != 0
    assert "call_tries: 2 -> 3" in stopped.stdout
    assert "Traceback" not in stopped.stdout
    asleep = [{"text": "Thinking.", "commands": ["sleep 600"]}]
    experiment.server.faults(
        {"match": {"repo": INVENTORY}, "action": "override", "turns": asleep},
        {"match": {"repo": TEXTKIT}, "action": "hang"},
    )
    accept = ["--config", 'accept=["tested-solo"]']
    accepted = experiment.run("-j", "4", experiment.target, "--retries", "0", *accept)
    assert accepted.returncode == 0, accepted.stdout
    document = json.loads((experiment.results / "runs/tested-solo/experiment.json").read_text())
    changes = document["history"][0]["changes"]
    assert sorted(changes) == ["call_tries: 2 -> 3", "run_seconds: 600 -> 25"]
    rows = {(r["repo"], r["features"]): r for r in experiment.rows()}
    slow = rows[INVENTORY, "2,3"], rows[TEXTKIT, "2,3"]
    assert [(r["outcome"], r["reason"]) for r in slow] == [
        ("fail", "timeout"),
        ("infra_error", "api_timeout"),
    ]
    assert [r["cost_complete"] for r in slow] == ["True", "False"]
    assert containers_of(experiment.results) == []


def test_real_experiment_dry_run(clone: Path) -> None:
    """A dry run without key, data set or daemon: 26 images, 300 runs, 300 evaluations."""
    environment = {**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}
    environment.pop("COHERE_API_KEY", None)
    begun = time.monotonic()
    result = subprocess.run(
        [".venv/bin/snakemake", "--dry-run", "--quiet", "rules"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
    )
    print(f"dry run of the real experiment: {time.monotonic() - begun:.1f} s")
    text = result.stdout + result.stderr
    assert result.returncode == 0, text
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE))
    assert counts["image"] == "26"
    for setting in ("solo", "coop_comm", "coop_nocomm"):
        assert counts[f"run_{setting}"] == counts[f"eval_{setting}"] == "100"
    assert counts["aggregate"] == "1"
    assert not (clone / "results" / "runs").exists()


def test_real_experiment_without_anything(clone: Path) -> None:
    """One message lists all missing prerequisites and their remedies."""
    environment = {**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}
    environment.pop("COHERE_API_KEY", None)
    stopped = subprocess.run(
        [".venv/bin/snakemake", "-j", "4", "all"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
    )
    text = stopped.stdout + stopped.stderr
    assert stopped.returncode != 0
    assert "Traceback" not in text
    for word in (
        "Cannot start. Missing prerequisites:",
        "export COHERE_API_KEY",
        "cooperbench prepare",
        "Docker does not answer",
    ):
        assert word in text, text
    assert not (clone / "results" / "images").exists()


def test_lint() -> None:
    """Snakemake's own lint finds nothing but what docs/architecture.md refuses, with its reason."""
    result = subprocess.run(
        [".venv/bin/snakemake", "--lint"], cwd=REPOSITORY, capture_output=True, text=True
    )
    titles = set(re.findall(r"^    \* (.+):$", result.stdout + result.stderr, re.MULTILINE))
    assert titles <= {"Specify a conda environment or container for each rule."}
