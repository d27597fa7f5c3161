"""Files that cooperbench writes for a run: results, evaluations, messages and a team's tasks.

The test output in an evaluation comes from the data set's runners: pytest, jest, vitest, go test,
and cargo test.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cooperflow.upstream import trajectory
from cooperflow.upstream.trajectory import Tokens

RESULT = "result.json"
EVAL = "eval.json"
CONVERSATION = "conversation.json"
TASK_LOG = "task_log.json"
TASKS = "tasks.json"
# Upstream's tables of the runs of one invocation.
TABLES = ("config.json", "summary.json")

# Statuses of a merge that was tried.
CLEAN = "clean"
CONFLICTS = "conflicts"
IDENTICAL = "identical"
MERGED = (CLEAN, CONFLICTS, IDENTICAL)

# Statuses of an agent.
ERROR = "Error"
LIMITS_EXCEEDED = "LimitsExceeded"  # of steps or of cost
COST_EXCEEDED = "CostLimitExceeded"
CONTEXT_EXCEEDED = "ContextWindowExceeded"  # not upstream's
ENDED = "Ended"  # not upstream's: the agent ended without submitting a patch

# swe_agent: upstream's adapter reports these exit statuses as errors, whether or not the patch so
# far was submitted ("submitted (exit_cost)"). Others are failures: exit_api, exit_error, ...
_SWE_AGENT_EXIT = re.compile(r"Exit status: (?:submitted \()?(exit_\w+)\)?")
_SWE_AGENT_STATUS = {
    "exit_cost": COST_EXCEEDED,
    "exit_context": CONTEXT_EXCEEDED,
    "exit_format": ENDED,
    "exit_forfeit": ENDED,
    "exit_command": ENDED,
    "exit_command_timeout": ENDED,
    "exit_total_execution_time": ENDED,
}

# Anthropic's usage: input_tokens excludes tokens read from or written to the cache.
INPUT_WITHOUT_CACHE = frozenset({"claude_code"})

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

# Lines with the totals of runners.
_JEST_TOTAL = re.compile(r"^[ \t]*Tests:?[ \t]+(.*\b(?:passed|failed)\b.*)$", re.MULTILINE)
_CARGO_TOTAL = re.compile(r"test result:.*?(\d+) passed.*?(\d+) failed")
_PYTEST_TOTAL = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+ ?s\b.*$", re.MULTILINE)
_GO_TEST = re.compile(r"--- (PASS|FAIL):")
_GO_PACKAGE = re.compile(r"^(ok|FAIL)[ \t]+(\S+)(.*)$", re.MULTILINE)

# Agents that report each delivered message.
REPORTING_AGENTS = frozenset(
    {"mini_swe_agent_v2", "claude_code", "codex", "openhands_sdk", "openhands_docker"}
)

# The regular expressions of upstream's runner/coop.py and mini_swe_agent_v2 (agents/default.py).
_QUOTED = re.compile(r'send_message\s+(\w+)\s+"([^"]+)"')
_HEREDOC = re.compile(
    r"send_message\s+(?:--wait\s+)?(\w+)(?:\s+--wait)?\s+<<'?(\w+)'?\s*\n(.*?)\n\2", re.DOTALL
)
_IN_QUOTES = (
    re.compile(r'send_message\s+(?:--wait\s+)?(\w+)(?:\s+--wait)?\s+"([^"]*)"'),
    re.compile(r"send_message\s+(?:--wait\s+)?(\w+)(?:\s+--wait)?\s+'([^']*)'"),
)

# Columns of runs.csv; empty in settings other than team.
TEAM_COLUMNS = (
    "team_features",
    "team_tasks",
    "team_tasks_done",
    "team_unowned",
    "team_first_claim_s",
)
TEAM_NUMBERS = TEAM_COLUMNS[1:]
_METRICS = ("tasks_total", "tasks_done", "unowned_at_end", "time_to_first_claim_seconds")


@dataclass(frozen=True)
class AgentEnd:
    """How one agent ended."""

    agent: str
    status: str
    error: str = ""
    steps: int = 0
    cost: float = 0.0


def patch_name(feature: int) -> str:
    """Return upstream's name of the patch of the agent with this feature, in a coop run."""
    return f"agent{feature}.patch"


