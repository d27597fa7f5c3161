"""The child process: a fork that runs the cooperbench command with the upstream patches.

A fork of a process that has imported cooperbench starts immediately; any other fork must import it
first.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow import environment, layout, processes
from cooperflow.engine import containers
from cooperflow.outcomes import judgement
from cooperflow.session_state import RateLimit

SHIM = Path(__file__).with_name("docker-labelled")
# Exit code of a process that could not import cooperbench (EX_CONFIG).
CANNOT_START = judgement.CANNOT_START


@dataclass(frozen=True)
class Command:
    """A call of the cooperbench command, with its environment, patches and files."""

    arguments: Sequence[str]
    log: Path
    stop_note: Path  # receives the ids of containers that upstream removes itself
    labels: Mapping[str, str]
    tags: Mapping[str, str] | None = None  # of Modal sandboxes; None: Docker containers
    run_arguments: Sequence[str] = ()  # for `docker run`, besides the labels
    sdk_arguments: Mapping[str, Any] = field(default_factory=dict)  # for the SDK's run
    environment: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    key: str | None = None  # key of the model's provider; never written to a file
    calls: Path | None = None  # the call log
    rate_limit: RateLimit | None = None  # the rate limit of model calls
    return_tool_plan: bool = False  # send Cohere's tool_plan back with its tool calls
    unread: Path | None = None  # receives the errors of commands that read agents' patches
    command_seconds: float | None = None  # time limit of one command in an SDK container

    @property
    def run_note(self) -> Path:
        """File with a line for each container that an agent requests by the docker program."""
        return self.stop_note.with_name("asked")


def shim_path(scratch: Path | None = None) -> str:
    """Return the path of the program that replaces `docker` for agents.

    Upstream does not quote the path. If it needs quoting, the path of a link in ``scratch`` is
    returned instead.
    """
    path = str(SHIM)
    if scratch is None or environment.is_plain_path(path):
        return path
    link = scratch / "docker"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(SHIM)
    return str(link)


def prepare_environment(scratch: Path | None = None) -> None:
    """Set the variables that cooperbench and litellm read when they are imported."""
    environment.enter_controlled(os.environ)
    os.environ["MSWEA_DOCKER_EXECUTABLE"] = shim_path(scratch)


def start(command: Command) -> int:
    """Fork and run ``command``; return the process id, which is also the id of its group.

    The process ends with the caller. Its exit code is cooperbench's.
    """
    return fork(command.log, lambda: _main(command))


def fork(
    log: Path, work: Callable[[], int], on_terminate: Callable[[int, object], None] | None = None
) -> int:
    """Fork and call ``work``, its output in ``log``; return the process id, also that of its group.

    The process ends with the caller. Its exit code is the result of ``work``.

    Args:
        on_terminate: handler of SIGTERM in the fork; None: SIGTERM ends it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        processes.die_with_parent()
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, on_terminate or signal.SIG_DFL)
        redirect(log)
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        finish(code)
    raise AssertionError("unreachable")


def _main(command: Command) -> int:
    prepare_environment(command.stop_note.parent)
    os.environ.update(command.environment)
    labels = [f"--label={key}={value}" for key, value in command.labels.items()]
    os.environ["COOPERFLOW_RUN_ARGS"] = "\n".join([*labels, *command.run_arguments])
    os.environ["COOPERFLOW_STOP_NOTE"] = str(command.stop_note)
    events = command.log.parent / layout.EVENTS
    os.environ["COOPERFLOW_EVENTS"] = str(events)
    os.environ["COOPERFLOW_RUN_NOTE"] = str(command.run_note)
    os.environ["COOPERFLOW_DOCKER_LOG"] = str(command.log)

    try:
        import cooperbench.cli

        _import_external_agents()
    except Exception:
        traceback.print_exc()
        return CANNOT_START
    from cooperflow.instrumentation import upstream_patches

    if command.tags is not None:
        upstream_patches.tag_sandboxes(command.tags, events)
    upstream_patches.apply_labels(command.labels, command.sdk_arguments, command.stop_note)
    if "--git" in command.arguments:
        upstream_patches.rename_git_server(command.labels[containers.TOKEN_LABEL])
    if command.command_seconds is not None:
        upstream_patches.limit_commands(command.command_seconds)
    upstream_patches.read_whole_output()
    upstream_patches.start_commands_by_sdk()
    upstream_patches.keep_patches_exact()
    if command.unread is not None:
        upstream_patches.note_unread_patches(command.unread)
    if command.calls is not None:
        from cooperflow.instrumentation import call_log

        call_log.install(
            command.calls,
            command.key,
            command.rate_limit,
            return_tool_plan=command.return_tool_plan,
        )
        call_log.stop_at_refused_output_limit()
        set_key(command.model, command.key)
    sys.argv = ["cooperbench", *command.arguments]
    print(json.dumps({"cooperbench": list(command.arguments)}), flush=True)
    cooperbench.cli.main()
    return 0


def _import_external_agents() -> None:
    """Import the modules of external agents, which upstream imports only during its own import.

    Raises:
        ImportError: a module is missing; the log of the attempt names it.
    """
    for name in os.environ.get("COOPERBENCH_EXTERNAL_AGENTS", "").split(","):
        if name.strip():
            importlib.import_module(name.strip())


def set_key(model: str, key: str | None) -> None:
    """Set the key of the model's provider for litellm, in this process only.

    It is sent with each call, because litellm prefers other variables for some providers, such as
    GOOGLE_API_KEY for Gemini.
    """
    if not key:
        environment.remove_keys(os.environ, model)
        return
    import litellm

    _, provider, _, _ = litellm.get_llm_provider(model)
    os.environ[f"{provider.removesuffix('_chat').upper()}_API_KEY"] = key
    litellm.api_key = key
    for name in ("completion", "acompletion"):
        setattr(litellm, name, _with_key(getattr(litellm, name), key))


def _with_key(call: Callable[..., Any], key: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def call_with_key(*arguments: Any, **options: Any) -> Any:
        if options.get("api_key") is None:
            options["api_key"] = key
        return call(*arguments, **options)

    return call_with_key


def redirect(log: Path) -> None:
    """Redirect this process's output to ``log`` and its input from the null device."""
    with open(os.devnull, "rb") as null_device:
        os.dup2(null_device.fileno(), 0)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    processes.open_streams()


def finish(code: int) -> None:
    """Exit after worker threads have finished, without running the parent's exit handlers."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
