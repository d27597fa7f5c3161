"""Container monitor: watches and removes the containers of an attempt or evaluation."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cooperflow import atomic_io, layout, processes
from cooperflow.attempt import child_process
from cooperflow.engine import containers, modal_sandboxes
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError

# Time without an answer after which the engine counts as lost, seconds.
ENGINE_SECONDS = 30
# Time limit for the engine to start a command in a container, seconds.
PROBE_SECONDS = 10
# Maximum number of requests to remove an attempt's containers.
REMOVALS = 2
# Interval of probes of a running attempt's engine, and the time limit of a probe, seconds.
ALIVE_EVERY_SECONDS, ALIVE_SECONDS = 2.0, 5.0


@dataclass(frozen=True)
class ContainerCounts:
    """Counts of an attempt's containers, by the engine's events during the attempt."""

    started: int
    died: int  # ended, except by the agent's own cleanup
    oom: int  # had a process killed by the kernel for lack of memory
    refused: int = 0  # running, but the engine could not start a command in them


@dataclass(frozen=True)
class ContainerReport:
    """Counts of an attempt's containers, and the state of their engine."""

    counts: ContainerCounts
    engine_lost: bool  # the engine does not answer, so containers may remain
    engine_stalled: float  # seconds during which it did not answer
    storage_full: bool = False  # at some time, containers could not write any more


class ContainerMonitor(Protocol):
    """Interface of a monitor of one attempt's containers. Created before the child process."""

    def start(self) -> None:
        """Start watching. Call this after the child process was forked."""

    def has_failed(self) -> bool:
        """Return whether a failure makes the attempt pointless."""

    def stop(self) -> ContainerReport:
        """Remove the attempt's containers, after it has ended."""


def remove_stale_containers(docker: bool, results: str, run: str | None = None) -> int:
    """Remove leftover containers of a results folder or of one run; return their number.

    Raises:
        EngineError: the engine does not answer.
    """
    if not docker:
        return modal_sandboxes.remove_stale(results, run)
    with contextlib.closing(containers.engine()) as client:
        return containers.remove_stale(client, results, run)


def remove_containers(labels: Labels) -> bool:
    """Remove an attempt's containers; return True if the engine did not answer.

    An engine that needs long to remove large containers does answer, and continues by itself.
    """
    for _ in range(REMOVALS):
        try:
            with contextlib.closing(containers.engine(ENGINE_SECONDS)) as client:
                containers.remove(client, {containers.TOKEN_LABEL: labels.token})
            return False
        except EngineError:
            if not containers.is_answering(PROBE_SECONDS):
                return True
    return False


class EngineProbe:
    """Thread that probes the engine periodically: how long it did not answer, and its storage."""

    def __init__(self) -> None:
        self._is_stopped = threading.Event()
        self._silent_since: float | None = None
        self._stalled = 0.0
        self._storage: Path | None = None
        self._was_full = False
        self._thread = threading.Thread(target=self._watch, daemon=True, name="engine probe")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopped.set()

    def join(self) -> None:
        """Wait for the end of the last probe; a job that evaluates again forks without threads."""
        if self._thread.is_alive():
            self._thread.join(3 * ALIVE_SECONDS)

    @property
    def stalled(self) -> float:
        """Seconds so far during which the engine did not answer."""
        since = self._silent_since
        return self._stalled + (time.monotonic() - since if since is not None else 0.0)

    def was_storage_full(self) -> bool:
        """Return whether the engine's storage on this machine is full, or was full at a probe."""
        if self._storage is not None and containers.is_storage_full(self._storage):
            self._was_full = True
        return self._was_full

    def _watch(self) -> None:
        with (
            contextlib.suppress(EngineError),
            contextlib.closing(containers.engine(ALIVE_SECONDS)) as client,
        ):
            root, free = containers.storage(client)
            self._storage = None if free is None else root
        while not self._is_stopped.wait(ALIVE_EVERY_SECONDS):
            probed = time.monotonic()
            is_answering = containers.is_answering(ALIVE_SECONDS)
            now = time.monotonic()
            if is_answering and self._silent_since is not None:
                self._stalled += now - self._silent_since
                self._silent_since = None
            elif not is_answering and self._silent_since is None:
                self._silent_since = probed
            self.was_storage_full()