def workflow(document: Any) -> Mapping[str, Any]:
    """Return the object `workflow`, which this project adds to a document; empty if missing."""
    part = document.get("workflow") if isinstance(document, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def agent_entries(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the entries of the agents in result.json, by name."""
    return document.get("agents") or {"solo": document.get("agent") or {}}


def agent_ends(document: Mapping[str, Any] | None) -> tuple[AgentEnd, ...]:
    """Return how each agent ended, by result.json."""
    if document is None:
        return ()
    return tuple(
        AgentEnd(
            agent=name,
            status=_status(entry),
            error=str(entry.get("error") or ""),
            steps=int(entry.get("steps") or 0),
            cost=float(entry.get("cost") or 0.0),
        )
        for name, entry in agent_entries(document).items()
    )


def _status(entry: Mapping[str, Any]) -> str:
    status = str(entry.get("status") or ERROR)
    exit_status = _SWE_AGENT_EXIT.fullmatch(str(entry.get("error") or ""))
    if status != ERROR or exit_status is None:
        return status
    return _SWE_AGENT_STATUS.get(exit_status[1], ERROR)


def tokens(document: Mapping[str, Any]) -> Tokens:
    """Return the tokens of all agents; cached tokens are part of the input."""
    total = {"input": 0, "output": 0, "read": 0, "written": 0}
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    for entry in agent_entries(document).values():
        for key, name in zip(total, names, strict=True):
            total[key] += int(entry.get(name) or 0)
    is_separate = document.get("agent_framework") in INPUT_WITHOUT_CACHE
    if is_separate or total["read"] > total["input"]:
        total["input"] += total["read"] + total["written"]
    return Tokens(total["input"], total["output"], total["read"])


@dataclass(frozen=True)
class Evaluation:
    """Contents of an eval.json. Tuples of two have one value per feature."""

    error: str = ""
    merge_status: str = ""
    merge_strategy: str = ""
    applied: tuple[str, ...] = ()  # status of each agent's patch
    both_passed: bool = False
    passed: tuple[bool, bool] = (False, False)
    outputs: tuple[str, str] = ("", "")  # of the tests

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Evaluation:
        merge = document.get("merge") or {}
        return cls(
            error=str(document.get("error") or ""),
            merge_status=str(merge.get("status") or ""),
            merge_strategy=str(merge.get("strategy") or ""),
            applied=tuple(map(str, (document.get("apply_status") or {}).values())),
            both_passed=document.get("both_passed") is True,
            passed=(has_passed(document, 1), has_passed(document, 2)),
            outputs=(output_of(document, 1), output_of(document, 2)),
        )

    @property
    def lead_alone(self) -> bool:
        """True if the first agent's patch alone was tested, after a conflict."""
        return self.merge_strategy.startswith("solo-")


def has_passed(document: Mapping[str, Any], number: int) -> bool:
    """Return whether the tests of a feature (1 or 2) passed, by eval.json."""
    return bool((document.get(f"feature{number}") or {}).get("passed"))


def output_of(document: Mapping[str, Any], number: int) -> str:
    """Return the test output of a feature (1 or 2).

    Upstream uses another key where the patches of both agents are identical.
    """
    feature = document.get(f"feature{number}") or {}
    return str(feature.get("test_output") or feature.get("output") or "")


@dataclass(frozen=True)
class Count:
    """Numbers of passed and failed tests. The unit is packages if Go's output names no tests."""

    passed: int = 0
    failed: int = 0
    unit: str = "tests"

    @property
    def total(self) -> int:
        return self.passed + self.failed


def count_tests(output: str) -> Count:
    """Return how many tests passed and failed by a runner's output.

    A Go package without a test to run counts as none, unlike in upstream's count.
    """
    output = _ANSI.sub("", output)
    for totals in (_JEST_TOTAL.findall(output), _PYTEST_TOTAL.findall(output)):
        if totals:
            return Count(
                sum(_number(total, "passed") for total in totals),
                sum(_number(total, "failed") + _number(total, "errors?") for total in totals),
            )
    cargo = _CARGO_TOTAL.findall(output)
    if cargo:
        return Count(sum(int(p) for p, _ in cargo), sum(int(f) for _, f in cargo))
    tests = _GO_TEST.findall(output)
    if tests:
        return Count(tests.count("PASS"), tests.count("FAIL"))
    packages = [
        word for word, _, rest in _GO_PACKAGE.findall(output) if "no tests to run" not in rest
    ]
    if packages:
        return Count(packages.count("ok"), packages.count("FAIL"), "packages")
    return Count(_number(output, "passed"), _number(output, "failed") + _number(output, "errors?"))


def _number(text: str, word: str) -> int:
    return sum(int(number) for number in re.findall(rf"\b(\d+) {word}\b", text))


_PROGRESS = re.compile(r"[ \t]+\[ *\d+%\][ \t]*$", re.MULTILINE)
_FAILED_PYTEST = (
    # pytest: the short summary; a test's line with -v; the same with pytest-xdist.
    re.compile(r"^(?:FAILED|ERROR) (\S+\.py(?:::.+?)?)(?: - .*)?$", re.MULTILINE),
    re.compile(r"^(\S+\.py::.+?) (?:FAILED|ERROR)$", re.MULTILINE),
    re.compile(r"^\[gw\d+\].* (?:FAILED|ERROR) (\S+\.py::.+?)[ \t]*$", re.MULTILINE),
)
_FAILED_ELSEWHERE = (
    # go test: tests and subtests; packages that were not built
    re.compile(r"^[ \t]*--- FAIL: (\S+)", re.MULTILINE),
    re.compile(r"^FAIL[ \t]+(\S+ \[(?:build|setup) failed\])", re.MULTILINE),
    # cargo test
    re.compile(r"^test (.+?) \.\.\. FAILED\b", re.MULTILINE),
    # jest; vitest
    re.compile(r"^[ \t]*● (?!Console$)(.+?)[ \t]*$", re.MULTILINE),
    re.compile(r"^[ \t]*FAIL[ \t]+(\S+ > .+?)[ \t]*$", re.MULTILINE),
)


def failing_tests(output: str) -> tuple[str, ...]:
    """Return the names of the tests that failed, each once, in the order of the output."""
    output = _PROGRESS.sub("", _ANSI.sub("", output))
    for patterns in (_FAILED_PYTEST, _FAILED_ELSEWHERE):
        matches = [(match.start(), match[1]) for p in patterns for match in p.finditer(output)]
        if matches:
            return tuple(dict.fromkeys(name for _, name in sorted(matches)))
    return ()


_FIRST_FAILURE = re.compile(
    r"^(?:=+ (?:FAILURES|ERRORS) =+"  # pytest
    r"|[ \t]*--- FAIL: |panic: |# \S+(?: \[\S+\])?$|\S+\.go:\d+:\d+: "  # go
    r"|failures:$|error(?:\[E\d+\])?: (?!patch failed)|---- .+ stdout ----$"  # cargo; git
    r"|[ \t]*● |⎯+ ?Failed |[ \t]*FAIL[ \t]+\S"  # jest, vitest
    r"|E  +\S|Traceback \(most recent call last\):|ERROR: "
    r"|error: patch failed: |error: .*: patch does not apply)",
    re.MULTILINE,
)


def first_failure(output: str) -> int:
    """Return the offset of the first failure's line; 0 if no failure is recognized."""
    match = _FIRST_FAILURE.search(output)
    return match.start() if match else 0


_BUILD_FAILED = re.compile(
    r"\[(?:build|setup) failed\]|^error: could not compile |^error\[E\d+\]: |: error TS\d+: "
    r"|^npm (?:ERR!|error)|^ERROR: (?:Failed building|Could not (?:find a version|build|install))"
    r"|subprocess-exited-with-error",
    re.MULTILINE,
)


def build_failed(output: str) -> bool:
    """Return whether the tests could not run because code or dependencies failed to build."""
    return bool(_BUILD_FAILED.search(_ANSI.sub("", output)))


@dataclass(frozen=True)
class Message:
    """A message from one agent to another."""

    sender: str
    to: str
    text: str
    time: float | None = None


def sent_messages(
    conversation: Any, documents: Mapping[str, Any], framework: str = ""
) -> list[Message]:
    """Return the messages of conversation.json that were sent.

    Upstream lists the messages that an agent reports as sent, and then every text in an answer that
    matches `send_message NAME "..."`. If the agent reports its messages, such a text is only a
    quotation that was never sent.

    Args:
        conversation: the parsed conversation.json.
        documents: the run's parsed trajectories by file name.
        framework: `agent_framework` of result.json.
    """
    entries = conversation if isinstance(conversation, list) else []
    listed = [m for m in entries if isinstance(m, Mapping)]
    quoted: Counter[tuple[str, str, str]] = Counter()
    for name, document in documents.items():
        # Upstream searches the messages that an agent still had at its end.
        if name.endswith(trajectory.FULL_SUFFIX) or not isinstance(document, Mapping):
            continue
        agent = trajectory.agent_of(name, document)
        quoted.update((agent, to, text) for to, text in _quotations(document, framework))
    messages: list[Message] = []
    for entry in reversed(listed):  # quotations are listed after the agent's sent messages
        message = _message(entry)
        key = (message.sender, message.to, message.text)
        if quoted[key]:
            quoted[key] -= 1
        else:
            messages.append(message)
    return messages[::-1]


def requested_messages(command: str) -> list[tuple[str, str]]:
    """Return the messages (recipient, text) that mini_swe_agent_v2 extracts from a command."""
    heredocs = [(match[1], match[3]) for match in _HEREDOC.finditer(command)]
    if heredocs:
        return heredocs
    return [(match[1], match[2]) for rule in _IN_QUOTES for match in rule.finditer(command)]


def messages_of_calls(
    answers: Iterable[tuple[str, float | None, Mapping[str, Any]]],
) -> list[Message]:
    """Return the messages that the answers of a run without conversation.json asked to send.

    Args:
        answers: agent, time and message of each answered model call.
    """
    return [
        Message(agent, to, text, time)
        for agent, time, answer in answers
        for command in trajectory.commands_of(answer)
        for to, text in requested_messages(command.text)
    ]


def _quotations(document: Mapping[str, Any], framework: str) -> list[tuple[str, str]]:
    quotations = []
    messages = document.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, Mapping) or message.get("role") != "assistant":
            continue
        content = message.get("content")
        extra = message.get("extra")
        is_summary = isinstance(extra, Mapping) and bool(extra.get("summary"))
        # Other agents may send a message by the text itself, unless they call tools.
        reports = framework in REPORTING_AGENTS or is_summary or bool(message.get("tool_calls"))
        match = _QUOTED.search(content) if reports and isinstance(content, str) else None
        if match:
            quotations.append((match[1], match[2]))
    return quotations


def _message(entry: Mapping[str, Any]) -> Message:
    return Message(
        str(entry.get("from")),
        trajectory.text_of(entry.get("to")),
        trajectory.text_of(entry.get("message")),
        trajectory.number_of(entry.get("timestamp")),
    )


def team_columns(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the team columns of a run: its enabled team features and upstream's metrics."""
    features = _mapping(result.get("team_features"))
    metrics = _mapping(result.get("metrics"))
    values = [metrics.get(name) for name in _METRICS]
    on = ";".join(name for name, value in features.items() if value)
    numbers = [value if _is_number(value) else None for value in values]
    return {"team_features": on, **dict(zip(TEAM_NUMBERS, numbers, strict=True))}


@dataclass(frozen=True)
class TaskChange:
    """A change of the shared task list."""

    seconds: float | None  # since the first change
    agent: str
    kind: str
    task: str
    text: str


def task_changes(log: Any, tasks: Any) -> list[TaskChange]:
    """Return the changes of the task list in order; entries in an unknown form are skipped.

    Args:
        log: task_log.json, an event per change of the task list (`kind` create, claim or update;
            `ts`, `by`, `task_id`).
        tasks: tasks.json, the tasks at the end.
    """
    known = [t for t in (tasks if isinstance(tasks, list) else []) if isinstance(t, Mapping)]
    titles = {str(task.get("id")): str(task.get("title") or "") for task in known}
    # The runner creates each task for an agent, which the log does not record.
    assigned = {
        str(task.get("id")): f"assigned to {agent}"
        for task in known
        if (agent := _mapping(task.get("metadata")).get("assigned_to"))
    }
    events = [event for event in log if isinstance(event, Mapping)] if isinstance(log, list) else []
    times = [float(event["ts"]) for event in events if _is_number(event.get("ts"))]
    begin = min(times, default=0.0)
    changes = []
    for event in sorted(events, key=lambda e: float(e["ts"]) if _is_number(e.get("ts")) else begin):
        task = str(event.get("task_id") or event.get("id") or "")
        kind = str(event.get("kind") or "")
        detail = event.get("status") or event.get("note") or ""
        if kind == "create":
            detail = assigned.get(task) or detail
        seconds = round(float(event["ts"]) - begin, 3) if _is_number(event.get("ts")) else None
        changes.append(
            TaskChange(
                seconds,
                str(event.get("by") or event.get("agent") or ""),
                kind,
                titles.get(task) or str(event.get("title") or task),
                str(detail),
            )
        )
    return changes


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
