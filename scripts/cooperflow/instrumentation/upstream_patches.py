"""Patches of cooperbench and of the Docker and Modal SDKs, applied inside a cooperbench process.

The installed packages stay unchanged; these functions are replaced in the running process:

- Docker's SDK: run, stop, remove and exec_run of containers, the creation of networks and volumes,
  and the reading of a command's output; Modal's SDK: the creation of sandboxes;
- cooperbench: the names of its git server, the reading and writing of patches (also Python's
  `Path.read_text` and `write_text`, for `.patch` files alone), and the module by which its Docker
  environment starts commands.

call_log.py replaces cooperbench's retry rule for model calls. tests/contract and
tests/integration/test_upstream_patches.py check the assumptions of the replacements.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import os
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import requests
from docker import APIClient
from docker.errors import APIError, DockerException
from docker.models.containers import Container, ContainerCollection
from docker.models.networks import NetworkCollection
from docker.models.volumes import VolumeCollection
from docker.types import CancellableStream
from docker.utils.socket import consume_socket_output, demux_adaptor

from cooperflow.engine import containers, endpoint

SHIM = Path(__file__).parents[1] / "attempt" / "docker-labelled"

# Bytes kept of a command's output: the head, and the tail, which has the counts.
KEPT_HEAD = 1_000_000
KEPT_TAIL = 1_000_000
# Maximum number of bytes kept of an agent's command output and of its patch as base64. Upstream
# keeps several copies in memory. It shows less to the model, and does not evaluate such a large
# patch.
KEPT_AGENT, KEPT_PATCH = 64 << 20, 512 << 20
# Time added to a command's limit, so that upstream's own limit applies first, seconds.
GRACE = 5


# Upstream's constants for the names of its git server's container, network and volume.
GIT_SERVER_NAMES = ("_CONTAINER_NAME", "_NETWORK_NAME", "_VOLUME_NAME")


PATCH = ".patch"
# Header of a frame in the engine's output stream: stream number and size.
FRAME = struct.Struct(">BxxxL")
# Maximum number of bytes to read at a time.
PART = 1 << 16
# Exit code of the docker program if the engine stops while a command runs.
LOST = 255
FAILURES = (DockerException, requests.RequestException, OSError)
# Interval at which the engine is asked for the exit code of a command, seconds.
CODE_SECONDS = 0.05
# Exit codes of a command that the engine ends because its reader has gone: Docker's own, SIGKILL's
# and SIGTERM's.
ENDED_BY_ENGINE = (126, 137, 143)
# Options with which upstream runs an agent's command.
CAPTURED: Mapping[str, Any] = {
    "text": True,
    "encoding": "utf-8",
    "errors": "replace",
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
}
# Codec that converts arbitrary bytes to text and back.
EXACT = ("utf-8", "surrogateescape")
# Prefix of the command by which upstream reads an agent's patch.
DIFF = "git --no-pager diff "


class _Exec(NamedTuple):
    exit_code: int | None
    output: bytes


class OutputCut(DockerException):
    """The connection to the engine ended before a command's output was complete."""


class _Output:
    """The head and the tail of a command's output, and the number of bytes between them."""

    def __init__(self, head: int = KEPT_HEAD, tail: int = KEPT_TAIL) -> None:
        self._kept_head, self._kept_tail = head, tail
        self._head, self._tail, self._dropped = bytearray(), bytearray(), 0

    def add(self, chunk: bytes) -> None:
        room = max(self._kept_head - len(self._head), 0)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * self._kept_tail:
            self._shorten()

    def _shorten(self) -> None:
        excess = len(self._tail) - self._kept_tail
        if excess > 0:
            self._dropped += excess
            del self._tail[:excess]

    def content(self) -> bytes:
        self._shorten()
        gap = f"\n[... {self._dropped} bytes left out ...]\n" if self._dropped else ""
        return bytes(self._head + gap.encode() + self._tail)


