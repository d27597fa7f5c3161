"""What is laid around upstream inside its process: an unread patch is told from an empty one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from cooperflow.attempt import child, seams

child.prepare_environment()

from cooperbench.agents.mini_swe_agent_v2.connectors.git import GitConnector  # noqa: E402
from cooperbench.agents.mini_swe_agent_v2.environments.docker import (  # noqa: E402
    DockerEnvironment,
    DockerEnvironmentConfig,
)

NEVER = "#!/bin/sh\nexec sleep 60\n"
FAILS = "#!/bin/sh\nexit 1\n"


@pytest.mark.parametrize(("docker", "unread"), [(NEVER, True), (FAILS, False)])
def test_a_docker_that_does_not_answer_is_noted(
    docker: str, unread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream says in both cases that nothing was submitted."""
    for method in ("_exec", "submitted_patch"):  # put back after the test
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
    seams.note_unread_patches(note)
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
    """An engine that starts no command gives no patch."""
    for method in ("_exec", "submitted_patch"):
        monkeypatch.setattr(GitConnector, method, getattr(GitConnector, method))
    program, note = tmp_path / "docker", tmp_path / "note"
    program.write_text("#!/bin/sh\necho 'OCI runtime exec failed: cgroup is gone' >&2\nexit 126\n")
    program.chmod(0o755)
    environment: Any = object.__new__(DockerEnvironment)
    environment.config = DockerEnvironmentConfig(image="any", executable=str(program), timeout=5)
    environment.container_id = "any"
    connector: Any = object.__new__(GitConnector)
    connector.agent_id, connector._base_sha = "agent2", "HEAD"
    connector._logger = logging.getLogger(__name__)
    seams.note_unread_patches(note)
    connector.submitted_patch(environment)  # upstream takes the engine's words for a patch
    assert "agent2: OCI runtime exec failed: cgroup is gone" in note.read_text()
