"""Documented commands that set one resource keep the other resources of the profile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cooperflow.layout import REPOSITORY

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
# Printed by a Snakefile that includes the real one, which is parsed as the command line asks.
SHOW = f"""
include: "{REPOSITORY}/Snakefile"
import json as _json
_defaults = workflow.resource_settings._parsed_default_resources
print("SHOWN", _json.dumps({{
    "limits": {{n: r.raw for n, r in workflow.global_resources.items() if not n.startswith("_")}},
    "defaults": {{n: r.raw for n, r in _defaults.items()}},
}}))
"""


def read_resources(folder: Path, *arguments: str) -> dict[str, dict[str, object]]:
    """Return limits and default resources as Snakemake has them with these arguments."""
    for name in ("config", "demo", "report", "profiles", "rules", "scripts"):
        (folder / name).symlink_to(REPOSITORY / name)
    text = (REPOSITORY / "Snakefile").read_text() + SHOW.partition("\n")[2].partition("\n")[2]
    (folder / "Snakefile").write_text(text)
    result = subprocess.run(
        [SNAKEMAKE, "--list-rules", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    line = re.search(r"^SHOWN (.*)$", result.stdout, re.MULTILINE)
    assert line, result.stdout + result.stderr
    document: dict[str, dict[str, object]] = json.loads(line[1])
    return document


@pytest.mark.parametrize(
    ("page", "arguments", "limits"),
    [
        ("config/README.md", ["--resources", "run_slots=8"], {"run_slots": 8}),
        ("config/README.md", ["--resources", "provider_cohere=4"], {"provider_cohere": 4}),
        ("docs/real-benchmark.md", ["--resources", "pull_slots=4"], {"pull_slots": 4}),
    ],
)
def test_one_limit_leaves_the_others(
    tmp_path: Path, page: str, arguments: list[str], limits: dict[str, int]
) -> None:
    assert " ".join(arguments) in (REPOSITORY / page).read_text()
    expected = {"run_slots": 4, "eval_slots": 2, "pull_slots": 2, **limits}
    assert read_resources(tmp_path, *arguments)["limits"] == expected


def test_one_default_of_a_cluster_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = ["envs/setup.sh", "executor", str(tmp_path / "packages")]
    subprocess.run(setup, cwd=REPOSITORY, check=True, capture_output=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    command = ["--profile", "profiles/default", "--workflow-profile", "profiles/slurm"]
    assert " ".join(command) in page
    assert "--default-resources slurm_partition=" in page
    resources = read_resources(
        tmp_path, *command, "--default-resources", "slurm_partition=x", "mem_mb=9000"
    )
    assert resources["limits"] == {"run_slots": 40, "eval_slots": 20, "pull_slots": 4}
    assert (
        resources["defaults"].items()
        >= {
            "slurm_partition": "x",
            "mem_mb": 9000,
            "runtime": 240,
            "cpus_per_task": 1,
        }.items()
    )
