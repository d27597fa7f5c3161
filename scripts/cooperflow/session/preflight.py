"""The preflight: one list of checks in two levels, before a session or on request."""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from cooperflow.engine import containers
from cooperflow.errors import UserError
from cooperflow.session import checks
from cooperflow.session.checks import Context
from cooperflow.session.finding import BAD, NOTE, Finding


class Level(enum.Enum):
    """QUICK checks only look; FULL checks try: a model call, a container, a server."""

    QUICK = enum.auto()
    FULL = enum.auto()


@dataclass(frozen=True)
class Check:
    """A check and its level."""

    level: Level
    run: Callable[[Context], Iterator[Finding]]


CHECKS = (
    Check(Level.QUICK, checks.check_keys),
    Check(Level.QUICK, checks.check_environment),
    Check(Level.QUICK, checks.check_dataset),
    Check(Level.QUICK, checks.check_redis_program),
    Check(Level.QUICK, checks.check_disk),
    Check(Level.QUICK, checks.check_openhands),
    Check(Level.QUICK, checks.check_agent_modules),
    Check(Level.QUICK, checks.check_cluster),
    Check(Level.QUICK, checks.check_modal),
    Check(Level.QUICK, checks.check_docker),
    Check(Level.FULL, checks.check_modal_app),
    Check(Level.FULL, checks.check_containers),
    Check(Level.FULL, checks.check_open_files),
    Check(Level.FULL, checks.check_patches),
    Check(Level.FULL, checks.check_agent_config),
    Check(Level.FULL, checks.check_redis_server),
    Check(Level.FULL, checks.check_models),
)


def run_checks(context: Context, *levels: Level) -> Iterator[Finding]:
    """Yield the findings of all checks of ``levels`` (default: both), each as it is known."""
    reported = set()
    for check in CHECKS:
        if check.level in (levels or Level):
            for finding in check.run(context):
                if finding not in reported:
                    yield finding
                reported.add(finding)


def require_quick(context: Context) -> str | None:
    """Run the quick checks and print their notes; return the version of a local Docker.

    Raises:
        UserError: lists everything that is missing and what to do about each.
    """
    if not context.work.needs_engine:
        return None
    findings = list(run_checks(context, Level.QUICK))
    for finding in findings:
        if finding.state == NOTE:
            print(f"{finding.name}: {finding.text}", file=sys.stderr)
    _require(findings)
    if not context.has_local_engine:
        return None
    with contextlib.closing(containers.engine(10)) as client:
        return str(client.version()["Version"])


def require_full(context: Context) -> None:
    """Run the full checks before paid runs, unless `preflight` is `light`; print their findings.

    Raises:
        UserError: lists everything that failed and what to do about each.
    """
    paid = tuple(run for run in context.work.runs if run.experiment.model.replay is None)
    if paid and context.plan.config.preflight == "full":
        _require(print_findings(run_checks(context, Level.FULL), sys.stderr))


def print_findings(findings: Iterable[Finding], stream: TextIO) -> Iterator[Finding]:
    """Print findings as they are known, one line each."""
    for finding in findings:
        print(finding, file=stream, flush=True)
        yield finding


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that prevent a session."""
    return [finding for finding in findings if finding.state == BAD]


def _require(findings: Iterable[Finding]) -> None:
    failures = failed(findings)
    if failures:
        lines = (f"  {n}. {finding.title}: {finding.text}" for n, finding in enumerate(failures, 1))
        raise UserError("\n".join(["Cannot start. Missing prerequisites:", *lines]))
