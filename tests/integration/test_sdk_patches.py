"""SDK patches inside upstream's process: an unread patch is distinguished from an empty patch."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cooperflow.attempt import child_process
from cooperflow.instrumentation import sdk_patches

child_process.prepare_environment()

from cooperbench.agents.mini_swe_agent_v2.connectors.git import GitConnector  # noqa: E402
from cooperbench.agents.mini_swe_agent_v2.environments.docker import (  # noqa: E402
    DockerEnvironment,
    DockerEnvironmentConfig,
)
from cooperbench.eval import sandbox  # noqa: E402

NEVER = "#!/bin/sh\nexec sleep 60\n"
FAILS = "#!/bin/sh\nexit 1\n"


@pytest.mark.parametrize(("docker", "unread"), [(NEVER, True), (FAILS, False)])
def test_a_docker_that_does_not_answer_is_noted(
    docker: str, unread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream reports in both cases that nothing was submitted."""
    for method in ("_exec", "submitted_patch"):  # restored after the test
        monkeypatch.setattr(GitConnector, method, getattr(GitConnector, method))
    program, note = tmp_path / "docker", tmp_path / "note"
    program.write_text(docker)
    program.chmod(0o755)
    environment: Any = object.__new__(DockerEnvironment)
    environment.config = DockerEnvironmentConfig(image="any", executable=str(program), timeout=1)
    environment.container_id = "any"
    connector: Any = object.__new__(GitConnector)
    connector.agent_id, connector._base_sha = "agent2", "HEAD"
    connector._logger = logging.getLogger(__name__)
    sdk_patches.note_unread_patches(note)
    # A command of the agent's own that does not end is the agent's affair.
    connector._exec(environment, "true")
    assert not note.exists()
    assert connector.submitted_patch(environment) == ""
    assert note.exists() == unread
    if unread:
        assert "agent2: An error occurred while executing the command" in note.read_text()


def test_a_patch_that_the_engine_did_not_let_be_read_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch is unread if the engine starts no command."""
    for method in ("_exec", "submitted_patch"):
        monkeypatch.setattr(GitConnector, method, getattr(GitConnector, method))
    program, note = tmp_path / "docker", tmp_path / "note"
    program.write_text(
        "#!/bin/sh\necho 'OCI runtime exec failed: cgroup is missing' >&2\nexit 126\n"
    )
    program.chmod(0o755)
    environment: Any = object.__new__(DockerEnvironment)
    environment.config = DockerEnvironmentConfig(image="any", executable=str(program), timeout=5)
    environment.container_id = "any"
    connector: Any = object.__new__(GitConnector)
    connector.agent_id, connector._base_sha = "agent2", "HEAD"
    connector._logger = logging.getLogger(__name__)
    sdk_patches.note_unread_patches(note)
    connector.submitted_patch(environment)  # upstream takes the engine's words for a patch
    assert "agent2: OCI runtime exec failed: cgroup is missing" in note.read_text()


# Runs in this machine's shell what an agent's container would run.
LOCAL = '#!/bin/bash\nfor command; do :; done\ncd "$REPOSITORY" && eval "$command"\n'


def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after the test what the seam replaces."""
    for owner, names in (
        (Path, ("read_text", "write_text")),
        (GitConnector, ("_exec", "submitted_patch")),
        (sandbox, ("_load_patch", "_write_patch")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))


@pytest.mark.parametrize(
    "content", [b"a\r\n", "\u00e9\n".encode("latin-1"), b"a\n", b"\xef\xbf\xbd\n"]
)
def test_a_patch_keeps_its_bytes_from_the_repository_to_the_evaluation(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _restored(monkeypatch)
    repository, program = tmp_path / "repo", tmp_path / "docker"
    program.write_text(LOCAL)
    program.chmod(0o755)
    monkeypatch.setenv("REPOSITORY", str(repository))

    def git(*arguments: str) -> bytes:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(repository), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    repository.mkdir()
    git("init", "-q", "-b", "agent1")
    (repository / "a.txt").write_bytes(content)
    git("add", "-A")
    git("commit", "-q", "-m", "base")
    base = git("rev-parse", "HEAD").decode().strip()
    git("init", "-q", "--bare", str(tmp_path / "team.git"))
    git("remote", "add", "origin", str(tmp_path / "team.git"))
    (repository / "a.txt").write_bytes(content * 2)
    git("commit", "-q", "-a", "-m", "change")
    git("push", "-q", "origin", "agent1")

    environment: Any = object.__new__(DockerEnvironment)
    environment.config = DockerEnvironmentConfig(image="any", executable=str(program), timeout=10)
    environment.container_id = "any"
    connector: Any = object.__new__(GitConnector)
    connector.agent_id, connector._base_sha = "agent1", base
    connector._logger = logging.getLogger(__name__)
    sdk_patches.keep_patches_exact()
    sdk_patches.note_unread_patches(tmp_path / "note")
    patch = connector.submitted_patch(environment)
    assert not (tmp_path / "note").exists()
    file = tmp_path / "agent1.patch"
    file.write_text(patch)  # as upstream's runner does
    assert file.read_bytes() == git("diff", base, "agent1")
    assert json.loads(json.dumps({"diff": patch})) == {"diff": patch}

    written: list[str] = []

    class Sandbox:
        def exec(self, *command: str) -> Any:
            written.append(command[-1])
            return type("Result", (), {"returncode": 0})

    # As upstream's evaluation does.
    loaded = sandbox._filter_test_files(sandbox._load_patch(file.read_text()) or "")
    sandbox._write_patch(Sandbox(), "patch1.patch", loaded)
    target = tmp_path / "written.patch"
    subprocess.run(
        ["bash", "-c", written[0].replace("/patches/patch1.patch", str(target))], check=True
    )
    assert target.read_bytes().rstrip(b"\n") == file.read_bytes().rstrip(b"\n")
    git("checkout", "-q", base)
    git("apply", str(target))
    assert (repository / "a.txt").read_bytes() == content * 2


def test_other_files_are_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _restored(monkeypatch)
    sdk_patches.keep_patches_exact()
    (tmp_path / "a.md").write_bytes(b"a\r\n")
    assert (tmp_path / "a.md").read_text() == "a\n"


def test_a_patch_is_never_the_name_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream asks the file system, which refuses a name of more than 255 bytes."""
    _restored(monkeypatch)
    sdk_patches.keep_patches_exact()
    patch = "diff --git a.py a.py\n@@ -1 +1 @@\n-a\n+" + "a" * 300
    assert sandbox._load_patch(patch) == patch + "\n"


def test_an_image_without_base64_gives_its_patch_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    _restored(monkeypatch)

    def execute(_self: Any, _env: Any, command: str) -> dict[str, Any]:
        missing = "base64" in command
        return {"output": "bash: base64: command not found\n" if missing else "diff --git a b\n"}

    monkeypatch.setattr(GitConnector, "_exec", execute)
    sdk_patches.keep_patches_exact()
    connector: Any = object.__new__(GitConnector)
    assert connector._exec(None, f"{sdk_patches.DIFF}HEAD")["output"] == "diff --git a b\n"
