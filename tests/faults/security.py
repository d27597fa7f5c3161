"""Secrets and services that agents and other users must not reach, even after errors."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import invariants, lab
from .lab import Lab
from .provider import agent, fault_rule
from .report import NOTHING_LEFT, TRUE_OUTCOME, Campaign, Case

QUOTES_THE_KEY = f"invalid api token {lab.KEY}, as was sent"
# As another user, connect to everything in the folder of sockets.
INTRUDER = """
import os, pathlib, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except PermissionError:
        continue
    print("reached", path)
"""


def secrecy(campaign: Campaign) -> None:
    inspector = agent("env; cat /proc/self/environ; ls -la /var/run /run; mount", submit=False)
    refused = [
        fault_rule("unavailable", 4, message=QUOTES_THE_KEY),
        fault_rule("rate_limited", message=QUOTES_THE_KEY),
    ]
    models = {"tested": (), "inspector": inspector, "refused": refused}
    settings = ["solo", "coop-comm"]
    with (
        campaign.line("Security", "key, mounts, limits and sockets during runs and errors") as line,
        lab.laboratory(
            models=models, settings=settings, delay="0.5", breaker={"failures": 0}
        ) as laboratory,
    ):
        violations: set[str] = set()
        seen = {"containers": 0, "sockets": 0}
        start = laboratory.start()
        while start.poll() is None:
            violations.update(_command_lines())
            for container in _inspect(laboratory):
                seen["containers"] += 1
                violations.update(_of_container(container))
            sockets = [p for p in laboratory.runtime.rglob("*.sock") if p.is_socket()]
            seen["sockets"] += len([p for p in sockets if p.name == "redis.sock"])
            violations.update(_of_sockets(laboratory, sockets))
            time.sleep(1)
        violations.update(invariants.find_key(laboratory, lab.KEY))
        if not all(seen.values()):
            violations.add(f"nothing was inspected: {seen} {start.stdout[-1500:]}")
        line.add(TRUE_OUTCOME, sorted(violations))
        line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory))


def _command_lines() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if lab.KEY.encode() in line:
                found.add(f"the key is in a command line: {line[:80]!r}")
    return found


def _inspect(laboratory: Lab) -> list[dict[str, Any]]:
    ids = laboratory.containers()
    return json.loads(laboratory.docker("inspect", *ids, check=False) or "[]") if ids else []


def _of_container(container: dict[str, Any]) -> set[str]:
    violations = set()
    host = container["HostConfig"]
    if lab.KEY in json.dumps(container):
        violations.add("the key is in a container's description")
    if host["Binds"] or [m for m in container["Mounts"] if m["Type"] == "bind"]:
        violations.add(f"a path of the machine is mounted: {host['Binds']} {container['Mounts']}")
    if host["Privileged"] or host["NetworkMode"] == "host" or host["PidMode"] or host["CapAdd"]:
        violations.add("a container is privileged")
    if not (host["Memory"] and host["PidsLimit"] and host["OomScoreAdj"] == 500):
        violations.add(f"a container has no limits: {host['Memory']} {host['PidsLimit']}")
    return violations


def _of_sockets(laboratory: Lab, sockets: list[Path]) -> set[str]:
    violations = set()
    for path in laboratory.runtime.iterdir():
        if stat.S_IMODE(path.stat().st_mode) != 0o700:
            violations.add(f"other users can enter {path.name}")
    if sockets and os.getuid() == 0:
        # The laboratory's folder is closed too, so start below it.
        os.chmod(laboratory.folder, 0o755)
        os.chmod(laboratory.runtime, 0o755)
        done = subprocess.run(
            [sys.executable, "-c", INTRUDER, *map(str, sockets)], capture_output=True, text=True
        )
        violations.update(done.stdout.splitlines())
    return violations


CASES = (Case("security", secrecy, quick=True),)
