"""A Snakemake of another environment or version is named before anything else happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cooperflow import environment
from cooperflow.layout import REPOSITORY


def test_this_environment_is_the_right_one() -> None:
    import snakemake

    assert environment.interpreter_problem(snakemake.__version__, REPOSITORY) == ""


@pytest.mark.parametrize(
    ("version", "packages", "words"),
    [
        ("8.20.1", ("yaml",), "it is version 8.20.1, and 9.27 is needed"),
        ("9.27.1", ("yaml", "no_such_package"), "its environment has no no_such_package"),
    ],
)
def test_another_one_is_named_with_the_command_to_use(
    tmp_path: Path, version: str, packages: tuple[str, ...], words: str
) -> None:
    text = environment.interpreter_problem(version, tmp_path, packages, "/usr/bin/python3")
    assert text.startswith(f"Wrong Snakemake: /usr/bin/python3: {words}.")
    assert f"Run `make setup`, then use {tmp_path}/.venv/bin/snakemake" in text


def test_a_dry_run_without_the_packages_stops(tmp_path: Path) -> None:
    """The environment is the right one here; a module in front of it hides one package."""
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\n"
        "_find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'docker' else _find(name, *a)\n"
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "--dry-run", "all"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "its environment has no docker" in done.stderr
    assert ".venv/bin/snakemake instead of `snakemake`" in done.stderr
