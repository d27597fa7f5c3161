"""Another choice of runs under the same results: the tables follow it, and nothing runs again."""

from __future__ import annotations

import re
from pathlib import Path

import synthetic
import yaml
from experiment_client import Experiment

from cooperflow import atomic_io
from cooperflow.experiment import config as configuration
from cooperflow.experiment import dataset, fingerprint, plan
from cooperflow.report import build as report_build
from cooperflow.session import progress


def jobs(said: str) -> set[str]:
    """The rules that a dry run counts jobs of."""
    return set(re.findall(r"^(\w+) +\d+$", said, re.MULTILINE)) - {"total"}


def test_tables_follow_the_config(clone: Path, tmp_path: Path) -> None:
    made = synthetic.make_plan(tmp_path / "results", "flash", first=10)
    synthetic.finish(made)
    config = tmp_path / "config.yaml"
    target = str(made.results.summary_csv)
    one = Experiment(clone, made.results.root, config, None, target)  # type: ignore[arg-type]
    asked = made.config.model_dump(mode="json")

    def ask(**changes: object) -> str:
        config.write_text(yaml.safe_dump({**asked, **changes}, sort_keys=False))
        return one.dry_run()

    assert "Nothing to be done" in ask()
    # Fewer pairs: only the tables are made again.
    fewer = ask(dataset={**asked["dataset"], "first": 5})
    assert jobs(fewer) == {"aggregate"}
    done = one.run()
    assert done.returncode == 0, done.stdout
    assert len(one.rows()) == 15
    assert "Nothing to be done" in one.dry_run()
    # Another model: its runs come first, although only a table was requested.
    model = {"model": "command-a-03-2025", "replay": "demo/recordings"}
    more = ask(models={**asked["models"], "further": model})
    runs = {name for name in jobs(more) if name.startswith("run_")}
    assert runs == {"run_further_solo", "run_further_coop_comm", "run_further_coop_nocomm"}


def test_a_dry_run_compares_the_contents_of_tasks(tmp_path: Path) -> None:
    data = tmp_path / "dataset"
    raw = synthetic.make_plan(tmp_path / "results", "flash", first=10).config.model_dump(
        mode="json"
    )
    raw["dataset"]["dir"] = str(data)
    made = plan.make(configuration.parse(raw))
    synthetic.finish(made)
    pair = made.pairs[0]
    task = dataset.task_folder(data, pair.repo, pair.task_id)
    task.mkdir(parents=True)
    (task / "runner.sh").write_text("before")
    hashes = dataset.task_hashes(data, [pair])
    for experiment in made.experiments:
        asked = fingerprint.requested(experiment, made)
        resolved = fingerprint.resolved(experiment, made, hashes)
        document = {"asked": asked, "resolved": resolved, "fingerprint": "0"}
        atomic_io.write_json(made.results.experiment(experiment.run_name), document)
    assert fingerprint.notes(made, thorough=True) == []  # the other tasks are not on this machine
    (task / "runner.sh").write_text("after")
    notes = fingerprint.notes(made, thorough=True)
    assert len(notes) == 3
    assert f"data set: {pair.repo}/{pair.task_id} has other contents" in notes[0]
    assert fingerprint.notes(made) == []  # tables and status do not read the data set


def test_another_model_under_the_same_name_is_named(clone: Path, tmp_path: Path) -> None:
    """With nothing left to run, no session compares the configurations: dry run and tables do."""
    made = synthetic.make_plan(tmp_path / "results", "flash", first=10)
    synthetic.finish(made)
    for experiment in made.experiments:
        asked = fingerprint.requested(experiment, made)
        resolved = fingerprint.resolved(experiment, made, {})
        document = {"asked": asked, "resolved": resolved, "fingerprint": "0"}
        atomic_io.write_json(made.results.experiment(experiment.run_name), document)
    assert fingerprint.notes(made, thorough=True) == []
    raw = made.config.model_dump(mode="json")
    raw["models"]["command-a"]["model"] = "command-r-plus"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    other = plan.make(configuration.parse(raw))
    notes = fingerprint.notes(other)
    assert len(notes) == 3
    assert 'model: "command-a-03-2025" -> "command-r-plus"' in notes[0]
    assert progress.Reader(other).status().problems[:3] == notes
    one = Experiment(clone, made.results.root, config, None, "all")  # type: ignore[arg-type]
    said = one.dry_run()
    assert all(note in said for note in notes)
    shown = " ".join(one.script("table").stdout.split())
    assert "command-a-solo: its results were made by another configuration" in shown
    # The tables and the report are made again, and the report states it.
    assert {"aggregate", "report"} <= jobs(said)
    report_build.build(other)
    page = (made.results.report / "index.html").read_text()
    assert "command-a-solo: its results were made by another configuration" in page


def test_a_session_that_lacks_a_requested_file_is_not_a_success(
    clone: Path, tmp_path: Path
) -> None:
    """Whatever Snakemake left out, or another program took away: the session lists it."""
    raw = synthetic.make_plan(tmp_path / "results", "flash", first=10).config.model_dump(
        mode="json"
    )
    raw["settings"] = {"solo": ["--setting", "solo"], "coop-comm": None, "coop-nocomm": None}
    made = plan.make(configuration.parse(raw))
    synthetic.finish(made)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    lost = made.runs[0].folder(made.results).result
    last = tmp_path / "last"
    (clone / "lossy.smk").write_text(
        'include: "Snakefile"\n'
        "rule last:\n"
        "    input: RESULTS.summary_csv\n"
        f"    output: {str(last)!r}\n"
        f"    shell: 'rm {lost}; touch {{output}}'\n"
    )
    one = Experiment(clone, made.results.root, config, None, str(last))  # type: ignore[arg-type]
    done = one.run("-s", "lossy.smk", "-j", "1", str(last))
    assert done.returncode == 1, done.stdout
    said = " ".join(done.stdout.split())
    assert (
        f"Not complete: Snakemake reports success, but 1 requested files do not exist: {lost}"
        in said
    )
    assert "Traceback" not in said
