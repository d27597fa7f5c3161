"""The cooperbench process: upstream's own command, unchanged, in a fork with our seams around it.

Forked from a process that has imported cooperbench already it starts at once; forked from one
that has not, it pays for the import itself. Nothing else differs.
"""

from __future__ import annotations

import contextlib
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

from cooperflow import layout, processes, provider_environment, runtime_dir
from cooperflow.engine import containers
from cooperflow.instrumentation.rate_limit import RateLimit
from cooperflow.outcomes import judgement

SHIM = Path(__file__).with_name("docker-labelled")
# Exit code of a process that could not import what it runs (EX_CONFIG).
CANNOT_START = judgement.CANNOT_START


@dataclass(frozen=True)
class Command:
    """One call of cooperbench and all that belongs to it."""

    arguments: Sequence[str]
    log: Path
    stop_note: Path  # gets the ids of containers that upstream puts away itself
    labels: Mapping[str, str]
    tags: Mapping[str, str] | None = None  # of Modal's sandboxes; None: containers are Docker's
    run_arguments: Sequence[str] = ()  # for `docker run`, beside the labels
    sdk_arguments: Mapping[str, Any] = field(default_factory=dict)  # for the SDK's run
    environment: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    key: str | None = None  # of the model's provider; never written down
    calls: Path | None = None  # where model calls are recorded
    pace: RateLimit | None = None  # what holds them back
    return_tool_plan: bool = False  # send Cohere's tool_plan back with its tool calls
    unread: Path | None = None  # gets what kept an agent's patch from being read
    command_seconds: float | None = None  # limit for one command in an SDK container

    @property
    def run_note(self) -> Path:
        """What gets a line for each container that an agent asks the docker program for."""
        return self.stop_note.with_name("asked")


def shim(scratch: Path | None = None) -> str:
    """Return the path of the docker program for agents.

    Upstream does not quote it. In a checkout whose path a shell would split it is a link in
    ``scratch``, which goes away with that folder.
    """
    path = str(SHIM)
    if scratch is None or runtime_dir.is_plain(path):
        return path
    link = scratch / "docker"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(SHIM)
    return str(link)


def prepare_environment(scratch: Path | None = None) -> None:
    """Set what cooperbench and litellm read when they are imported; remove what misleads them."""
    provider_environment.enter(os.environ)
    os.environ["MSWEA_DOCKER_EXECUTABLE"] = shim(scratch)


def preload() -> None:
    """Import cooperbench here, once, for the processes that are forked from this one."""
    prepare_environment()
    import cooperbench.cli  # noqa: F401


def start(command: Command) -> int:
    """Fork and run ``command``; return the process id, which is also that of its group.

    The process dies with the caller. Its exit code is cooperbench's.
    """
    return fork(command.log, lambda: _main(command))


def fork(
    log: Path, work: Callable[[], int], terminated: Callable[[int, object], None] | None = None
) -> int:
    """Fork and do ``work``, which prints to ``log``; return the process id and that of its group.

    The process dies with the caller. Its exit code is what ``work`` returns.

    Args:
        terminated: what a SIGTERM calls there; None: it ends the process.
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
        signal.signal(signal.SIGTERM, terminated or signal.SIG_DFL)
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

        _bring_external_agents()
    except Exception:
        traceback.print_exc()
        return CANNOT_START
    from cooperflow.instrumentation import sdk_patches

    if command.tags is not None:
        sdk_patches.tag_sandboxes(command.tags, events)
    sdk_patches.apply_labels(command.labels, command.sdk_arguments, command.stop_note)
    if "--git" in command.arguments:
        sdk_patches.rename_git_server(command.labels[containers.TOKEN_LABEL])
    if command.command_seconds is not None:
        sdk_patches.limit_commands(command.command_seconds)
    sdk_patches.keep_patches_exact()
    if command.unread is not None:
        sdk_patches.note_unread_patches(command.unread)
    if command.calls is not None:
        from cooperflow.instrumentation import call_log

        call_log.install(
            command.calls,
            command.key,
            command.pace,
            return_tool_plan=command.return_tool_plan,
        )
        _hand_over_key(command.model, command.key)
    sys.argv = ["cooperbench", *command.arguments]
    print(json.dumps({"cooperbench": list(command.arguments)}), flush=True)
    cooperbench.cli.main()
    return 0


def _bring_external_agents() -> None:
    """Import the modules with agents: upstream does so only when it is imported itself.

    Raises:
        ImportError: one is not there; the log of the attempt has it.
    """
    for name in os.environ.get("COOPERBENCH_EXTERNAL_AGENTS", "").split(","):
        if name.strip():
            importlib.import_module(name.strip())


def _hand_over_key(model: str, key: str | None) -> None:
    """Put the key where litellm looks for that of the model's provider, in this process alone."""
    if not key:
        return
    import litellm

    _, provider, _, _ = litellm.get_llm_provider(model)
    os.environ[f"{provider.removesuffix('_chat').upper()}_API_KEY"] = key
    litellm.api_key = key


def redirect(log: Path) -> None:
    """Send all that this process prints to ``log``, and give it nothing to read."""
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    open_streams()


def open_streams() -> None:
    """Make sys.stdout and sys.stderr anew for what the descriptors 1 and 2 are now."""
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", closefd=False)


def finish(code: int) -> None:
    """End without the parent's exit handlers, but let worker threads write what they have."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
