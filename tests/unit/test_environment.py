"""Environment of processes: the right interpreter, and a runtime folder without leftovers."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
def test_another_environment_is_named_with_the_command_to_use(
    tmp_path: Path, version: str, packages: tuple[str, ...], words: str
) -> None:
    text = environment.interpreter_problem(version, tmp_path, packages, "/usr/bin/python3")
    assert text.startswith(f"Wrong Snakemake: /usr/bin/python3: {words}.")
    assert f"Run `make setup`, then use {tmp_path}/.venv/bin/snakemake" in text


def test_a_dry_run_without_the_packages_stops(tmp_path: Path) -> None:
    """The environment is the right one; a module found earlier on the path hides one package."""
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\n"
        "_find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'docker' else _find(name, *a)\n"
    )
    process = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "--dry-run", "all"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1
    assert "its environment has no docker" in process.stderr
    assert ".venv/bin/snakemake instead of `snakemake`" in process.stderr


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A runtime folder for this test alone; a longer path would fall back to the user's own."""
    with tempfile.TemporaryDirectory(prefix="cf-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        assert environment.runtime_folder().parent == Path(folder)
        yield


@pytest.mark.parametrize("folder", ["/run/user/1000", "/no/such/folder", "/" + "long/" * 12, ""])
def test_a_folder_that_may_vanish_is_not_used(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd removes /run/user/UID at logout, and `nohup snakemake` continues."""
    monkeypatch.setattr(Path, "is_dir", lambda path: "no" not in path.parts)
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    assert environment.runtime_folder().parent == Path("/tmp")


def test_the_folder_is_private() -> None:
    assert environment.runtime_folder().stat().st_mode & 0o777 == 0o700
    environment.runtime_folder().chmod(0o755)
    with pytest.raises(PermissionError):
        environment.runtime_folder()


def test_the_folder_of_a_killed_process_is_removed_by_the_next() -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, 'scripts')\n"
        "from cooperflow import environment\n"
        "with environment.scratch_folder(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(environment.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert len(list(environment.runtime_folder().glob("run-*"))) == 1
    with environment.scratch_folder() as folder:
        environment.remove_stale_runtime_files()
        assert list(environment.runtime_folder().glob("run-*")) == [folder]
    assert not list(environment.runtime_folder().iterdir())


def test_a_folder_that_is_removed_before_it_is_locked_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that removes stale folders may find it between its creation and its lock."""
    make, names = tempfile.mkdtemp, []

    def removed_at_first(**options: object) -> str:
        names.append(make(**options))  # type: ignore[call-overload]
        if len(names) == 1:
            environment.remove_stale_runtime_files()
        return str(names[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", removed_at_first)
    with environment.scratch_folder() as folder:
        assert folder.is_dir()
    assert len(names) == 2
    assert not list(environment.runtime_folder().iterdir())


def test_only_unserved_sockets_are_removed() -> None:
    for name in ("dead", "served"):
        (environment.runtime_folder() / f"{name}.lock").touch()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(environment.runtime_folder() / f"{name}.sock"))
        if name == "served":
            listener.listen()
        else:
            listener.close()
    environment.remove_stale_runtime_files()
    assert {path.name for path in environment.runtime_folder().iterdir()} == {
        "served.sock",
        "served.lock",
    }
    listener.close()


def test_every_key_that_litellm_reads_is_withheld_from_a_model_without_one() -> None:
    names = (
        *("OPENAI_API_KEY", "HF_TOKEN", "TOGETHER_AI_TOKEN", "WATSONX_APIKEY", "COMETAPI_KEY"),
        *("WATSONX_ZENAPIKEY", "AIMLAPI_KEY", "FRIENDLI_TOKEN", "GIGACHAT_CREDENTIALS"),
    )
    # Credentials of clouds belong to no single model, and other tokens to no model.
    kept = {"AWS_SECRET_ACCESS_KEY": "a", "GITHUB_TOKEN": "b", "HOME": "/root"}
    variables = dict.fromkeys(names, "sk-0123456789") | kept
    environment.remove_keys(variables, "my/model")
    assert variables == kept


@pytest.mark.parametrize(
    ("name", "controlled"),
    [
        ("OPENAI_BASE_URL", True),
        ("WATSONX_IAM_URL", True),
        ("DEFAULT_MAX_TOKENS", True),
        ("DEFAULT_ANTHROPIC_CHAT_MAX_TOKENS", True),
        ("DEFAULT_REASONING_EFFORT_LOW_THINKING_BUDGET", True),
        ("DEFAULT_SHELL", False),
        ("OPENAI_API_KEY", False),
        ("HTTPS_PROXY", False),
    ],
)
def test_variables_that_would_change_a_call_are_removed(name: str, controlled: bool) -> None:
    assert environment.is_controlled(name) is controlled
