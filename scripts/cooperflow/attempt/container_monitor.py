"""Where an attempt's containers are (Docker here, or Modal): what is seen of them, their end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cooperflow import atomic_io, layout, processes
from cooperflow.attempt import child_process
from cooperflow.engine import containers, modal_sandboxes
from cooperflow.engine.containers import ContainerCounts, EventRecord, Labels
from cooperflow.engine.probes import EngineProbe
from cooperflow.errors import EngineError

# How long the engine may leave us without an answer before the attempt counts it as lost, seconds.
ENGINE_PATIENCE = 30
# How long the engine may take to start a command in a container, seconds.
PROBE_SECONDS = 10


@dataclass(frozen=True)
class Seen:
    """What became of an attempt's containers, and of what they run on."""

    fates: ContainerCounts
    lost: bool  # it cannot be asked, so that containers may be left
    stalled: float  # seconds for which it gave no answer


class Place(Protocol):
    """Made before the cooperbench process is started."""

    def begin(self) -> None:
        """Look from now on: the process has been forked."""

    def doomed(self) -> bool:
        """Return whether nothing good can come of the attempt any more."""

    def end(self, ended: float) -> Seen:
        """Remove all that is left of the attempt; ``ended``: when it was over, in seconds."""


def sweep(docker_here: bool, results: str, run: str | None = None) -> int:
    """Remove what is left of a results folder, or of earlier tries at one run; return how many.

    Raises:
        EngineError: what they ran on cannot be asked.
    """
    if not docker_here:
        return modal_sandboxes.remove_stale(results, run)
    client = containers.engine()
    count = containers.remove_stale(client, results, run)
    client.close()
    return count


def clear(labels: Labels) -> bool:
    """Remove an attempt's containers; return whether the engine is lost to us."""
    try:
        client = containers.engine(ENGINE_PATIENCE)
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
        client.close()
    except EngineError:
        return True
    return False


class DockerHere:
    """This machine's Docker: its own events, and whether it answers."""

    def __init__(self, folder: Path, labels: Labels, stop_note: Path) -> None:
        self._labels = labels
        self._stop_note = stop_note
        self._folder = folder
        self._events = EventRecord(folder / layout.EVENTS, labels.token)
        self._probe = EngineProbe()

    def begin(self) -> None:
        self._probe.begin()

    def doomed(self) -> bool:
        if self._events.broke:
            return self._probe.gone
        fates = self._fates(time.time())
        return fates.died > 0 or fates.oom > 0

    def end(self, ended: float) -> Seen:
        broke, stalled = self._events.broke, self._probe.stalled
        self._probe.end()
        self._examine(answers=stalled == 0)
        lost = clear(self._labels)
        processes.end(self._events.process)
        return Seen(self._fates(ended), broke or lost, stalled)

    def _examine(self, answers: bool) -> None:
        """Note what is seen only while a container exists, of those that no one has stopped.

        Args:
            answers: whether the engine is worth asking.
        """
        events = self._folder / layout.EVENTS
        environment = {**os.environ, "COOPERFLOW_EVENTS": str(events)}
        for container in containers.running(atomic_io.read_lines(events)):
            for command in ("note-kills", "probe") if answers else ("note-kills",):
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    subprocess.run(
                        [str(child_process.SHIM), command, container],
                        env=environment,
                        timeout=PROBE_SECONDS,
                        check=False,
                    )

    def _fates(self, until: float) -> ContainerCounts:
        return self._events.counts(self._stop_note.read_text().split(), until)


def place(
    docker_here: bool, folder: Path, labels: Labels, stop_note: Path, sandboxes_wanted: int | None
) -> Place:
    """Return where the containers of an attempt will be; ``folder`` keeps what is seen of them.

    Args:
        sandboxes_wanted: how many the attempt needs on Modal, None where it may have any number.
    """
    if docker_here:
        return DockerHere(folder, labels, stop_note)
    return ModalElsewhere(folder, labels, sandboxes_wanted)


class ModalElsewhere:
    """Sandboxes on Modal: each that is begun is noted by our seam in the cooperbench process."""

    def __init__(self, folder: Path, labels: Labels, wanted: int | None) -> None:
        """``wanted``: sandboxes that the attempt needs, None where it may have any number."""
        self._labels = labels
        self._wanted = wanted
        self._notes = folder / layout.EVENTS

    def begin(self) -> None:
        pass

    def doomed(self) -> bool:
        return self._fates().died > 0

    def end(self, ended: float) -> Seen:
        if self._started():
            # One that cannot be ended now is ended by the next try or start, or by its own limit.
            with contextlib.suppress(EngineError):
                modal_sandboxes.remove({modal_sandboxes.TOKEN: self._labels.token})
        return Seen(self._fates(), lost=False, stalled=0.0)

    def _started(self) -> Sequence[object]:
        return atomic_io.read_lines(self._notes)

    def _fates(self) -> ContainerCounts:
        """Upstream puts an empty sandbox in the place of one that died, and tells nobody."""
        started = len(self._started())
        died = 0 if self._wanted is None else max(started - self._wanted, 0)
        return ContainerCounts(started, died, 0)
