"""What a run was: evidence in, outcome and reason out. Pure: no file, no Docker, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cooperflow.outcomes import runner_output, usage

PASS = "pass"
FAIL = "fail"
INFRA_ERROR = "infra_error"
OUTCOMES = (PASS, FAIL, INFRA_ERROR)

# Reasons of `fail`.
TESTS_FAILED = "tests_failed"
MERGE_CONFLICT = "merge_conflict"
PATCH_NOT_APPLIED = "patch_not_applied"
PATCH_TOO_LARGE = "patch_too_large"
EMPTY_PATCH = "empty_patch"
TIMEOUT = "timeout"
STEP_LIMIT = "step_limit"
COST_LIMIT = "cost_limit"
CONTEXT_LIMIT = "context_limit"
STORE_ENDED = "store_ended"

# Reasons of `infra_error` beside those of usage.py.
CONTAINER_DIED = "container_died"
OOM_KILLED = "oom_killed"
DOCKER_UNAVAILABLE = "docker_unavailable"
IMAGE_MISSING = "image_missing"
DISK_FULL = "disk_full"
REDIS_UNAVAILABLE = "redis_unavailable"
PROCESS_DIED = "process_died"
AGENT_ERROR = "agent_error"
SETUP_ERROR = "setup_error"
EVAL_ERROR = "eval_error"

# Caveats of `pass`.
LEAD_ALONE = "lead_alone"
NO_TESTS_RUN = "no_tests_run"
# Caveat of any outcome: an answer was cut at the limit of output tokens.
OUTPUT_LIMIT = "output_limit"

# A provider that says so to one run says so to all: no further paid run is started.
HALTING = frozenset({usage.AUTH, usage.MODEL_NOT_FOUND, usage.QUOTA, SETUP_ERROR})
# Exit code of a cooperbench process whose imports failed (EX_CONFIG).
CANNOT_START = 78
# What a provider's errors to the end make of a run, the worst first.
_PROVIDER = (
    usage.AUTH,
    usage.QUOTA,
    usage.MODEL_NOT_FOUND,
    usage.RATE_LIMITED,
    usage.API_TIMEOUT,
    usage.API_UNAVAILABLE,
    usage.BAD_REQUEST,
)


@dataclass(frozen=True)
class AgentEnd:
    """How upstream says that one agent ended."""

    agent: str
    status: str
    error: str = ""
    steps: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class CallsEnd:
    """How the calls of one agent went: its last one, and the seconds it waited in vain.

    seconds: from its first call to the end of the attempt.
    refused_setting: the last call was refused for a setting of the config, as every other will be.
    """

    last: str
    waited: float
    seconds: float
    refused_setting: bool = False

    @property
    def mostly_waited(self) -> bool:
        return self.waited > self.seconds / 2


@dataclass(frozen=True)
class Evidence:
    """All that is known of an attempt when it has ended."""

    document: bool  # upstream wrote a whole result.json for exactly this pair
    timed_out: bool = False
    exit_code: int | None = 0  # of the cooperbench process; negative: the signal that ended it
    seconds: float = 0.0
    agents: tuple[AgentEnd, ...] = ()
    calls: tuple[CallsEnd, ...] = ()
    containers_started: int | None = None  # None: not known
    containers_asked: int | None = None  # by its agents; None: not known
    containers_died: int = 0  # ended while their agent was at work, and not by its own cleanup
    containers_oom: int = 0
    exec_refused: int = 0  # running ones in which the engine started no command
    disk_full: bool = False  # nothing more could be written where the run's files lie
    engine_stalled: float = 0.0  # seconds for which Docker gave no answer
    engine_lost: bool = False  # Docker stopped answering, or its event stream broke off
    image_missing: bool = False
    redis_died: bool = False
    store_ended_by_agent: bool = False  # a client's command ended the message store
    store_unavailable: bool = False  # it did not start, or its agents do not reach it
    detail: str = ""  # in the engine's words: what could not be provided
    gateway_died: bool = False  # the way from agents in containers to their model
    silent: int = 0  # agents without a single call, where all calls are recorded
    patch_unread: bool = False  # a command that reads an agent's patch did not come to its end
    step_limit: int | None = None
    cut_answers: int = 0  # ended at the limit of output tokens
    held: float = 0.0  # seconds for which our own limit of requests held an agent back


@dataclass(frozen=True)
class Verdict:
    """What a run was, as far as it can be said. outcome None: the tests decide.

    `reason` beside outcome None is the reason to give if the tests fail.
    """

    outcome: str | None
    reason: str = ""
    caveat: str = ""
    again: bool = False
    halts: bool = False


def is_strict(caveat: str) -> bool:
    """Return whether nothing about a pass is in doubt. A cut answer makes none easier."""
    return caveat in ("", OUTPUT_LIMIT)


def agent_ends(document: Mapping[str, Any] | None) -> tuple[AgentEnd, ...]:
    """Return how each agent ended, by upstream's document."""
    if document is None:
        return ()
    agents = document.get("agents") or {"solo": document.get("agent") or {}}
    return tuple(
        AgentEnd(
            agent=name,
            status=str(end.get("status") or "Error"),
            error=str(end.get("error") or ""),
            steps=int(end.get("steps") or 0),
            cost=float(end.get("cost") or 0.0),
        )
        for name, end in agents.items()
    )


