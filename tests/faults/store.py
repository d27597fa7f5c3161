"""Faults of a run's resources other than containers: message store, network, volume."""

from __future__ import annotations

import json
import os
import signal

from cooperflow import atomic_io

from . import engine, invariants, lab
from .lab import Lab, wait_for
from .processes import Tree
from .provider import agent
from .report import NOTHING_LEFT, RESUMES, TRUE_OUTCOME, Campaign, Case

COMMANDS = (
    *("CONFIG SET dir /tmp", "CONFIG SET dbfilename stolen", "SAVE", "BGSAVE", "FLUSHALL"),
    *("EVAL 'return 1' 0", "DEBUG SEGFAULT", "REPLICAOF 127.0.0.1 1", "SHUTDOWN NOSAVE"),
)
# In an agent's container, send each command on a connection with the run's password.
HOSTILE = (
    "u=${CB_TEAM_REDIS_URL#redis://:}; u=${u%%#*}; a=${u#*@}; for c in "
    + " ".join(f'"{command}"' for command in COMMANDS)
    + '; do exec 3<>/dev/tcp/${a%:*}/${a#*:}; printf "AUTH ${u%%@*}\\r\\n$c\\r\\n" >&3;'
    + ' read -t 5 r <&3; read -t 5 s <&3; echo "store: $c: $r $s"; done'
)


def hostile_commands(campaign: Campaign) -> None:
    """The store refuses hostile commands even with the password, and the run ends normally."""
    models = {"tested": agent(HOSTILE)}
    with (
        campaign.line("Security", "hostile commands to the message store") as line,
        lab.laboratory(models=models, settings=["team"]) as laboratory,
    ):
        bystanders = invariants.Bystanders.start(laboratory, campaign.image)
        done = laboratory.run()
        if done.returncode:
            line.add(RESUMES, [done.stdout[-1500:]])
            return
        output = "\n".join(
            content.decode(errors="replace")
            for path in laboratory.results.rglob("*_traj.json*")
            for _, content in atomic_io.file_contents(path)
        )
        answers = [part for part in json.dumps(output).split("store: ")[1:] if "OK" in part[:80]]
        refused = [part for part in answers if "NOPERM" in part[:200] or "-ERR" in part[:200]]
        violations = (
            [] if refused and len(refused) == len(answers) else [f"accepted: {answers[:3]}"]
        )
        violations += [
            f"{row['outcome']} {row['reason']}" for row in laboratory.rows() if _infra(row)
        ]
        line.add(TRUE_OUTCOME, violations)
        line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory, bystanders))


def volumes(campaign: Campaign) -> None:
    """The next session removes volumes if both responsible processes are killed."""
    with (
        campaign.line("Docker", "volumes after SIGKILL to Snakemake and the supervisor") as line,
        lab.laboratory(settings=["team"], delay="2") as laboratory,
    ):
        bystanders = invariants.Bystanders.start(laboratory, campaign.image)
        start = laboratory.start()
        wait_for(lambda: len(laboratory.server.ledger()) >= 2, 240, "a call")
        known = _volumes(laboratory)
        tree = Tree(laboratory)
        for pid in [start.pid, *tree.supervisors]:
            os.kill(pid, signal.SIGKILL)
        start.wait(60)
        done = laboratory.run()
        line.expect(RESUMES, not done.returncode, done.stdout[-1500:])
        left = known & _volumes(laboratory, labelled=False)
        line.expect(TRUE_OUTCOME, known, "a team's volume has no label")
        line.add(
            NOTHING_LEFT,
            [*invariants.find_leftovers(laboratory, bystanders), *map(str, sorted(left))],
        )


def address_pools(campaign: Campaign) -> None:
    """An engine without address ranges is reported before a run starts, with the remedy."""
    pool = "--default-address-pool=base=10.213.0.0/24,size=24"
    other = engine.Engine(2500, pool)
    try:
        other.load("cooperflow/demo-base:bookworm", engine.IMAGE)
        other.docker("network", "create", "taken")
        with (
            campaign.line("Docker", "address pools exhausted") as line,
            lab.laboratory(settings=["coop-git"], docker_host=other.host) as laboratory,
        ):
            done = laboratory.run()
            is_reported = "default-address-pools" in done.stdout and done.returncode
            line.expect(TRUE_OUTCOME, is_reported, done.stdout[-1500:])
            line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory))
    finally:
        other.end()


def _infra(row: dict[str, str]) -> bool:
    return row["outcome"] == "infra_error"


def _volumes(laboratory: Lab, labelled: bool = True) -> set[str]:
    chosen = ["--filter", f"label=cooperflow.results={laboratory.identity}"] if labelled else []
    return set(laboratory.docker("volume", "ls", "-q", *chosen).split())


CASES = (
    Case("store: hostile commands", hostile_commands, quick=True),
    Case("store: volumes", volumes),
    Case("store: address pools", address_pools),
)