def apply_labels(labels: Mapping[str, str], arguments: Mapping[str, Any], note: Path) -> None:
    """Add ``labels`` to all objects created through the SDK, and ``arguments`` to containers.

    Containers are stopped immediately: their first process `sleep infinity` ignores SIGTERM, so
    Docker would wait 5 s. The ids of containers that upstream itself stops are written to ``note``.
    """
    run, network, volume = (
        ContainerCollection.run,
        NetworkCollection.create,
        VolumeCollection.create,
    )
    remove = Container.remove

    def labelled_run(self: Any, image: Any, command: Any = None, **options: Any) -> Any:
        options["labels"] = {**(options.get("labels") or {}), **labels}
        return run(self, image, command, **{**arguments, **options})

    def labelled_network(self: Any, name: str, *args: Any, **options: Any) -> Any:
        options["labels"] = {**(options.get("labels") or {}), **labels}
        return network(self, name, *args, **options)

    def labelled_volume(self: Any, name: Any = None, **options: Any) -> Any:
        options["labels"] = {**(options.get("labels") or {}), **labels}
        return volume(self, name, **options)

    def noted_stop(self: Any, **_: Any) -> None:
        _append(note, self.id)
        note_kills(self.id)
        self.kill()

    def noted_remove(self: Any, **options: Any) -> None:
        _append(note, self.id)
        note_kills(self.id)
        remove(self, **options)

    _replace(ContainerCollection, "run", labelled_run)
    _replace(NetworkCollection, "create", labelled_network)
    _replace(VolumeCollection, "create", labelled_volume)
    _replace(Container, "stop", noted_stop)
    _replace(Container, "remove", noted_remove)


def note_kills(container: str) -> None:
    """Write the kernel's count of a container's out-of-memory kills to the attempt's events."""
    if os.environ.get("COOPERFLOW_EVENTS"):
        subprocess.run([str(SHIM), "note-kills", container], check=False)


def tag_sandboxes(tags: Mapping[str, str], note: Path) -> None:
    """Give every Modal sandbox ``tags``, and write a line of JSON about it to ``note``."""
    import modal

    create = modal.Sandbox.create

    def tagged(*args: Any, **options: Any) -> Any:
        sandbox = create(*args, **{**options, "tags": {**(options.get("tags") or {}), **tags}})
        _append(note, json.dumps({"status": "start", "id": sandbox.object_id}))
        return sandbox

    _replace(modal.Sandbox, "create", tagged)


def rename_git_server(token: str) -> None:
    """Make this process start its own git server if it needs one (``--git``).

    Upstream uses one container for all runs of a machine. The run that started it would remove it
    at its end while others use it. Only the names are changed.
    """
    from cooperbench.agents.mini_swe_agent_v2.connectors.git_servers import docker as server

    for name in GIT_SERVER_NAMES:
        setattr(server, name, f"{getattr(server, name)}-{token[:12]}")


def note_unread_patches(note: Path) -> None:
    """Record in ``note`` each failure to run a command that reads an agent's patch.

    Upstream treats the output of such a command, usually empty, as the patch. Without the record, a
    failure of docker to start a command would look like an empty submission.
    """
    from cooperbench.agents.mini_swe_agent_v2.connectors.git import GitConnector

    execute, submitted = GitConnector._exec, GitConnector.submitted_patch
    reading = threading.local()

    def noted_exec(self: Any, env: Any, command: str) -> Any:
        result = execute(self, env, command)
        if getattr(reading, "now", False):
            problem = result.get("exception_info")
            if not problem and result.get("returncode") == LOST:
                problem = "the output of the command was lost"
            if not problem and result.get("returncode"):
                problem = _refusal(env)
            if problem:
                _append(note, f"{self.agent_id}: {problem}")
        return result

    def noted_submitted(self: Any, env: Any) -> str:
        reading.now = True
        try:
            return submitted(self, env)
        except Exception as error:
            _append(note, f"{self.agent_id}: {error}")
            raise
        finally:
            reading.now = False

    _replace(GitConnector, "_exec", noted_exec)
    _replace(GitConnector, "submitted_patch", noted_submitted)


def keep_patches_exact() -> None:
    """Make upstream read and write patches as bytes.

    Upstream handles them as text, which drops carriage returns and replaces bytes that are not
    UTF-8, so that the patch of a file with either does not apply. Patches without them, and their
    evaluation, are the same in both cases. The other runs get a caveat (outcomes.patch_text).

    Upstream would also mistake a short patch for a file name; here it is evaluated.
    """
    from cooperbench.agents.mini_swe_agent_v2.connectors.git import GitConnector
    from cooperbench.eval import sandbox

    read_text, write_text, execute = Path.read_text, Path.write_text, GitConnector._exec
    load_patch, write_patch = sandbox._load_patch, sandbox._write_patch

    def exact_read(self: Path, *args: Any, **options: Any) -> str:
        if self.suffix != PATCH:
            return read_text(self, *args, **options)
        return self.read_bytes().decode(*EXACT)

    def exact_write(self: Path, data: str, *args: Any, **options: Any) -> int:
        if self.suffix != PATCH:
            return write_text(self, data, *args, **options)
        return self.write_bytes(data.encode(*EXACT))

    def exact_exec(self: Any, env: Any, command: str) -> Any:
        if not command.startswith(DIFF):
            return execute(self, env, command)
        result = execute(self, env, f"{{ {command}; }} 2>&1 | base64 -w 0")
        try:
            content = base64.b64decode(str(result.get("output")).strip(), validate=True)
        except ValueError:  # the image lacks the program, or the engine refused
            return execute(self, env, command)
        if result.get("returncode") == LOST:  # what came of it may be valid, and is not all
            return execute(self, env, command)
        return {**result, "output": content.decode(*EXACT)}

    def load_text(patch: Any) -> Any:
        if isinstance(patch, str):
            return sandbox._sanitize_patch(patch) if patch.strip() else None
        return load_patch(patch)

    def write_exact_patch(sandbox_: Any, filename: str, content: str) -> None:
        write_patch(sandbox_, filename, _Exact(content))

    _replace(Path, "read_text", exact_read)
    _replace(Path, "write_text", exact_write)
    _replace(GitConnector, "_exec", exact_exec)
    _replace(sandbox, "_load_patch", load_text)
    _replace(sandbox, "_write_patch", write_exact_patch)