def judge_run(evidence: Evidence) -> Verdict:
    """Return what an attempt came to, before its patches are tested."""
    infra = _infrastructure(evidence)
    if infra is not None:
        return infra
    if evidence.timed_out:
        if any(calls.mostly_waited for calls in evidence.calls):
            return _infra(usage.API_TIMEOUT)
        if evidence.engine_stalled > evidence.seconds / 2:
            return _infra(DOCKER_UNAVAILABLE)
        return Verdict(FAIL, TIMEOUT)
    failed = any(agent.status == "Error" for agent in evidence.agents)
    if failed or not evidence.document:
        last = {calls.last for calls in evidence.calls}
        for reason in _PROVIDER:
            if reason in last:
                refused = any(calls.refused_setting for calls in evidence.calls)
                return _infra(reason, halts=refused and reason == usage.BAD_REQUEST)
        if evidence.redis_died and not evidence.store_ended_by_agent:
            return _infra(REDIS_UNAVAILABLE)
        if evidence.store_ended_by_agent:
            return Verdict(None if evidence.document else FAIL, STORE_ENDED)
        if not evidence.document:
            killed = evidence.exit_code is None or evidence.exit_code < 0
            if killed:
                return _infra(PROCESS_DIED)
            return _infra(DOCKER_UNAVAILABLE if evidence.exec_refused else AGENT_ERROR)
        if usage.CONTEXT not in last:
            return _infra(DOCKER_UNAVAILABLE if _refused(evidence) else AGENT_ERROR)
        return Verdict(None, CONTEXT_LIMIT)
    if evidence.redis_died and not evidence.store_ended_by_agent:
        return _infra(REDIS_UNAVAILABLE)
    if evidence.silent:
        # It did nothing, whatever its framework says: that tells nothing of the model.
        return _infra(AGENT_ERROR)
    for agent in evidence.agents:
        if agent.status == "LimitsExceeded":
            steps = evidence.step_limit
            return Verdict(None, STEP_LIMIT if steps and agent.steps >= steps else COST_LIMIT)
        if agent.status == "CostLimitExceeded":
            return Verdict(None, COST_LIMIT)
    return Verdict(None)


def _refused(evidence: Evidence) -> bool:
    """Whether Docker refused an agent's command, or a container that an agent asked it for."""
    if evidence.exec_refused:
        return True
    started, asked = evidence.containers_started, evidence.containers_asked
    if started is None or started >= len(evidence.agents):
        return False
    return asked is None or asked > started


