"""Another choice of runs under the same results: the tables follow it, and nothing runs again."""

from __future__ import annotations

import re
from pathlib import Path

import synthetic
import yaml
from experiment_client import Experiment

from cooperflow import atomic_io
from cooperflow.experiment import config as configuration
from cooperflow.experiment import dataset, fingerprint
from cooperflow.experiment import plan as planning
from cooperflow.report import build as report_build
from cooperflow.session import progress


def jobs(output: str) -> set[str]:
    """The rules that a dry run counts jobs of."""
    return set(re.findall(r"^(\w+) +\d+$", output, re.MULTILINE)) - {"total"}


def test_tables_follow_the_config(clone: Path, tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash", first=10)
    synthetic.finish(plan)
    config = tmp_path / "config.yaml"
    target = str(plan.results.summary_csv)
    client = Experiment(clone, plan.results.root, config, None, target)  # type: ignore[arg-type]
    raw = plan.config.model_dump(mode="json")

    def ask(**changes: object) -> str:
        config.write_text(yaml.safe_dump({**raw, **changes}, sort_keys=False))
        return client.dry_run()

    assert "Nothing to be done" in ask()
    # Fewer pairs: only the tables are made again.
    fewer = ask(dataset={**raw["dataset"], "first": 5})
    assert jobs(fewer) == {"aggregate"}
    session = client.run()
    assert session.returncode == 0, session.stdout
    assert len(client.rows()) == 15
    assert "Nothing to be done" in client.dry_run()
    # Another model: its runs come first, although only a table was requested.
    model = {"model": "command-a-03-2025", "replay": "demo/recordings"}
    more = ask(models={**raw["models"], "further": model})
    runs = {name for name in jobs(more) if name.startswith("run_")}
    assert runs == {"run_further_solo", "run_further_coop_comm", "run_further_coop_nocomm"}


def test_a_dry_run_compares_the_contents_of_tasks(tmp_path: Path) -> None:
    data = tmp_path / "dataset"
    raw = synthetic.make_plan(tmp_path / "results", "flash", first=10).config.model_dump(
        mode="json"
    )
    raw["dataset"]["dir"] = str(data)
    plan = planning.make(configuration.parse(raw))
    synthetic.finish(plan)
    pair = plan.pairs[0]
    task = dataset.task_folder(data, pair.repo, pair.task_id)
    task.mkdir(parents=True)
    (task / "runner.sh").write_text("before")
    hashes = dataset.task_hashes(data, [pair])
    for experiment in plan.experiments:
        requested = fingerprint.requested_config(experiment, plan)
        resolved = fingerprint.resolved_config(experiment, plan, hashes)
        document = {"asked": requested, "resolved": resolved, "fingerprint": "0"}
        atomic_io.write_json(plan.results.experiment(experiment.run_name), document)
    assert fingerprint.notes(plan, thorough=True) == []  # the other tasks are not on this machine
    (task / "runner.sh").write_text("after")
    notes = fingerprint.notes(plan, thorough=True)
    assert len(notes) == 3
    assert f"data set: {pair.repo}/{pair.task_id} has other contents" in notes[0]
    assert fingerprint.notes(plan) == []  # tables and status do not read the data set


def test_another_model_under_the_same_name_is_named(clone: Path, tmp_path: Path) -> None:
    """With nothing left to run, no session compares the configurations: dry run and tables do."""
    plan = synthetic.make_plan(tmp_path / "results", "flash", first=10)
    synthetic.finish(plan)
    for experiment in plan.experiments:
        requested = fingerprint.requested_config(experiment, plan)
        resolved = fingerprint.resolved_config(experiment, plan, {})
        document = {"asked": requested, "resolved": resolved, "fingerprint": "0"}
        atomic_io.write_json(plan.results.experiment(experiment.run_name), document)
    assert fingerprint.notes(plan, thorough=True) == []
    raw = plan.config.model_dump(mode="json")
    raw["models"]["command-a"]["model"] = "command-r-plus"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    other = planning.make(configuration.parse(raw))
    notes = fingerprint.notes(other)
    assert len(notes) == 3
    assert 'model: "command-a-03-2025" -> "command-r-plus"' in notes[0]
    assert progress.Reader(other).status().problems[:3] == notes
    client = Experiment(clone, plan.results.root, config, None, "all")  # type: ignore[arg-type]
    output = client.dry_run()
    assert all(note in output for note in notes)
    table_output = " ".join(client.script("table").stdout.split())
    assert "command-a-solo: its results were made by another configuration" in table_output
    # The tables and the report are made again, and the report states it.
    assert {"aggregate", "report"} <= jobs(output)
    report_build.build(other)
    page = (plan.results.report / "index.html").read_text()
    assert "command-a-solo: its results were made by another configuration" in page


def test_a_session_that_lacks_a_requested_file_is_not_a_success(
    clone: Path, tmp_path: Path
) -> None:
    """The session lists targets that Snakemake omitted or another program removed."""
    raw = synthetic.make_plan(tmp_path / "results", "flash", first=10).config.model_dump(
        mode="json"
    )
    raw["settings"] = {"solo": ["--setting", "solo"], "coop-comm": None, "coop-nocomm": None}
    plan = planning.make(configuration.parse(raw))
    synthetic.finish(plan)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    lost = plan.runs[0].folder(plan.results).result
    last = tmp_path / "last"
    (clone / "lossy.smk").write_text(
        'include: "Snakefile"\n'
        "rule last:\n"
        "    input: RESULTS.summary_csv\n"
        f"    output: {str(last)!r}\n"
        f"    shell: 'rm {lost}; touch {{output}}'\n"
    )
    client = Experiment(clone, plan.results.root, config, None, str(last))  # type: ignore[arg-type]
    session = client.run("-s", "lossy.smk", "-j", "1", str(last))
    assert session.returncode == 1, session.stdout
    output = " ".join(session.stdout.split())
    assert (
        f"Not complete: Snakemake reports success, but 1 requested files do not exist: {lost}"
        in output
    )
    assert "Traceback" not in output
