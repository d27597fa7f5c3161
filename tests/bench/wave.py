"""The first wave: whether containers run sooner if they are started one after the other."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

# Four runs of two agents, the most that a session with four slots starts at once.
CONTAINERS = 8
# Between two beginnings, seconds.
STAGGERS = (0.0, 0.25, 0.5, 1.0)
IMAGE = "cooperflow/demo-base:bookworm"


@dataclass(frozen=True)
class Wave:
    """Seconds from the first start until containers answered a command."""

    stagger: float
    mean: float
    last: float
    slowest: float  # of one container, from its own start


def measure(stagger: float, containers: int = CONTAINERS) -> Wave:
    """Start the containers ``stagger`` seconds apart; remove them afterwards."""
    begun = time.monotonic()

    def start_container(number: int) -> tuple[str, float, float]:
        time.sleep(max(begun + number * stagger - time.monotonic(), 0))
        own = time.monotonic()
        name = _docker("run", "-d", "--rm", "--init", IMAGE, "sleep", "300")
        _docker("exec", name, "true")
        return name, time.monotonic() - begun, time.monotonic() - own

    with ThreadPoolExecutor(containers) as pool:
        times = list(pool.map(start_container, range(containers)))
    _docker("rm", "-f", *(name for name, _, _ in times))
    ready = [seconds for _, seconds, _ in times]
    slowest = max(seconds for _, _, seconds in times)
    return Wave(stagger, sum(ready) / len(ready), max(ready), slowest)


def _docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=300
    ).stdout.strip()
