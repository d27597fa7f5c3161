"""SDK patches inside upstream's process: an unread patch is distinguished from an empty patch."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from cooperflow.attempt import child_process
from cooperflow.instrumentation import upstream_patches

child_process.prepare_environment()

from cooperbench.agents.mini_swe_agent_v2.connectors.git import GitConnector  # noqa: E402
from cooperbench.agents.mini_swe_agent_v2.environments import docker as module  # noqa: E402
from cooperbench.agents.mini_swe_agent_v2.environments.docker import (  # noqa: E402
    DockerEnvironment,
    DockerEnvironmentConfig,
)
from cooperbench.eval import sandbox  # noqa: E402

NEVER = "#!/bin/sh\nexec sleep 60\n"
FAILS = "#!/bin/sh\nexit 1\n"


def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after the test what the seam replaces."""
    for owner, names in (
        (Path, ("read_text", "write_text")),
        (GitConnector, ("_exec", "submitted_patch")),
        (sandbox, ("_load_patch", "_write_patch")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))


def _environment(container: str, **config: Any) -> Any:
    """Upstream's Docker environment for a container that exists already, or for none."""
    environment: Any = object.__new__(DockerEnvironment)
    environment.config = DockerEnvironmentConfig(image="any", **config)
    environment.container_id = container
    environment.cleanup = lambda: None
    return environment


def _connector(agent: str, base: str) -> Any:
    connector: Any = object.__new__(GitConnector)
    connector.agent_id, connector._base_sha = agent, base
    connector._logger = logging.getLogger(__name__)
    return connector