def _infrastructure(evidence: Evidence) -> Verdict | None:
    if evidence.disk_full:
        return _infra(DISK_FULL)
    if evidence.exit_code == CANNOT_START and not evidence.document:
        return _infra(SETUP_ERROR)
    if evidence.engine_lost:
        return _infra(DOCKER_UNAVAILABLE)
    if evidence.store_unavailable:
        return _infra(REDIS_UNAVAILABLE)
    if evidence.containers_oom:
        return _infra(OOM_KILLED)
    if evidence.containers_died:
        return _infra(CONTAINER_DIED)
    if evidence.image_missing:
        return _infra(IMAGE_MISSING)
    if evidence.gateway_died:
        return _infra(PROCESS_DIED)
    if evidence.patch_unread:
        return _infra(DOCKER_UNAVAILABLE)
    return None


def _infra(reason: str, halts: bool = False) -> Verdict:
    halts = halts or reason in HALTING
    return Verdict(INFRA_ERROR, reason, again=not halts, halts=halts)


def judge_eval(
    document: Mapping[str, Any] | None,
    empty_patches: Sequence[bool],
    reason: str = "",
    largest_patch: int = 0,
    text_caveats: Sequence[str] = (),
) -> Verdict:
    """Return what the tests make of a run.

    Args:
        document: upstream's eval.json, None where there is none that is whole.
        empty_patches: for each patch of the run whether upstream gets nothing of it.
        reason: the reason to give if the tests fail (an agent's limit), empty if none.
        largest_patch: bytes of the run's largest patch.
        text_caveats: what upstream's own way of reading patches would have changed in them.
    """
    error = str((document or {}).get("error") or "")
    if _PATCH_NOT_WRITTEN.match(error) and largest_patch > LARGEST_PATCH:
        return Verdict(FAIL, PATCH_TOO_LARGE)
    if document is None or document.get("error"):
        return Verdict(INFRA_ERROR, EVAL_ERROR, again=True)
    merge = document.get("merge") or {}
    if merge.get("status") == "error":
        return Verdict(INFRA_ERROR, EVAL_ERROR, again=True)
    outputs = [output_of(document, number) for number in (1, 2)]
    if document.get("both_passed") is True:
        caveats = []
        if str(merge.get("strategy") or "").startswith("solo-"):
            caveats.append(LEAD_ALONE)
        if not all(count_tests(output) for output in outputs):
            caveats.append(NO_TESTS_RUN)
        return Verdict(PASS, caveat=";".join([*caveats, *text_caveats]))
    return Verdict(FAIL, reason or _why(document, merge, empty_patches, outputs))


def _why(
    document: Mapping[str, Any],
    merge: Mapping[str, Any],
    empty_patches: Sequence[bool],
    outputs: Sequence[str],
) -> str:
    applied = (document.get("apply_status") or {}).values()
    if any(empty_patches) or "skipped" in applied:
        return EMPTY_PATCH
    if "failed" in applied or merge.get("status") == "missing_input":
        return PATCH_NOT_APPLIED
    if merge.get("status") == "conflicts":
        return MERGE_CONFLICT
    for output in outputs:
        if not count_tests(output, failed=True) and _NOT_APPLIED.search(output):
            return PATCH_NOT_APPLIED
    return TESTS_FAILED


def output_of(document: Mapping[str, Any], number: int) -> str:
    """Return the test output of a feature (1 or 2), under whichever key upstream wrote it."""
    feature = document.get(f"feature{number}") or {}
    return str(feature.get("test_output") or feature.get("output") or "")


# Upstream hands a patch over as one argument of a shell, which the kernel limits to 128 KiB.
LARGEST_PATCH = 98_000
_PATCH_NOT_WRITTEN = re.compile(r"Failed to write (?!tests)\w+\.patch")
_NOT_APPLIED = re.compile(
    r"^error: (?:No valid patches in input|git diff header lacks filename information"
    r"|patch failed: |corrupt patch |unrecognized input|.*: patch does not apply"
    r"|.*: does not exist in index|.*: already exists in (?:index|working directory)"
    r"|.*: No such file or directory)",
    re.MULTILINE,
)


def count_tests(output: str, failed: bool = False) -> int:
    """Return how many tests passed (with ``failed``: passed or failed) by a runner's output."""
    counted = runner_output.count(output)
    return counted.total if failed else counted.passed
