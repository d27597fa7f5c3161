"""Exported results, read by the tools of their formats."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import exported_results
import pytest

from cooperflow.archive import run_formats
from cooperflow.experiment.plan import Plan

HARBOR = "0.26.0"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return exported_results.finished_plan(tmp_path_factory.mktemp("export") / "results")


@pytest.fixture(scope="module")
def exported(plan: Plan) -> Path:
    return exported_results.export_of(plan)


@pytest.mark.index
@pytest.mark.slow
def test_harbor_accepts_the_trajectories(exported: Path, tmp_path: Path) -> None:
    """Harbor's models of the format, without its other dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    command += [str(tmp_path), "--python-version", "3.13", "--only-binary", ":all:"]
    python = sys.executable
    pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
    if pip.returncode:
        command[0] = str(Path(sys.base_prefix) / "bin" / "python3")
    result = subprocess.run(
        [*command, f"harbor=={HARBOR}"], capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip(f"harbor {HARBOR} cannot be downloaded: {result.stderr.strip()[-200:]}")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "harbor")
    program = (
        "import json, sys; from pathlib import Path\n"
        "from harbor.models.trajectories import Trajectory\n"
        "for path in Path(sys.argv[1]).rglob('*.json'):\n"
        "    Trajectory.model_validate(json.loads(path.read_text()))\n"
    )
    result = subprocess.run(
        [python, "-c", program, str(exported / "atif")],
        env={"PYTHONPATH": str(tmp_path / "harbor"), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_inspect_reads_the_logs_back(exported: Path, tmp_path: Path) -> None:
    python = run_formats.inspect_interpreter()
    if python is None:
        pytest.skip("inspect_ai is not installed: run `make inspect`")
    source = exported / "inspect" / "command-a-coop-comm.json"
    target = tmp_path / "command-a-coop-comm.eval"
    run_formats.pack_inspect_log(python, source, target)
    program = (
        "import json, sys; from inspect_ai.log import read_eval_log\n"
        "log = read_eval_log(sys.argv[1])\n"
        "print(json.dumps([log.status, len(log.samples), log.results.scores[0].metrics"
        "['accuracy'].value, sum(len(s.messages) for s in log.samples)]))\n"
    )
    result = subprocess.run(
        [python, "-c", program, str(target)], capture_output=True, text=True, check=True
    )
    document = json.loads(source.read_text())
    assert json.loads(result.stdout) == [
        "success",
        50,
        document["results"]["scores"][0]["metrics"]["accuracy"]["value"],
        sum(len(sample["messages"]) for sample in document["samples"]),
    ]
