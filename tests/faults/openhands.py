"""Faults of agents in containers: their agent server, and their gateway to the model."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

from . import invariants, lab
from .lab import Lab, wait_for
from .report import TRUE_OUTCOME, Campaign, Case, Control

OPTIONS: Mapping[str, Any] = {
    "recordings": "openhands",
    "delay": "1",
    "agent": {"name": "openhands_docker"},
}
_control: dict[str, Control] = {}


def control() -> Control:
    """Return the rows of an undisturbed run with OpenHands."""
    if not _control:
        with lab.laboratory(**OPTIONS) as quiet:
            assert quiet.run().returncode == 0, quiet.sessions[-1].stdout[-3000:]
            _control["rows"] = invariants.control_rows(quiet.rows())
    return _control["rows"]


@contextlib.contextmanager
def _mid_run(laboratory: Lab, calls: int = 2) -> Iterator[None]:
    start = laboratory.start()
    model = laboratory.server
    wait_for(lambda: len(model.ledger()) >= calls or start.poll() is not None, 240, "calls")
    yield
    start.wait(lab.PATIENCE)


def _check_fault(
    campaign: Campaign, fault: str, cause: Callable[[Lab], None], first: str, calls: int = 2
) -> None:
    """Inject a fault during a run: attempt 1 must end as ``first``, a later attempt must pass."""
    undisturbed = control()
    with (
        campaign.line("OpenHands", fault) as line,
        lab.laboratory(**OPTIONS) as laboratory,
    ):
        bystanders = invariants.Bystanders.start(laboratory, campaign.image)
        with _mid_run(laboratory, calls):
            cause(laboratory)
        text = (laboratory.run_folder("solo") / "attempts" / "1" / "attempt.json").read_text()
        line.expect(TRUE_OUTCOME, f'"reason": "{first}"' in text, f"attempt 1: {text[:600]}")
        campaign.expect(line, laboratory.rows(), ("pass", ""))
        campaign.check_invariants(line, laboratory, undisturbed, bystanders)


def _signal_server(number: str) -> Callable[[Lab], None]:
    find = "for p in /proc/[0-9]*; do grep -qsF agent_server $p/cmdline && echo ${p#/proc/}; done"

    def cause(laboratory: Lab) -> None:
        container = laboratory.containers()[0]
        # Except the init process and this shell, whose command lines contain the name too.
        script = f"for n in $({find}); do [ $n = 1 ] || [ $n = $$ ] || kill -{number} $n; done"
        laboratory.docker("exec", container, "sh", "-c", script, check=False)

    return cause


def _kill_gateway(laboratory: Lab) -> None:
    """Kill the process that listens on the run's network and is not Redis."""
    for pid, _ in laboratory.processes():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            listens = [c for c in process.net_connections("inet") if c.status == "LISTEN"]
            if process.name() != "valkey-server" and any(
                not c.laddr.ip.startswith("127.") for c in listens
            ):
                os.kill(pid, signal.SIGKILL)
                return
    raise AssertionError("the gateway is missing")


def server_dies(campaign: Campaign) -> None:
    _check_fault(
        campaign, "the agent server dies during a run", _signal_server("KILL"), "container_died"
    )


def server_hangs(campaign: Campaign) -> None:
    _check_fault(
        campaign, "the agent server hangs (SIGSTOP)", _signal_server("STOP"), "container_died"
    )


def gateway_dies(campaign: Campaign) -> None:
    _check_fault(campaign, "the gateway is killed during a run", _kill_gateway, "process_died")


def never_healthy(campaign: Campaign) -> None:
    """The server is stopped before it is healthy."""
    undisturbed = control()
    with (
        campaign.line("OpenHands", "the agent server never gets healthy") as line,
        lab.laboratory(**OPTIONS) as laboratory,
    ):
        done = laboratory.run("-j", "4", "images")
        assert done.returncode == 0, done.stdout[-2000:]
        start = laboratory.start()
        wait_for(laboratory.containers, 120, "the container")
        time.sleep(0.5)  # it takes some seconds to become healthy
        _signal_server("STOP")(laboratory)
        start.wait(lab.PATIENCE)
        text = (laboratory.run_folder("solo") / "attempts" / "1" / "attempt.json").read_text()
        line.expect(TRUE_OUTCOME, '"reason": "agent_error"' in text, f"attempt 1: {text[:600]}")
        campaign.expect(line, laboratory.rows(), ("pass", ""))
        campaign.check_invariants(line, laboratory, undisturbed)


CASES = (
    Case("openhands: server dies", server_dies),
    Case("openhands: server hangs", server_hangs),
    Case("openhands: server never healthy", never_healthy),
    Case("openhands: gateway dies", gateway_dies),
)