class _Exact(str):
    """Text that encodes to the bytes from which it was read."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        return str.encode(self, *EXACT)


def _refusal(environment: Any) -> str:
    """Return why the engine cannot start a command in an agent's container, empty if it can."""
    program = getattr(environment.config, "executable", "docker")
    command = [program, "exec", "-w", "/", str(environment.container_id), containers.PROBE]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    # The answer is always the engine's message, since the program does not exist.
    message = f"{process.stdout}{process.stderr}".strip()
    return message if process.returncode and containers.is_refusal(message) else ""


def limit_commands(seconds: float) -> None:
    """End a command in a container after ``seconds``, and limit the size of its output.

    Upstream reports a test as timed out after 600 s, but then waits for it forever and keeps its
    complete output in memory. Output that was cut off is an error, not that of a failed test.
    """

    def bounded(self: Any, cmd: Any, workdir: str | None = None, **options: Any) -> _Exec:
        api = self.client.api
        options.pop("demux", None)
        execution = api.exec_create(self.id, cmd, workdir=workdir, **options)
        timer = threading.Timer(seconds + GRACE, _kill_all, (api, self.id))
        timer.daemon = True
        timer.start()
        output = _Output()
        try:
            for chunk in api.exec_start(execution["Id"], stream=True):
                output.add(chunk)
        finally:
            timer.cancel()
        code = _exit_code(api, execution["Id"])
        if code is None:
            # Upstream would treat it as a failed test.
            raise OutputCut("the output of a command ended before the command")
        return _Exec(code, output.content())

    _replace(Container, "exec_run", bounded)


def _exit_code(api: APIClient, execution: str) -> int | None:
    """Return the exit code of a command whose output has ended, None if the output was cut off.

    An engine knows the code of a command before it ends the output, or soon after it. Otherwise the
    connection ended: the command continues, or the engine ends it.
    """
    limit, is_late = time.monotonic() + GRACE, False
    while (code := api.exec_inspect(execution)["ExitCode"]) is None and time.monotonic() < limit:
        is_late = True
        time.sleep(CODE_SECONDS)
    return None if code is None or (is_late and code in ENDED_BY_ENGINE) else int(code)


def read_whole_output() -> None:
    """Make the SDK return the complete output of a command.

    The SDK reads the header of the engine's answer through a buffer, but the output directly. On a
    busy machine the buffer already contains the first part of the output, which is lost
    (https://github.com/docker/docker-py/issues/3332), as if a test had printed nothing.
    """

    def read(self: Any, response: Any, stream: bool, tty: bool = True, demux: bool = False) -> Any:
        self._disable_socket_timeout(self._get_raw_response_socket(response))
        reader = response.raw._fp.fp
        frames: Iterator[Any] = ((1, part) for part in iter(lambda: reader.read1(PART), b""))
        if not tty:
            frames = _frames(reader)
        parts: Iterator[Any] = (demux_adaptor(*f) if demux else f[1] for f in frames)
        if stream:
            return parts
        try:
            return consume_socket_output(parts, demux=True) if demux else b"".join(parts)
        finally:
            response.close()

    _replace(APIClient, "_read_from_socket", read)


