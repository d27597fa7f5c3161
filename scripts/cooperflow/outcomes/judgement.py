"""Judgement of a run: the rules that turn evidence into an outcome and a reason.

The two tables in this module have the same rows as those in docs/results.md; the first row whose
condition is true decides. The functions are pure: they use no file, Docker or clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cooperflow.outcomes import usage
from cooperflow.upstream import result_files
from cooperflow.upstream.result_files import AgentEnd, Evaluation

PASS = "pass"
FAIL = "fail"
INFRA_ERROR = "infra_error"
OUTCOMES = (PASS, FAIL, INFRA_ERROR)
GRADED = (PASS, FAIL)  # the outcomes that a pass rate counts

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
INVALID_CALL = "invalid_call"

# Reasons of `infra_error`, in addition to those in usage.py.
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
CONTENT_FILTER = "content_filter"

# Caveats of `pass`.
LEAD_ALONE = "lead_alone"
NO_TESTS_RUN = "no_tests_run"
# Caveat of any outcome: an answer was cut at the limit of output tokens.
OUTPUT_LIMIT = "output_limit"

# Reasons that would affect every other run too, so the session starts no more paid runs.
HALTING = frozenset({usage.AUTH, usage.MODEL_NOT_FOUND, usage.QUOTA, SETUP_ERROR})
# Exit code of a cooperbench process whose imports failed (EX_CONFIG).
CANNOT_START = 78
# Exit code of a cooperbench process that could not write its call log (EX_IOERR).
UNRECORDED = 74


@dataclass(frozen=True)
class CallsEnd:
    """Summary of one agent's calls: the end of the last call, and the waiting time.

    seconds: duration from the first call to the end of the attempt.
    refused_setting: the last call was refused because of a setting in the config, which every call
        has.
    withheld: a content filter of the provider withheld the last answer.
    unreadable: the last answer has a tool call whose arguments are not an object.
    """

    last: str
    waited: float
    seconds: float
    refused_setting: bool = False
    withheld: bool = False
    unreadable: bool = False

    @property
    def mostly_waited(self) -> bool:
        return self.waited > self.seconds / 2


@dataclass(frozen=True)
class Evidence:
    """The facts about an attempt that has ended."""

    document: bool  # upstream wrote a complete result.json for this pair
    timed_out: bool = False
    exit_code: int | None = 0  # of the cooperbench process; negative: the signal that ended it
    seconds: float = 0.0
    agents: tuple[AgentEnd, ...] = ()
    calls: tuple[CallsEnd, ...] = ()
    containers_started: int | None = None  # None: unknown
    containers_asked: int | None = None  # requested by the agents; None: unknown
    containers_died: int = (
        0  # ended while their agent was running, except by the agent's own cleanup
    )
    containers_oom: int = 0
    exec_refused: int = 0  # running containers in which the engine could not start a command
    disk_full: bool = False  # the file system of the run or of its containers is full
    engine_stalled: float = 0.0  # seconds for which Docker did not answer
    engine_lost: bool = False  # Docker stopped answering, or its event stream broke off
    image_missing: bool = False
    redis_died: bool = False
    store_ended_by_agent: bool = False  # a client's command ended the message store
    store_unavailable: bool = False  # it did not start, or its agents cannot reach it
    detail: str = ""  # the engine's message about a missing resource
    gateway_died: bool = False  # the connection from agents in containers to their model
    silent: int = 0  # agents without a call, if all calls are recorded
    patch_unread: bool = False  # a command that reads an agent's patch failed
    step_limit: int | None = None
    cut_answers: int = 0  # ended at the limit of output tokens
    rate_limit_delay: float = 0.0  # seconds for which the workflow's rate limit delayed an agent

    @property
    def is_broken(self) -> bool:
        """True if an agent ended in an error, or upstream wrote no result."""
        return not self.document or any(agent.status == result_files.ERROR for agent in self.agents)

    @property
    def was_killed(self) -> bool:
        return self.exit_code is None or self.exit_code < 0

    @property
    def docker_refused(self) -> bool:
        """True if Docker refused an agent's command, or a container that an agent requested."""
        if self.exec_refused:
            return True
        started, asked = self.containers_started, self.containers_asked
        if started is None or started >= len(self.agents):
            return False
        return asked is None or asked > started

    def has_failed_call(self, kind: str) -> bool:
        """Return whether the run is broken and an agent's last call ended with this error."""
        return self.is_broken and any(calls.last == kind for calls in self.calls)

    @property
    def outgrew_context(self) -> bool:
        """True if every agent that ended in an error had outgrown its model's context window."""
        return 0 < self._errors <= sum(calls.last == usage.CONTEXT for calls in self.calls)

    @property
    def stopped_by_model(self) -> bool:
        """True if a tool call or a full context window ended every agent in error."""
        ends = [calls.unreadable or calls.last == usage.CONTEXT for calls in self.calls]
        return 0 < self._errors <= sum(ends)

    @property
    def _errors(self) -> int:
        return sum(agent.status == result_files.ERROR for agent in self.agents)

    @property
    def refused_setting(self) -> bool:
        is_bad = self.has_failed_call(usage.BAD_REQUEST)
        return is_bad and any(calls.refused_setting for calls in self.calls)

    @property
    def limited(self) -> str:
        """The limit that the first limited agent reached, empty without one."""
        for agent in self.agents:
            if agent.status == result_files.LIMITS_EXCEEDED:
                has_steps = self.step_limit and agent.steps >= self.step_limit
                return STEP_LIMIT if has_steps else COST_LIMIT
            if agent.status == result_files.COST_EXCEEDED:
                return COST_LIMIT
            if agent.status == result_files.CONTEXT_EXCEEDED:
                return CONTEXT_LIMIT
        return ""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a run as far as it is known. outcome None: the tests decide.

    If `outcome` is None, `reason` is the reason of a fail if the tests fail.
    """

    outcome: str | None
    reason: str = ""
    caveat: str = ""
    again: bool = False
    halts: bool = False


def is_strict(caveat: str) -> bool:
    """Return whether a pass is beyond doubt. A cut answer is no doubt, since it helps no agent."""
    return caveat in ("", OUTPUT_LIMIT)


def _infra(reason: str, halts: bool = False) -> Verdict:
    halts = halts or reason in HALTING
    return Verdict(INFRA_ERROR, reason, again=not halts, halts=halts)


@dataclass(frozen=True)
class RunRule:
    """A row of the first table. The text of the condition is the same in docs/results.md."""

    condition: str
    applies: Callable[[Evidence], object]
    verdict: Verdict


def _last_call(kind: str, condition: str) -> RunRule:
    return RunRule(condition, lambda e: e.has_failed_call(kind), _infra(kind))


# In this table, "broken" means that an agent ended in an error or upstream wrote no result.
RUN_RULES = (
    RunRule(
        "the disk is full, or the call log cannot be written",
        lambda e: e.disk_full or (e.exit_code == UNRECORDED and not e.document),
        _infra(DISK_FULL),
    ),
    RunRule(
        "cooperbench cannot be imported",
        lambda e: e.exit_code == CANNOT_START and not e.document,
        _infra(SETUP_ERROR),
    ),
    RunRule("Docker stopped answering", lambda e: e.engine_lost, _infra(DOCKER_UNAVAILABLE)),
    RunRule(
        "the message store did not start, or agents cannot reach it",
        lambda e: e.store_unavailable,
        _infra(REDIS_UNAVAILABLE),
    ),
    RunRule("a container ran out of memory", lambda e: e.containers_oom, _infra(OOM_KILLED)),
    RunRule(
        "a container ended under its agent", lambda e: e.containers_died, _infra(CONTAINER_DIED)
    ),
    RunRule("the image is missing", lambda e: e.image_missing, _infra(IMAGE_MISSING)),
    RunRule("the model gateway ended", lambda e: e.gateway_died, _infra(PROCESS_DIED)),
    RunRule(
        "the message store ended by itself",
        lambda e: e.redis_died and not e.store_ended_by_agent,
        _infra(REDIS_UNAVAILABLE),
    ),
    RunRule("a patch could not be read", lambda e: e.patch_unread, _infra(DOCKER_UNAVAILABLE)),
    RunRule(
        "time limit; an agent waited for its provider for more than half of its time",
        lambda e: e.timed_out and any(calls.mostly_waited for calls in e.calls),
        _infra(usage.API_TIMEOUT),
    ),
    RunRule(
        "time limit; Docker did not answer for more than half of the time",
        lambda e: e.timed_out and e.engine_stalled > e.seconds / 2,
        _infra(DOCKER_UNAVAILABLE),
    ),
    RunRule(
        "time limit; Docker refused a command",
        lambda e: e.timed_out and e.exec_refused,
        _infra(DOCKER_UNAVAILABLE),
    ),
    # After an empty answer, an agent repeats its call or ends.
    RunRule(
        "a content filter withheld an agent's last answer",
        lambda e: any(calls.withheld for calls in e.calls),
        _infra(CONTENT_FILTER),
    ),
    # The agent never started: the machine or engine is slow, and the agent did not use its time.
    RunRule(
        "time limit; an agent made no call",
        lambda e: e.timed_out and e.silent,
        _infra(AGENT_ERROR),
    ),
    RunRule("time limit", lambda e: e.timed_out, Verdict(FAIL, TIMEOUT)),
    _last_call(usage.AUTH, "broken; an agent's last call: the key was refused"),
    _last_call(usage.QUOTA, "broken; an agent's last call: the quota is used up"),
    _last_call(usage.MODEL_NOT_FOUND, "broken; an agent's last call: the model is unknown"),
    _last_call(usage.RATE_LIMITED, "broken; an agent's last call: rate limited or overloaded"),
    _last_call(usage.API_TIMEOUT, "broken; an agent's last call: it timed out"),
    _last_call(usage.API_UNAVAILABLE, "broken; an agent's last call: the provider failed"),
    RunRule(
        "broken; an agent's last call: a setting of the config was refused",
        lambda e: e.refused_setting,
        _infra(usage.BAD_REQUEST, halts=True),
    ),
    _last_call(usage.BAD_REQUEST, "broken; an agent's last call: the request was refused"),
    RunRule(
        "broken; an agent ended the message store; no result",
        lambda e: e.store_ended_by_agent and not e.document,
        Verdict(FAIL, STORE_ENDED),
    ),
    RunRule(
        "broken; an agent ended the message store",
        lambda e: e.store_ended_by_agent and e.is_broken,
        Verdict(None, STORE_ENDED),
    ),
    RunRule(
        "no result; the process was killed",
        lambda e: not e.document and e.was_killed,
        _infra(PROCESS_DIED),
    ),
    RunRule(
        "no result; Docker refused a command",
        lambda e: not e.document and e.exec_refused,
        _infra(DOCKER_UNAVAILABLE),
    ),
    RunRule("no result", lambda e: not e.document, _infra(AGENT_ERROR)),
    RunRule(
        "broken; each agent in error outgrew its model's context window",
        lambda e: e.outgrew_context,
        Verdict(None, CONTEXT_LIMIT),
    ),
    RunRule(
        "broken; Docker refused a command or a container",
        lambda e: e.is_broken and e.docker_refused,
        _infra(DOCKER_UNAVAILABLE),
    ),
    RunRule(
        "broken; each agent in error ended at a tool call whose arguments are no object",
        lambda e: e.stopped_by_model,
        Verdict(None, INVALID_CALL),
    ),
    RunRule("broken", lambda e: e.is_broken, _infra(AGENT_ERROR)),
    # Without a call an agent did nothing, whatever its framework reports.
    RunRule("an agent made no call", lambda e: e.silent, _infra(AGENT_ERROR)),
    RunRule(
        "an agent reached its step limit",
        lambda e: e.limited == STEP_LIMIT,
        Verdict(None, STEP_LIMIT),
    ),
    RunRule(
        "an agent reached its cost limit",
        lambda e: e.limited == COST_LIMIT,
        Verdict(None, COST_LIMIT),
    ),
    RunRule(
        "an agent's program found its context window full",
        lambda e: e.limited == CONTEXT_LIMIT,
        Verdict(None, CONTEXT_LIMIT),
    ),
    RunRule("otherwise", lambda e: True, Verdict(None)),
)


def judge_run(evidence: Evidence) -> Verdict:
    """Return the verdict on an attempt before its patches are tested."""
    return next(rule.verdict for rule in RUN_RULES if rule.applies(evidence))


@dataclass(frozen=True)
class EvaluationFacts:
    """The facts about an evaluation. evaluation None: eval.json is missing or incomplete."""

    evaluation: Evaluation | None
    empty_patch: bool  # upstream's evaluation gets no change from a patch
    reason: str  # reason of a fail (an agent's limit), empty without one
    largest_patch: int  # bytes

    @property
    def document(self) -> Evaluation:
        return self.evaluation or Evaluation()

    @property
    def is_too_large(self) -> bool:
        is_unwritten = _PATCH_NOT_WRITTEN.match(self.document.error)
        return bool(is_unwritten) and self.largest_patch > LARGEST_PATCH

    @property
    def has_refused_patch(self) -> bool:
        """True if git refused a patch, so that no test ran."""
        return any(
            not count_tests(output, failed=True) and _NOT_APPLIED.search(output)
            for output in self.document.outputs
        )


@dataclass(frozen=True)
class EvalRule:
    """A row of the second table. The text of the condition is the same in docs/results.md."""

    condition: str
    applies: Callable[[EvaluationFacts], object]
    verdict: Verdict


_BROKEN = Verdict(INFRA_ERROR, EVAL_ERROR, again=True)

EVAL_RULES = (
    EvalRule(
        "upstream could not write a patch of more than 98,000 bytes",
        lambda t: t.is_too_large,
        Verdict(FAIL, PATCH_TOO_LARGE),
    ),
    EvalRule("no complete eval.json", lambda t: t.evaluation is None, _BROKEN),
    EvalRule("eval.json names an error", lambda t: t.document.error, _BROKEN),
    EvalRule("the merge itself failed", lambda t: t.document.merge_status == "error", _BROKEN),
    EvalRule("the tests of both features passed", lambda t: t.document.both_passed, Verdict(PASS)),
    EvalRule("the run has a reason from the table above", lambda t: t.reason, Verdict(FAIL)),
    EvalRule(
        "a patch has no change without the tests in it, or upstream skipped it",
        lambda t: t.empty_patch or "skipped" in t.document.applied,
        Verdict(FAIL, EMPTY_PATCH),
    ),
    EvalRule(
        "upstream could not apply a patch, or did not find it",
        lambda t: "failed" in t.document.applied or t.document.merge_status == "missing_input",
        Verdict(FAIL, PATCH_NOT_APPLIED),
    ),
    EvalRule(
        "the patches conflict",
        lambda t: t.document.merge_status == result_files.CONFLICTS,
        Verdict(FAIL, MERGE_CONFLICT),
    ),
    EvalRule(
        "git refused a patch, and no test ran",
        lambda t: t.has_refused_patch,
        Verdict(FAIL, PATCH_NOT_APPLIED),
    ),
    EvalRule("otherwise", lambda t: True, Verdict(FAIL, TESTS_FAILED)),
)


def judge_eval(
    document: Mapping[str, Any] | None,
    empty_patches: Sequence[bool],
    reason: str = "",
    largest_patch: int = 0,
    text_caveats: Sequence[str] = (),
) -> Verdict:
    """Return the final verdict on a run by its tests.

    Args:
        document: upstream's eval.json, None where it is missing or incomplete.
        empty_patches: for each patch of the run, whether upstream's evaluation gets no change from
            it.
        reason: the reason of a fail (an agent's limit), empty without one.
        largest_patch: bytes of the run's largest patch.
        text_caveats: caveats of patches that upstream would change by reading them as text.
    """
    evaluation = None if document is None else Evaluation.read(document)
    facts = EvaluationFacts(evaluation, any(empty_patches), reason, largest_patch)
    verdict = next(rule.verdict for rule in EVAL_RULES if rule.applies(facts))
    if verdict.outcome == PASS:
        return Verdict(PASS, caveat=";".join([*_pass_caveats(facts.document), *text_caveats]))
    return verdict if verdict.reason else Verdict(FAIL, reason)


def _pass_caveats(evaluation: Evaluation) -> list[str]:
    caveats = [LEAD_ALONE] if evaluation.lead_alone else []
    if not all(count_tests(output) for output in evaluation.outputs):
        caveats.append(NO_TESTS_RUN)
    return caveats


# Upstream passes a patch as a single argument to a shell, which the kernel limits to 128 KiB.
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
    count = result_files.count_tests(output)
    return count.total if failed else count.passed
