"""A try at a job: its number, its exit codes, how long it waits for one that may still be at it."""

from __future__ import annotations

from dataclasses import dataclass

from cooperflow import processes
from cooperflow.experiment.plan import Plan

# Exit codes of a job, as sysexits.h has them.
DONE = 0
TRY_AGAIN = 75
HALTED = 77
INTERRUPTED = 130

# A process of an earlier start may still be dying: how long to wait for it, seconds.
CLAIM_SECONDS = 90


@dataclass(frozen=True)
class Try:
    """Which of Snakemake's tries this is."""

    number: int  # 1, 2, 3
    last: bool


def claim_seconds(plan: Plan) -> float:
    """Return how long another process may still be at a run or grading, seconds.

    On a cluster it may be a whole job of an earlier start, which goes on and whose result is
    waited for; elsewhere it is dying.
    """
    limits = plan.config.limits
    longest = max(limits.run_seconds, limits.eval_seconds)
    return CLAIM_SECONDS + (longest if processes.on_a_node() else 0)
