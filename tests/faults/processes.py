"""Kills of any process of a session, by any signal, at random times."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import invariants, lab
from .lab import Lab, Session
from .report import NOTHING_LEFT, PAID_ONCE, RESUMES, TRUE_OUTCOME, USAGE, Campaign, Case, Line

INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL

# Process to kill, signal, and number of kills in the campaign.
KILLS = (
    ("Snakemake's group (Ctrl-C)", INT, 2),
    ("Snakemake", TERM, 2),
    ("Snakemake's group (terminal closed)", HUP, 2),
    ("Snakemake", KILL, 3),
    ("job", TERM, 1),
    ("job", KILL, 2),
    ("supervisor", TERM, 1),
    ("supervisor", KILL, 3),
    ("cooperbench", TERM, 1),
    ("cooperbench", KILL, 2),
    ("valkey-server", KILL, 2),
    ("launcher", TERM, 1),
    ("launcher", KILL, 2),
)


class Tree:
    """The running processes of a laboratory, by kind."""

    def __init__(self, laboratory: Lab) -> None:
        self._lines = dict(laboratory.processes())
        forks = {pid for pid, line in self._lines.items() if "scripts/launcher.py" in line}
        claims = (laboratory.results / ".state" / "claims").glob("*")
        held = set()
        for path in claims:
            with contextlib.suppress(OSError, IndexError, ValueError):
                held.add(int(path.read_text().split(":")[1]))
        self.supervisors = [pid for pid in held if pid in self._lines]
        children = [pid for pid in forks - held if parent(pid) in held]
        self.cooperbench = children
        self.launchers = [pid for pid in forks - held - set(children) if is_listening(pid)]
        self.jobs = [
            pid
            for pid, line in self._lines.items()
            # python -X utf8 SCRIPT --run ...
            if any(word.endswith(("scripts/run.py", "/eval.py")) for word in line.split(" ")[1:5])
        ]
        # A process that is ending has no command line any more.
        self.redis = [pid for pid, line in self._lines.items() if "valkey-server" in line[:200]]

    def of(self, kind: str) -> list[int]:
        return {
            "job": self.jobs,
            "supervisor": self.supervisors,
            "cooperbench": self.cooperbench,
            "valkey-server": self.redis,
            "launcher": self.launchers,
        }[kind]


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def is_listening(pid: int) -> bool:
    """Return whether a process listens on a unix socket with a path."""
    try:
        inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        table = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    except OSError:
        return False
    rows = [row.split() for row in table]
    listening = {f"socket:[{row[6]}]" for row in rows if row[3] == "00010000"}
    return bool(inodes & listening)


def kill_in_turn(campaign: Campaign, kills: list[tuple[str, signal.Signals]]) -> None:
    """Make all kills one after another, on experiments of twelve runs."""
    dice = campaign.random
    settings = list(lab.COMMON)
    control = campaign.control(lab.ALL_PAIRS, settings)
    lines: dict[tuple[str, signal.Signals], Line] = {}
    pending = list(kills)
    dice.shuffle(pending)
    while pending:
        with lab.laboratory(
            pairs=lab.ALL_PAIRS, settings=settings, delay="uniform:0.2:1.2"
        ) as laboratory:
            bystanders = invariants.Bystanders.start(laboratory, campaign.image)
            affected = _kill_until_finished(laboratory, pending, dice.uniform, lines)
            assert affected, f"the experiment contains none of these runs: {pending}"
            for line in affected:
                line.add(NOTHING_LEFT, bystanders.missing())
            with _all(campaign, affected):
                last = affected[0]
                # Violations of earlier kills are not reported again for each later kill.
                before = {c: list(p) for c, p in last.violations.items()}
                campaign.check_invariants(last, laboratory, control, bystanders)
                for line in affected[1:]:
                    for column in (USAGE, PAID_ONCE, NOTHING_LEFT, RESUMES, TRUE_OUTCOME):
                        line.add(
                            column,
                            [
                                p
                                for p in last.violations.get(column, [])
                                if p not in before.get(column, [])
                            ],
                        )
                for line in affected:
                    line.add(TRUE_OUTCOME, [])
    campaign.lines += lines.values()
    for line in lines.values():
        state = "held" if line.has_passed else "BROKEN"
        print(f"  {line.fault} x{line.times}: {state} {line.violations}")


@contextlib.contextmanager
def _all(campaign: Campaign, lines: list[Line]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for line in lines:
            line.add(RESUMES, [repr(error)])


def _kill_until_finished(
    laboratory: Lab,
    pending: list[tuple[str, signal.Signals]],
    uniform: Callable[[float, float], float],
    lines: dict[tuple[str, signal.Signals], Line],
) -> list[Line]:
    """Kill until no kills are pending or the experiment is finished; return the kills' lines."""
    affected: list[Line] = []
    session: Session | None = None
    while pending:
        if session is None or session.poll() is not None:
            if session is not None and session.returncode == 0:
                break
            session = laboratory.start()
            _until_calls(laboratory, session, 1)
        time.sleep(uniform(0.2, 6.0))
        process_name, number = pending[0]
        target = _find_target(laboratory, session, process_name, uniform)
        if target is None:
            # It is not running at the moment; try another process.
            pending.append(pending.pop(0))
            if session.poll() == 0:
                break
            continue
        pending.pop(0)
        line = lines.setdefault(
            (process_name, number), Line("Processes", f"{number.name} to {process_name}", 0)
        )
        line.times += 1
        affected.append(line)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if "group" in process_name else os.kill)(target, number)
        print(f"    {number.name} to {process_name} ({target})", flush=True)
        if process_name.startswith("Snakemake"):
            # After SIGTERM, Snakemake lets running jobs finish.
            with contextlib.suppress(Exception):
                session.wait(120)
            line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory, is_cleaned=False))
            line.add(RESUMES, invariants.find_incomplete_results(laboratory))
    if session is not None and session.poll() is None:
        session.wait(lab.PATIENCE)
    return [line for number, line in enumerate(affected) if line not in affected[:number]]