class DockerMonitor:
    """Monitor of Docker containers, by the engine's events and probes of the engine."""

    def __init__(self, folder: Path, labels: Labels, stop_note: Path) -> None:
        self._labels = labels
        self._stop_note = stop_note
        self._events = folder / layout.EVENTS
        self._stream = _record_events(self._events, labels.token)
        self._probe = EngineProbe()

    def start(self) -> None:
        self._probe.start()

    def has_failed(self) -> bool:
        if self._has_broken_off:
            return True  # whether a container died is unknown from now on
        counts = self._counts(())
        return counts.died > 0 or counts.oom > 0

    def stop(self) -> ContainerReport:
        is_broken, stalled = self._has_broken_off, self._probe.stalled
        self._probe.stop()
        was_full = self._probe.was_storage_full()  # before the removal frees space
        alive = self._list_alive()
        self._inspect(alive, has_engine=stalled == 0)
        is_lost = remove_containers(self._labels)
        processes.end(self._stream)
        self._probe.join()
        return ContainerReport(self._counts(alive), is_broken or is_lost, stalled, was_full)

    def _list_alive(self) -> Sequence[str]:
        """Return the containers that run at the end of the attempt; the clean-up ends them."""
        try:
            token = {containers.TOKEN_LABEL: self._labels.token}
            return containers.list_running(token, PROBE_SECONDS)
        except EngineError:
            return find_running(atomic_io.read_lines(self._events))

    @property
    def _has_broken_off(self) -> bool:
        """True if the stream of events ended early, because the engine stopped."""
        return self._stream.poll() is not None

    def _inspect(self, alive: Sequence[str], has_engine: bool) -> None:
        """Record the evidence that is lost when the containers ``alive`` are removed.

        Args:
            has_engine: whether the engine answers.
        """
        environment = {**os.environ, "COOPERFLOW_EVENTS": str(self._events)}
        for container in alive:
            for command in ("note-kills", "probe") if has_engine else ("note-kills",):
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    subprocess.run(
                        [str(child_process.SHIM), command, container],
                        env=environment,
                        timeout=PROBE_SECONDS,
                        check=False,
                    )

    def _counts(self, alive: Sequence[str]) -> ContainerCounts:
        ended = [*self._stop_note.read_text().split(), *alive]
        return count_events(atomic_io.read_lines(self._events), ended)


def _record_events(path: Path, token: str) -> subprocess.Popen[bytes]:
    """Start a process that writes the engine's events about an attempt's containers to a file."""
    command = ["docker", "events", "--since", f"{time.time():.6f}"]
    command += ["--filter", "type=container"]
    command += ["--filter", f"label={containers.TOKEN_LABEL}={token}"]
    for event in ("start", "die", "oom", "destroy"):
        command += ["--filter", f"event={event}"]
    command += ["--format", "{{json .}}"]
    with path.open("ab") as stream:
        return processes.spawn(command, stdout=stream, stderr=subprocess.DEVNULL)


def count_events(events: Iterable[Mapping[str, Any]], ended: Sequence[str]) -> ContainerCounts:
    """Return the counts of containers by an attempt's events. Pure.

    The events' times are not compared with a clock, because the engine's clock may differ.

    Args:
        ended: ids of the containers that their agent or the clean-up ended, or prefixes of ids.
    """
    started, died, oom, refused = set(), set(), set(), set()
    for event in events:
        action, container = _action_of(event)
        if action == "start":
            started.add(container)
        elif action == "exec_refused":
            if containers.is_refusal(str(event.get("words") or "")):
                refused.add(container)
        elif action == "oom":
            oom.add(container)
        elif action == "die" and not any(container.startswith(e) for e in ended if e):
            died.add(container)
    return ContainerCounts(len(started), len(died), len(oom), len(refused))


def find_running(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the containers that started and have not ended according to the events. Pure."""
    alive: dict[str, None] = {}
    for event in events:
        action, container = _action_of(event)
        if action == "start":
            alive[container] = None
        elif action in ("die", "destroy"):
            alive.pop(container, None)
    return list(alive)


def _action_of(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return the action of an event and its container's id, which engines name differently."""
    container = event.get("id") or (event.get("Actor") or {}).get("ID")
    return str(event.get("status") or event.get("Action") or ""), str(container or "")


def create_monitor(
    docker: bool, folder: Path, labels: Labels, stop_note: Path, sandboxes: int | None
) -> ContainerMonitor:
    """Return the monitor of an attempt's containers, which writes its events to ``folder``.

    Args:
        sandboxes: number of sandboxes that the attempt needs on Modal, None for any number.
    """
    if docker:
        return DockerMonitor(folder, labels, stop_note)
    return ModalMonitor(folder, labels, sandboxes)


class ModalMonitor:
    """Monitor of Modal sandboxes, which an SDK patch in the child process writes to a file."""

    def __init__(self, folder: Path, labels: Labels, sandboxes: int | None) -> None:
        """``sandboxes``: number of sandboxes that the attempt needs, None for any number."""
        self._labels = labels
        self._sandboxes = sandboxes
        self._events = folder / layout.EVENTS

    def start(self) -> None:
        pass

    def has_failed(self) -> bool:
        return self._counts().died > 0

    def stop(self) -> ContainerReport:
        if self._started():
            # The next try or session, or the time limit, ends a leftover sandbox.
            with contextlib.suppress(EngineError):
                modal_sandboxes.remove({modal_sandboxes.TOKEN: self._labels.token})
        return ContainerReport(self._counts(), engine_lost=False, engine_stalled=0.0)

    def _started(self) -> Sequence[object]:
        return atomic_io.read_lines(self._events)

    def _counts(self) -> ContainerCounts:
        """Return the counts. Upstream silently replaces a dead sandbox with an empty one."""
        started = len(self._started())
        died = 0 if self._sandboxes is None else max(started - self._sandboxes, 0)
        return ContainerCounts(started, died, 0)
