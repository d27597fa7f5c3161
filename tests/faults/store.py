"""Faults of what a run has beside its containers: message store, network, volume."""

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
# In an agent's container: each command on a connection with the run's password.
HOSTILE = (
    "u=${CB_TEAM_REDIS_URL#redis://:}; u=${u%%#*}; a=${u#*@}; for c in "
    + " ".join(f'"{command}"' for command in COMMANDS)
    + '; do exec 3<>/dev/tcp/${a%:*}/${a#*:}; printf "AUTH ${u%%@*}\\r\\n$c\\r\\n" >&3;'
    + ' read -t 5 r <&3; read -t 5 s <&3; echo "store: $c: $r $s"; done'
)


def hostile_commands(campaign: Campaign) -> None:
    """An agent with the run's password gets none of them through, and its run ends as any other."""
    models = {"tested": agent(HOSTILE)}
    with (
        campaign.line("Security", "hostile commands to the message store") as line,
        lab.laboratory(models=models, settings=["team"]) as laboratory,
    ):
        others = invariants.Bystanders.begin(laboratory, campaign.image)
        done = laboratory.run()
        if done.returncode:
            line.add(RESUMES, [done.stdout[-1500:]])
            return
        said = "\n".join(
            content.decode(errors="replace")
            for path in laboratory.results.rglob("*_traj.json*")
            for _, content in atomic_io.file_contents(path)
        )
        answers = [part for part in json.dumps(said).split("store: ")[1:] if "OK" in part[:80]]
        refused = [part for part in answers if "NOPERM" in part[:200] or "-ERR" in part[:200]]
        wrong = [] if refused and len(refused) == len(answers) else [f"accepted: {answers[:3]}"]
        wrong += [f"{row['outcome']} {row['reason']}" for row in laboratory.rows() if _infra(row)]
        line.add(TRUE_OUTCOME, wrong)
        line.add(NOTHING_LEFT, invariants.nothing_left(laboratory, others))


def volumes(campaign: Campaign) -> None:
    """Both processes that would remove them are killed; the next session does."""
    with (
        campaign.line("Docker", "volumes after SIGKILL to Snakemake and the supervisor") as line,
        lab.laboratory(settings=["team"], delay="2") as laboratory,
    ):
        others = invariants.Bystanders.begin(laboratory, campaign.image)
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
            NOTHING_LEFT, [*invariants.nothing_left(laboratory, others), *map(str, sorted(left))]
        )


def address_pools(campaign: Campaign) -> None:
    """The engine has no address range left: reported before a run starts, with the remedy."""
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
            told = "default-address-pools" in done.stdout and done.returncode
            line.expect(TRUE_OUTCOME, told, done.stdout[-1500:])
            line.add(NOTHING_LEFT, invariants.nothing_left(laboratory))
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