def _until_calls(laboratory: Lab, session: Session, count: int) -> None:
    """Wait until a session has made more model calls or has ended."""
    server, limit = laboratory.server, time.monotonic() + 90
    target_count = len(server.ledger()) + count
    while len(server.ledger()) < target_count and session.poll() is None:
        if time.monotonic() > limit:
            return
        time.sleep(0.1)


def _find_target(
    laboratory: Lab, session: Session, process_name: str, uniform: Callable[[float, float], float]
) -> int | None:
    if process_name.startswith("Snakemake"):
        return session.pid if session.poll() is None else None
    limit = time.monotonic() + 12
    while time.monotonic() < limit and session.poll() is None:
        found = sorted(Tree(laboratory).of(process_name))
        if found:
            return found[int(uniform(0, len(found) - 0.001))]
        time.sleep(0.2)
    return None


def all_kills(campaign: Campaign) -> None:
    kill_in_turn(
        campaign,
        [(process_name, number) for process_name, number, times in KILLS for _ in range(times)],
    )


def few_kills(campaign: Campaign) -> None:
    """Interrupt three runs by each signal, then kill a container and a supervisor.

    Part of `make test`: a separate session for each signal, then a session that finishes.
    """
    control = campaign.control([lab.PAIR], ["solo"])
    options = {"settings": list(lab.COMMON), "evaluation": {"own_features": False}}
    with lab.laboratory(**options, delay="0.5") as laboratory:
        bystanders = invariants.Bystanders.start(laboratory, campaign.image)
        lines = [
            _stop(campaign, laboratory, bystanders, "SIGKILL to Snakemake", os.kill, KILL),
            _stop(campaign, laboratory, bystanders, "SIGINT to Snakemake's group", os.killpg, INT),
            # Only one run was requested: it ends, and two remain.
            _stop(
                campaign, laboratory, bystanders, "SIGTERM to Snakemake", os.kill, TERM, "coop-comm"
            ),
        ]
        with campaign.line("Processes", "a container, then a supervisor killed") as line:
            session = laboratory.start()
            _kill_container(laboratory, session, line)
            target = _find_target(laboratory, session, "supervisor", campaign.random.uniform)
            assert target is not None, session.stdout[-1500:]
            os.kill(target, KILL)
            session.wait(lab.PATIENCE)
            line.add(
                NOTHING_LEFT, invariants.find_leftovers(laboratory, bystanders, is_cleaned=False)
            )
            campaign.expect(line, laboratory.rows(), ("pass", ""))
            line.add(USAGE, invariants.find_unmarked_calls(laboratory))
            line.add(RESUMES, invariants.compare_tables(laboratory, control, ["solo"]))
            campaign.check_invariants(line, laboratory, None, bystanders, run=False)
        for stopped in lines:  # their runs ended in this session
            for column in line.checked:
                stopped.add(column, line.violations.get(column, []))


def _stop(
    campaign: Campaign,
    laboratory: Lab,
    bystanders: invariants.Bystanders,
    fault: str,
    send: Callable[[int, signal.Signals], None],
    number: signal.Signals,
    *settings: str,
) -> Line:
    """Send a signal to a session during a run; all of its processes must end with it."""
    with campaign.line("Processes", fault) as line:
        results = [
            str((laboratory.run_folder(name) / "result.json").relative_to(laboratory.clone))
            for name in settings
        ]
        session = laboratory.start(*(["-j", "4", *results] if settings else []))
        _until_calls(laboratory, session, 6)
        with laboratory.server.hold_answers():  # a run could end meanwhile otherwise
            assert session.poll() is None, session.stdout[-1500:]
            send(session.pid, number)
            if number != TERM:  # after SIGTERM, Snakemake waits for running jobs
                session.wait(lab.PATIENCE)
        session.wait(lab.PATIENCE)
        line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory, bystanders, is_cleaned=False))
        with contextlib.suppress(TimeoutError):
            lab.wait_for(lambda: not laboratory.containers(), 15)
        line.add(
            NOTHING_LEFT, [f"container {name[:12]} is running" for name in laboratory.containers()]
        )
        line.add(RESUMES, invariants.find_incomplete_results(laboratory))
    return line


def _kill_container(laboratory: Lab, session: Session, line: Line) -> None:
    """Kill the container of the solo run during a step; few calls may follow."""
    run = laboratory.run_folder("solo")
    label = f"label=cooperflow.run={run.relative_to(laboratory.results / 'runs')}"

    def calls() -> int:
        return sum(entry["kind"] == "solo" for entry in laboratory.server.ledger())

    before = calls()
    lab.wait_for(lambda: calls() > before + 1, 120, "calls of the solo run")
    laboratory.docker("kill", *laboratory.docker("ps", "-q", "--filter", label).split())
    killed = calls()
    attempts = run / "attempts"
    verdict = lab.wait_for(
        lambda: [p for p in attempts.glob("*/attempt.json") if "container_died" in p.read_text()],
        60,
        "the verdict",
    )
    calls_after = calls() - killed
    line.expect(
        TRUE_OUTCOME, verdict and calls_after <= 8, f"{calls_after} calls on a dead container"
    )


CASES = (
    Case("processes: storm", all_kills),
    Case("processes: each once", few_kills, quick=True),
)
