"""The archive for reviewers: it holds no secret, and its tables can be computed from it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import synthetic

from commands import bundle, record
from cooperflow import atomic_io, layout
from cooperflow.analysis.run_files import RunFiles
from cooperflow.archive import provenance
from cooperflow.errors import UserError
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import run_result
from cooperflow.tables import comparison
from cooperflow.tables.run_table import read_runs

KEY = "a-key-that-must-not-be-packed"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment, which the tests copy."""
    plan = synthetic.make_plan(tmp_path_factory.mktemp("finished") / "results", "flash", first=12)
    synthetic.finish(plan, steps=1)
    table = comparison.table(read_runs(plan.results.runs_csv))
    plan.results.comparison_csv.write_text(table.to_csv(index=False))
    for name, text in bundle.recompute_tables(plan).items():
        if name not in ("runs.csv", "summary.csv", "comparison.csv"):
            path = plan.results.root / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    provenance.write(plan)
    return plan.results.root


@pytest.fixture
def plan(finished: Path, tmp_path: Path) -> Plan:
    shutil.copytree(finished, tmp_path / "results", symlinks=True)
    return synthetic.make_plan(tmp_path / "results", "flash", first=12)


def test_recomputed_tables_and_repeated_bundles_are_identical(plan: Plan) -> None:
    path = bundle.pack(plan)
    checks = bundle.check(path)
    assert all(check.is_good for check in checks), checks
    assert {"runs.csv", "summary.csv", "comparison.csv"} <= {c.name for c in checks}
    names = (*layout.BREAKDOWNS, *layout.COMMUNICATION)
    assert {f"tables/{name}.csv" for name in names} <= {c.name for c in checks}
    assert {"communication.csv", "messages.csv", "team_tasks.csv"} <= {c.name for c in checks}
    before = path.read_bytes()
    assert bundle.pack(plan).read_bytes() == before


def test_compressed_runs_give_the_same_bundle_story_and_recording(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(run for run in plan.runs if run.experiment.setting.messaging)

    def read() -> tuple[object, ...]:
        folder = run.folder(plan.results)
        source = RunFiles(run, folder)
        answers = record.agent_answers(run, folder)
        return source.history, source.messages, source.communication, answers

    before, contents = bundle.pack(plan).read_bytes(), read()
    monkeypatch.setattr(atomic_io, "BLOCK", 0)
    for compressed in plan.runs:
        folder = compressed.folder(plan.results)
        run_result.move_upstream_files(compressed, folder.attempt(1))
        run_result.compress_attempt(folder.attempt(1))
        atomic_io.compress_below(folder.path, run_result.is_compressible)
    assert list(plan.results.runs.rglob("calls.jsonl.gz"))
    assert not list(plan.results.runs.rglob("calls.jsonl"))
    assert read() == contents
    assert bundle.pack(plan).read_bytes() == before


def test_no_key_is_packed(plan: Plan) -> None:
    log = plan.runs[0].folder(plan.results).attempt(1) / "cooperbench.log"
    log.write_text(f"Authorization: Bearer {KEY}\n" * 1000)
    atomic_io.compress(log)
    path = bundle.pack(plan, [KEY])
    with tarfile.open(path) as opened:
        for member in opened.getmembers():
            stream = opened.extractfile(member)
            assert stream is not None
            assert KEY.encode() not in stream.read(), member.name
            assert (member.uid, member.mtime, member.uname) == (0, 0, "")
    assert all(check.is_good for check in bundle.check(path))


def test_a_changed_figure_is_found(plan: Plan, tmp_path: Path) -> None:
    text = plan.results.summary_csv.read_text()
    plan.results.summary_csv.write_text(text.replace(",12,", ",13,", 1))
    bad = [check for check in bundle.check(bundle.pack(plan)) if not check.is_good]
    assert [check.name for check in bad] == ["summary.csv"]
    assert "line 2 differs" in bad[0].detail
    script = layout.REPOSITORY / "scripts" / "commands" / "bundle.py"
    command = [sys.executable, str(script), "--check", str(plan.results.root / bundle.NAME)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "BAD  summary.csv" in result.stdout


def test_a_changed_file_is_found(plan: Plan, tmp_path: Path) -> None:
    path = bundle.pack(plan)
    other = tmp_path / "other.tar.gz"
    with tarfile.open(path) as old, tarfile.open(other, "w:gz") as new:
        for member in old.getmembers():
            stream = old.extractfile(member)
            assert stream is not None
            data = stream.read()
            if member.name.endswith("solo.patch"):
                data += b"+ more\n"
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    bad = [check for check in bundle.check(other) if not check.is_good]
    assert [check.name for check in bad] == ["files"]


def test_a_file_that_is_not_a_bundle_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_text("nothing")
    with pytest.raises(UserError, match="not a bundle"):
        bundle.check(path)


def test_a_truncated_bundle_is_reported(plan: Plan, tmp_path: Path) -> None:
    content = bundle.pack(plan).read_bytes()
    path = tmp_path / "cut.tar.gz"
    for length in (20, len(content) // 2, len(content) * 4 // 5):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="or incomplete"):
            bundle.check(path)


def test_provenance_records_where_results_come_from(plan: Plan) -> None:
    document = json.loads(plan.results.provenance.read_text())
    facts = document["facts"]
    assert facts["lock"] == f"sha256:{provenance.file_hash(provenance.LOCK)}"
    assert facts["attempts"].startswith("36, of which ")
    assert facts["first attempt"].startswith("2026-11-24")
    assert document["config"]["models"]["command-a"]["api_key"] == "COHERE_API_KEY"
    assert set(document["packages"]) >= {"snakemake", "cooperbench", "litellm"}


def test_no_secret_of_a_url_is_written() -> None:
    document = {"redis": {"url": "redis://me:secret@host:6379/0"}, "x": ["https://h/p?key=1"]}
    text = json.dumps(provenance.remove_secrets(document))
    assert "secret" not in text
    assert "key=1" not in text
    assert "host:6379/0" in text