def _frames(reader: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield the stream (1: output, 2: error) and the content of each frame.

    Raises:
        OutputCut: the connection ended within a frame, or was reset.
    """
    try:
        while header := reader.read(FRAME.size):
            if len(header) < FRAME.size:
                raise OutputCut("the engine's output ends within a header")
            stream, size = FRAME.unpack(header)
            while size:
                part = reader.read1(min(size, PART))
                if not part:
                    raise OutputCut(f"the engine's output lacks {size} bytes")
                size -= len(part)
                yield stream, part
    except OSError as error:  # the SDK would treat it as the end
        raise OutputCut(f"the engine's output was cut off: {error}") from error


def start_commands_by_sdk() -> None:
    """Start agents' commands through the SDK instead of a docker program for each.

    The program takes 20 ms of processor time per command; the SDK takes 4 ms and sends two requests
    fewer. test_upstream_patches.py compares the results. The program is still used for engines that
    are not reached by a socket, and for commands that cannot start.
    """
    from cooperbench.agents.mini_swe_agent_v2.environments import docker as environment

    if os.environ.get("DOCKER_HOST", endpoint.DEFAULT_HOST).startswith("unix://"):
        _replace(environment, "subprocess", _Programs())


class _Programs:
    """Stand-in for the module `subprocess` that makes `docker exec` calls by the SDK."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def run(
        self, arguments: Sequence[str], timeout: float | None = None, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program like `subprocess.run`.

        Raises:
            subprocess.TimeoutExpired: the command had not ended after ``timeout`` seconds.
        """
        request = _exec_request(arguments)
        if request is None or timeout is None or options != CAPTURED:
            return subprocess.run(arguments, timeout=timeout, **options)
        deadline = time.monotonic() + timeout
        try:
            api = self._client(timeout)
            execution = api.exec_create(**request)["Id"]
        except requests.Timeout as error:
            raise subprocess.TimeoutExpired(arguments, timeout) from error
        except FAILURES:
            return subprocess.run(arguments, timeout=timeout, **options)
        try:
            stream = api.exec_start(execution, stream=True)
        except requests.Timeout as error:
            raise subprocess.TimeoutExpired(arguments, timeout) from error
        except (
            APIError
        ):  # it did not start; the docker program reports the reason as upstream expects it
            return subprocess.run(arguments, timeout=timeout, **options)
        except FAILURES:  # unknown whether it started
            return subprocess.CompletedProcess(arguments, LOST, "")
        is_patch = DIFF in str(arguments[-1])
        output, is_expired, is_cut = _read_until(
            stream, deadline, _Output(KEPT_PATCH if is_patch else KEPT_AGENT)
        )
        if is_expired:
            raise subprocess.TimeoutExpired(arguments, timeout, output or None)
        api.timeout = max(1, math.ceil(deadline - time.monotonic()))
        try:
            code = None if is_cut else _exit_code(api, execution)
        except requests.Timeout as error:
            raise subprocess.TimeoutExpired(arguments, timeout, output or None) from error
        except FAILURES:
            code = None
        text = output.decode(CAPTURED["encoding"], CAPTURED["errors"])
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # like `text=True`
        return subprocess.CompletedProcess(arguments, LOST if code is None else code, text)

    def _client(self, timeout: float) -> APIClient:
        """Return this thread's client, since a session of `requests` is not thread-safe."""
        if not hasattr(self._of_thread, "client"):
            self._of_thread.client = APIClient(
                os.environ.get("DOCKER_HOST"), timeout=math.ceil(timeout)
            )
        self._of_thread.client.timeout = math.ceil(timeout)
        return self._of_thread.client


def _exec_request(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the SDK's arguments for `docker exec -w FOLDER [-e NAME=VALUE]... ID COMMAND...`.

    None: any other command.
    """
    if list(arguments[:3]) != [os.environ.get("MSWEA_DOCKER_EXECUTABLE"), "exec", "-w"]:
        return None
    folder, *rest = arguments[3:]
    variables = []
    while rest[:1] == ["-e"] and rest[1:]:
        variables.append(rest[1])
        rest = rest[2:]
    if len(rest) < 2 or rest[0].startswith("-") or not all("=" in v[1:] for v in variables):
        return None
    container, *command = rest
    return {"container": container, "cmd": command, "workdir": folder, "environment": variables}


def _read_until(
    stream: CancellableStream, deadline: float, output: _Output
) -> tuple[bytes, bool, bool]:
    """Return the output up to the command's end, the deadline, or the end of the connection.

    Returns:
        The output, whether the deadline came first, and whether the connection was cut.
    """
    is_expired, is_cut = threading.Event(), False

    def end() -> None:
        is_expired.set()
        with contextlib.suppress(OSError):
            stream.close()

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        for part in stream:
            output.add(part)
    except OutputCut:
        is_cut = True
    timer.cancel()
    with contextlib.suppress(OSError):
        stream.close()
    return output.content(), is_expired.is_set(), is_cut


def _replace(owner: Any, name: str, value: object) -> None:
    setattr(owner, name, value)


def _kill_all(api: Any, container: str) -> None:
    """Kill every process in a container except the first, which only sleeps."""
    execution = api.exec_create(container, ["sh", "-c", "kill -9 -1"])
    api.exec_start(execution["Id"])


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"{text}\n")
