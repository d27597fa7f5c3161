"""A launcher that does not start: the job prints why and does its work itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from experiment_client import REPOSITORY

from cooperflow import environment, processes
from cooperflow.attempt import child_process
from cooperflow.jobs import launcher
from cooperflow.outcomes import judgement
from cooperflow.outcomes.judgement import AgentEnd, Evidence


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A session of this process, with a folder for its sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path) if len(str(tmp_path)) < 50 else "/tmp")
    monkeypatch.setenv(environment.OWNER, str(processes.this_process()))
    monkeypatch.delenv(environment.LAUNCHER, raising=False)
    return launcher.socket_path(os.environ[environment.OWNER])


def test_a_launcher_that_ends_at_once_is_replaced(
    session: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = session.with_suffix(".py")
    broken.write_text("raise OSError('Read-only file system: /home/nobody')\n")
    monkeypatch.setattr(launcher, "SCRIPTS", session.parent)
    monkeypatch.setattr(launcher, "socket_path", lambda owner, kind: session)
    (session.parent / "launcher.py").write_text(broken.read_text())
    try:
        assert launcher._request_work("run") is None
    finally:
        for path in (broken, session.parent / "launcher.py"):
            path.unlink()
        for ending in (".log", ".lock"):
            session.with_suffix(ending).unlink(missing_ok=True)
    output = capsys.readouterr().out
    assert "The launcher ended: OSError: Read-only file system: /home/nobody." in output
    assert "killed" not in output


def test_a_launcher_that_dies_before_it_forks_costs_nothing(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(launcher, "_open_launcher", lambda kind: ours)
    theirs.close()
    assert launcher._request_work("run") is None


def test_a_killed_fork_is_reported(
    session: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(launcher, "_open_launcher", lambda kind: ours)
    theirs.sendall(launcher.STARTED)
    theirs.shutdown(socket.SHUT_WR)
    assert launcher._request_work("run") == 137
    assert "was killed" in capsys.readouterr().out
    theirs.close()


IMPORTS = """
import sys
from pathlib import Path
from cooperflow.attempt import child_process
sys.modules["cooperbench.cli"] = None  # an import that fails
folder = Path(sys.argv[1])
command = child_process.Command(["run"], folder / "log", folder / "note", {})
print(child_process._main(command))
"""


def test_an_import_that_fails_halts_with_its_text(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": "scripts"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == [str(judgement.CANNOT_START)]
    assert "cooperbench.cli" in result.stderr.strip().splitlines()[-1]
    verdict = judgement.judge_run(Evidence(document=False, exit_code=child_process.CANNOT_START))
    assert (verdict.reason, verdict.halts, verdict.again) == ("setup_error", True, False)


@pytest.mark.parametrize(
    ("requested", "reason"),
    [(0, "agent_error"), (1, "docker_unavailable"), (None, "docker_unavailable")],
)
def test_an_agent_that_asked_for_no_container_is_not_dockers_fault(
    requested: int | None, reason: str
) -> None:
    evidence = Evidence(
        document=True,
        agents=(AgentEnd("solo", "Error", "'ascii' codec can't decode byte 0xe2"),),
        containers_started=0,
        containers_asked=requested,
    )
    assert judgement.judge_run(evidence).reason == reason


PROGRAM = """
import os, sys, locale, warnings
from cooperflow.attempt import child_process
warnings.warn("old", DeprecationWarning)
child_process.prepare_environment()
warnings.warn("old", DeprecationWarning)
print(open(sys.argv[1]).read() == "Grüße → ✓", os.environ["MSWEA_GLOBAL_CONFIG_DIR"])
import cooperbench.agents.mini_swe_agent_v2
"""


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1"])
def test_children_work_in_any_locale_and_without_a_home(locale: str, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("Grüße → ✓", encoding="utf-8")
    variables = {
        **os.environ,
        "LC_ALL": locale,
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONWARNINGS": "error",
    }
    variables |= {"HOME": "/proc/none", "PYTHONPATH": str(REPOSITORY / "scripts")}
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MSWEA_GLOBAL_CONFIG_DIR", "PYTHONUTF8"):
        variables.pop(name, None)
    environment.make_portable(variables)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "prompt")],
        env=variables,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "True"


def test_warnings_that_are_errors_are_not_passed_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variables = dict(os.environ)
        environment.enter_controlled(variables)
        warnings.warn("old", DeprecationWarning, stacklevel=1)


@pytest.mark.parametrize("name", ["x" * 90, "with space", "quo'te", "per%20cent", "a?b", "ü"])
def test_sockets_are_created_in_a_folder_with_a_short_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_folder = tmp_path / name
    runtime_folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder))
    folder = environment.runtime_folder()
    assert folder.parent == Path("/tmp")
    with environment.scratch_folder() as scratch, socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(scratch / "redis.sock"))
    assert len(os.fsencode(launcher.socket_path("owner"))) <= 107


def test_a_checkout_with_a_space_leaves_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "my checkout" / "docker-labelled"
    odd.parent.mkdir()
    odd.write_text("#!/bin/sh\n")
    monkeypatch.setattr(child_process, "SHIM", odd)
    before = set(environment.runtime_folder().iterdir())
    with environment.scratch_folder() as scratch:
        path = child_process.shim_path(scratch)
        assert environment.is_plain_path(path) and Path(path).resolve() == odd
    assert not Path(path).exists()
    assert {
        p for p in environment.runtime_folder().iterdir() if p.name.startswith("docker-")
    } <= before
