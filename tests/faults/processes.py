"""Kills: any process of a session, by any signal, at random times."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import invariants, lab
from .lab import Lab, Start
from .report import BOOKS, GOES_ON, LEFT, ONCE, TRUE, Campaign, Case, Line

PAIRS = [lab.PAIR, (lab.INVENTORY, 1, (2, 3)), (lab.TEXTKIT, 2, (1, 2)), (lab.TEXTKIT, 2, (3, 2))]
INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL

# The killed process, the signal, and the number of kills in the campaign.
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
    """The living processes of a laboratory and what each of them is."""

    def __init__(self, here: Lab) -> None:
        self._lines = dict(here.processes())
        forks = {pid for pid, line in self._lines.items() if "scripts/launcher.py" in line}
        claims = (here.results / ".state" / "claims").glob("*")
        held = set()
        for path in claims:
            with contextlib.suppress(OSError, IndexError, ValueError):
                held.add(int(path.read_text().split(":")[1]))
        self.supervisors = [pid for pid in held if pid in self._lines]
        children = [pid for pid in forks - held if parent(pid) in held]
        self.cooperbench = children
        self.launchers = [pid for pid in forks - held - set(children) if listens(pid)]
        self.jobs = [
            pid
            for pid, line in self._lines.items()
            if line.split(" ")[1:2] and line.split(" ")[1].endswith(("scripts/run.py", "/eval.py"))
        ]
        # A process that is just ending has no command line any more.
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


def listens(pid: int) -> bool:
    """True if a process holds a socket that others connect to, by its path."""
    try:
        inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        table = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    except OSError:
        return False
    rows = [row.split() for row in table]
    listening = {f"socket:[{row[6]}]" for row in rows if row[3] == "00010000"}
    return bool(inodes & listening)


def storm(campaign: Campaign, kills: list[tuple[str, signal.Signals]]) -> None:
    """Cause the kills one after another on experiments of twelve runs until all are caused."""
    dice = campaign.random
    settings = list(lab.SETTINGS)
    control = campaign.control(PAIRS, settings)
    lines: dict[tuple[str, signal.Signals], Line] = {}
    waiting = list(kills)
    dice.shuffle(waiting)
    while waiting:
        with lab.laboratory(pairs=PAIRS, settings=settings, delay="uniform:0.2:1.2") as here:
            others = invariants.Bystanders.begin(here, campaign.image)
            mine = _until_done(here, waiting, dice.uniform, lines)
            for line in mine:
                line.add(LEFT, others.missing())
            with _all(campaign, mine):
                end = mine[0]
                before = {c: list(p) for c, p in end.wrong.items()}
                campaign.settle(end, here, control, others)
                for line in mine[1:]:
                    for column in (BOOKS, ONCE, LEFT, GOES_ON, TRUE):
                        line.add(
                            column,
                            [
                                p
                                for p in end.wrong.get(column, [])
                                if p not in before.get(column, [])
                            ],
                        )
                for line in mine:
                    line.add(TRUE, [])
    campaign.lines += lines.values()
    for line in lines.values():
        print(f"  {line.fault} x{line.times}: {'held' if line.held else 'BROKEN'} {line.wrong}")


@contextlib.contextmanager
def _all(campaign: Campaign, lines: list[Line]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for line in lines:
            line.add(GOES_ON, [repr(error)])


def _until_done(
    here: Lab,
    waiting: list[tuple[str, signal.Signals]],
    uniform: Callable[[float, float], float],
    lines: dict[tuple[str, signal.Signals], Line],
) -> list[Line]:
    """Kill until nothing waits any more or the experiment is finished; return the lines struck."""
    struck: list[Line] = []
    start: Start | None = None
    while waiting:
        if start is None or start.process.poll() is not None:
            if start is not None and start.process.returncode == 0:
                break
            start = here.start()
            _until_calls(here, start, 1)
        time.sleep(uniform(0.2, 6.0))
        who, number = waiting[0]
        victim = _victim(here, start, who, uniform)
        if victim is None:
            # It is not running at this moment: try another process.
            waiting.append(waiting.pop(0))
            if start.process.poll() == 0:
                break
            continue
        waiting.pop(0)
        line = lines.setdefault((who, number), Line("Processes", f"{number.name} to {who}", 0))
        line.times += 1
        struck.append(line)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if "group" in who else os.kill)(victim, number)
        print(f"    {number.name} to {who} ({victim})", flush=True)
        if who.startswith("Snakemake"):
            # After SIGTERM it lets the running jobs end.
            with contextlib.suppress(Exception):
                start.finished(120)
            line.add(LEFT, invariants.nothing_left(here, swept=False))
            line.add(GOES_ON, invariants.whole(here))
    if start is not None and start.process.poll() is None:
        start.finished()
    return [line for number, line in enumerate(struck) if line not in struck[:number]]


def _until_calls(here: Lab, start: Start, more: int) -> None:
    """Wait until a session has made some model calls, or has ended."""
    server, limit = here.servers["lab"], time.monotonic() + 90
    wanted = len(server.ledger()) + more
    while len(server.ledger()) < wanted and start.process.poll() is None:
        if time.monotonic() > limit:
            return
        time.sleep(0.1)


def _victim(
    here: Lab, start: Start, who: str, uniform: Callable[[float, float], float]
) -> int | None:
    if who.startswith("Snakemake"):
        return start.process.pid if start.process.poll() is None else None
    limit = time.monotonic() + 12
    while time.monotonic() < limit and start.process.poll() is None:
        found = sorted(Tree(here).of(who))
        if found:
            return found[int(uniform(0, len(found) - 0.001))]
        time.sleep(0.2)
    return None


def all_kills(campaign: Campaign) -> None:
    storm(campaign, [(who, number) for who, number, times in KILLS for _ in range(times)])


def few_kills(campaign: Campaign) -> None:
    """Kill Snakemake hard in mid-run, then a supervisor: the subset of `make test`."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Processes", "SIGKILL to Snakemake, then to the supervisor") as line,
        lab.laboratory(delay="0.7") as here,
    ):
        others = invariants.Bystanders.begin(here, campaign.image)
        for who in ("Snakemake", "supervisor"):
            start = here.start()
            _until_calls(here, start, 2)
            victim = _victim(here, start, who, campaign.random.uniform)
            assert victim is not None, start.text[-1500:]
            os.kill(victim, KILL)
            line.times = 2
            start.finished()
            line.add(LEFT, invariants.nothing_left(here, others, swept=False))
        campaign.settle(line, here, control, others)


CASES = (
    Case("processes: storm", all_kills),
    Case("processes: two kills", few_kills, quick=True),
)