@pytest.mark.parametrize(("docker", "unread"), [(NEVER, True), (FAILS, False)])
def test_a_docker_that_does_not_answer_is_noted(
    docker: str, unread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream reports in both cases that nothing was submitted."""
    _restored(monkeypatch)
    program, note = tmp_path / "docker", tmp_path / "note"
    program.write_text(docker)
    program.chmod(0o755)
    environment = _environment("any", executable=str(program), timeout=1)
    connector = _connector("agent2", "HEAD")
    upstream_patches.note_unread_patches(note)
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
    _restored(monkeypatch)
    program, note = tmp_path / "docker", tmp_path / "note"
    program.write_text(
        "#!/bin/sh\necho 'OCI runtime exec failed: cgroup is missing' >&2\nexit 126\n"
    )
    program.chmod(0o755)
    environment = _environment("any", executable=str(program), timeout=5)
    connector = _connector("agent2", "HEAD")
    upstream_patches.note_unread_patches(note)
    connector.submitted_patch(environment)  # upstream takes the engine's words for a patch
    assert "agent2: OCI runtime exec failed: cgroup is missing" in note.read_text()


# Runs in this machine's shell what an agent's container would run.
LOCAL = '#!/bin/bash\nfor command; do :; done\ncd "$REPOSITORY" && eval "$command"\n'


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

    environment = _environment("any", executable=str(program), timeout=10)
    connector = _connector("agent1", base)
    upstream_patches.keep_patches_exact()
    upstream_patches.note_unread_patches(tmp_path / "note")
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
    upstream_patches.keep_patches_exact()
    (tmp_path / "a.md").write_bytes(b"a\r\n")
    assert (tmp_path / "a.md").read_text() == "a\n"


def test_a_patch_is_never_the_name_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream asks the file system, which refuses a name of more than 255 bytes."""
    _restored(monkeypatch)
    upstream_patches.keep_patches_exact()
    patch = "diff --git a.py a.py\n@@ -1 +1 @@\n-a\n+" + "a" * 300
    assert sandbox._load_patch(patch) == patch + "\n"


def test_an_image_without_base64_gives_its_patch_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    _restored(monkeypatch)

    def execute(_self: Any, _env: Any, command: str) -> dict[str, Any]:
        missing = "base64" in command
        return {"output": "bash: base64: command not found\n" if missing else "diff --git a b\n"}

    monkeypatch.setattr(GitConnector, "_exec", execute)
    upstream_patches.keep_patches_exact()
    connector: Any = object.__new__(GitConnector)
    assert connector._exec(None, f"{upstream_patches.DIFF}HEAD")["output"] == "diff --git a b\n"


def _answer(connection: socket.socket, *answers: bytes) -> None:
    """Answer requests, each in one piece that does not state its end."""
    for answer in answers:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1 << 16)
        connection.sendall(answer)
    connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_output_that_comes_with_the_header_is_kept(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output of a fast command arrives before the SDK has read the answer's header."""
    monkeypatch.setattr(APIClient, "_read_from_socket", APIClient._read_from_socket)
    upstream_patches.read_whole_output()
    path = tmp_path / "engine.sock"
    header = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    frames = (
        upstream_patches.FRAME.pack(1, 4) + b"out\n" + upstream_patches.FRAME.pack(2, 4) + b"err\n"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        serve = threading.Thread(
            target=lambda: _answer(listener.accept()[0], header + frames), daemon=True
        )
        serve.start()
        output = APIClient(f"unix://{path}", version="1.41").exec_start("any", stream=stream)
        serve.join(20)
    assert (b"".join(output) if stream else output) == b"out\nerr\n"


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    command = ["docker", "run", "-d", "--rm", "cooperflow/demo-base:bookworm", "sleep", "600"]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield name
    subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)


def _execute(container: str, command: str, cwd: str = "", **config: Any) -> dict[str, Any]:
    program = os.environ["MSWEA_DOCKER_EXECUTABLE"]
    environment = _environment(container, executable=program, **config)
    return dict(environment.execute({"command": command}, cwd))


def _execute_by_sdk(
    container: str, command: str, monkeypatch: pytest.MonkeyPatch, cwd: str = "", **config: Any
) -> tuple[dict[str, Any], int]:
    """Return the result, and the number of programs that were started nevertheless."""
    programs: list[Any] = []
    run = subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        programs.append(arguments)
        return run(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "subprocess", subprocess)
        patch.setattr(APIClient, "_read_from_socket", APIClient._read_from_socket)
        patch.setattr(subprocess, "run", counted)
        upstream_patches.read_whole_output()
        upstream_patches.start_commands_by_sdk()
        return _execute(container, command, cwd, **config), len(programs)


@pytest.mark.docker
@pytest.mark.parametrize(
    "command",
    [
        "echo out; echo err >&2; echo out more; exit 3",
        "for n in $(seq 300); do echo out $n; echo err $n >&2; done",
        "printf 'a\\r\\nb\\rc\\377\\351\\000\\n'",
        "pwd; echo $NAME $SPACED; shopt login_shell; id; tty",
        "cat; read line; echo $?; grep x",
        "seq 1500000; printf '\\303\\251%.0s' {1..40001}",
        "kill -9 $$",
        "exec >&- 2>&-; sleep 1; exit 4",
        "sleep 600 >/dev/null 2>&1 & echo started",
        "no-such-command",
        "",
    ],
)
def test_a_command_gives_the_same_by_the_sdk(
    command: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"NAME": "a=b", "SPACED": "two  words"}
    config: Any = {"env": variables, "timeout": 60}
    program = _execute(container, command, "/usr", **config)
    sdk, count = _execute_by_sdk(container, command, monkeypatch, "/usr", **config)
    if ">&2" in command:  # the engine gives the two streams in any order, also to the program
        for result in (program, sdk):
            lines = result["output"].splitlines()
            result["output"] = [x for x in lines if "err" in x], [x for x in lines if "out" in x]
    assert sdk == program
    assert count == 0


@pytest.mark.docker
@pytest.mark.parametrize("command", ["echo before; sleep 551", "sleep 552 & echo before"])
def test_a_command_that_does_not_end_is_left_alone(
    command: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _execute(container, command, timeout=2)
    sdk, _ = _execute_by_sdk(container, command, monkeypatch, timeout=2)
    name = f"'{os.environ['MSWEA_DOCKER_EXECUTABLE']}'"
    assert sdk["exception_info"].endswith("timed out after 2 seconds")
    assert sdk == program and name in sdk["exception_info"]
    assert sdk["output"] == "before\n"
    script = r"for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <$f; echo; done 2>/dev/null"
    listing = ["docker", "exec", container, "sh", "-c", script]
    processes = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    sleep = re.findall("sleep [0-9]+", command)[0]
    assert [line.strip() for line in processes.splitlines()].count(sleep) == 2


@pytest.mark.docker
@pytest.mark.parametrize(
    ("name", "cwd", "config"),
    [
        ("no-such-container", "", {}),
        (None, "/no/such/folder", {}),
        (None, "", {"interpreter": ["no-such-program"]}),
    ],
)
def test_a_command_that_cannot_start_gives_the_programs_message(
    name: str | None, cwd: str, config: Any, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _execute(name or container, "true", cwd, timeout=20, **config)
    sdk, _ = _execute_by_sdk(name or container, "true", monkeypatch, cwd, timeout=20, **config)
    assert sdk == program
    assert sdk["returncode"] and sdk["output"]


@pytest.mark.docker
def test_a_container_that_is_removed_ends_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["docker", "run", "-d", "cooperflow/demo-base:bookworm", "sleep", "600"]
    results = []
    for by_sdk in (False, True):
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        script = "echo before; touch /tmp/begun; sleep 60"
        remove = f"until docker exec {name} test -e /tmp/begun; do :; done; docker rm -f {name}"
        with subprocess.Popen(["sh", "-c", remove], stdout=subprocess.DEVNULL):
            if by_sdk:
                results.append(_execute_by_sdk(name, script, monkeypatch, timeout=30)[0])
            else:
                results.append(_execute(name, script, timeout=30))
    assert results[0] == results[1]
    assert (results[0]["output"], results[0]["returncode"]) == ("before\n", 137)
