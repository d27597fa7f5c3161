"""Faults of the provider and of the agent's answers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import invariants, lab
from .report import NOTHING_LEFT, PAID_ONCE, RESUMES, TRUE_OUTCOME, USAGE, Campaign, Case, Expected

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
PASS = ("pass", "")


@dataclass(frozen=True)
class ModelFault:
    """A fault of a replay server. recovers: without the fault, the run ends undisturbed."""

    name: str
    rules: Sequence[Mapping[str, Any]]
    expected: Expected
    recovers: bool = True
    also: tuple[Expected, ...] = ()  # also correct, because chance decides
    base: str | None = None  # an address without a server
    times: int = 1


def fault_rule(
    action: str, times: int | None = None, step: int = 1, **more: Any
) -> Mapping[str, Any]:
    """Return a rule: from ``step`` on, ``times`` times (None: always)."""
    return {"match": {"from_step": step}, "action": action, "times": times, **more}


def agent(*commands: str, text: str = "I do this.", submit: bool = True) -> list[dict[str, Any]]:
    """Return a rule that plays a scripted agent."""
    turns = [{"text": text, "commands": [command]} for command in commands]
    if submit:
        turns += [
            {"text": "commit", "commands": ["git add -A && git commit -qm work && git push -q"]},
            {"text": "request", "commands": ["gh pr create --title work --body work"]},
        ]
    turns += [{"text": "done", "commands": [SUBMIT]}] * 8
    return [{"match": {}, "action": "override", "turns": turns, "times": None}]


NOBODY = "http://127.0.0.1:9/v2/chat"
NOWHERE = "http://provider.invalid/v2/chat"
DOWN = ("infra_error", "api_unavailable")
SLOW = ("infra_error", "api_timeout")
LIMITED = ("infra_error", "rate_limited")

PROVIDER = (
    ModelFault("connection refused", (), DOWN, base=NOBODY, times=3),
    ModelFault("DNS error", (), DOWN, base=NOWHERE, times=3),
    ModelFault("connection cut", [fault_rule("refuse")], DOWN, times=3),
    ModelFault("429 to the end", [fault_rule("rate_limited_minute")], LIMITED, times=3),
    ModelFault(
        "429 with Retry-After, then normal", [fault_rule("rate_limited", 2, retry_after=3)], PASS
    ),
    ModelFault("500 to the end", [fault_rule("server_error")], DOWN, times=3),
    ModelFault("503 for a while, then normal", [fault_rule("unavailable", 3)], PASS),
    ModelFault("no answer", [fault_rule("hang")], SLOW, times=3),
    ModelFault("hang during a response, then normal", [fault_rule("hang_mid", 2)], PASS),
    ModelFault("truncated JSON", [fault_rule("truncated")], DOWN, times=3),
    ModelFault("empty answer", [fault_rule("empty")], DOWN, times=3),
    ModelFault("HTML for JSON", [fault_rule("html", status=200)], DOWN, times=3),
    ModelFault("HTML with 502, then normal", [fault_rule("html", 1)], PASS),
    ModelFault(
        "context length", [fault_rule("context_length")], ("fail", "context_limit"), recovers=False
    ),
    # The agent needs an additional step.
    ModelFault(
        "broken tool arguments, then normal", [fault_rule("bad_arguments", 1)], PASS, recovers=False
    ),
    ModelFault("an answer of 5 MB", [fault_rule("huge", 1)], PASS),
    ModelFault(
        "Cohere 422 on the model's output, then normal", [fault_rule("unusable_output", 2)], PASS
    ),
    ModelFault("Cohere 499 to the end", [fault_rule("cancelled")], DOWN, times=3),
    ModelFault("529 overloaded, then normal", [fault_rule("overloaded", 2)], PASS),
    ModelFault("finish_reason ERROR to the end", [fault_rule("finish_error")], DOWN, times=3),
    ModelFault("finish_reason TIMEOUT, then normal", [fault_rule("finish_timeout", 2)], PASS),
    ModelFault("an answer without usage", [fault_rule("no_usage", 1)], PASS),
    ModelFault("billed units that differ", [fault_rule("billed_units", 2)], PASS),
    ModelFault("a slow drip of bytes", [fault_rule("drip", 1, seconds=0.002)], PASS),
)

TALK = (
    "litellm.RateLimitError: 429 Too Many Requests: rate limit; quota exceeded; invalid api key; "
    "Killed: OOM, out of memory; Cannot connect to the Docker daemon; container died"
)
NAMES = (
    'cd /workspace/repo && printf x > "it\'s" && printf x > \'a"b\' && printf x > "$(printf'
    " 'new\\nline')\" && printf x > \"$(printf 'latin\\351')\" && printf x > '--force'"
)
LIBRARY = "cd /workspace/repo && printf '%s\\n' '{}' > inventory/__init__.py"

AGENT = (
    ModelFault("talks about rate limits and OOM",
         agent(f"echo '{TALK}'; exit 1", text=TALK, submit=False),
               ("fail", "empty_patch"), False),
    ModelFault("submits nothing", agent(submit=False), ("fail", "empty_patch"), False),
    ModelFault("rm -rf /workspace", agent("rm -rf /workspace"), ("fail", "step_limit"), False),
    ModelFault("deletes .git", agent("rm -rf /workspace/repo/.git"),
               ("fail", "empty_patch"), False),
    ModelFault("file names with quotes, newlines, other bytes", agent(NAMES),
               ("fail", "tests_failed"), False),
    ModelFault("binary files", agent("head -c 3000000 /dev/urandom > /workspace/repo/blob.bin"),
               ("fail", "patch_not_applied"), False),
    ModelFault("a patch of 200 MB",
         agent("yes 0123456789abcde | head -c 200000000 > /workspace/repo/big"),
               ("fail", "patch_too_large"), False),
    ModelFault("changes the tests",
         agent("cd /workspace/repo && for f in tests/*.py; do echo > $f; done"),
               ("fail", "empty_patch"), False),
    ModelFault("a test that never ends", agent(LIBRARY.format("while True: pass")),
               ("fail", "tests_failed"), False),
    ModelFault(
        "a test that prints 500 MB",
        agent(
            LIBRARY.format('print("x" * 500_000_000)')
            + " && printf '[pytest]\\naddopts = -s\\n' > pytest.ini"
        ),
        ("fail", "tests_failed"),
        False,
    ),
)  # fmt: skip

PATIENT = (
    ModelFault("sleeps forever", agent("sleep 100000"), ("fail", "timeout"), False),
    # If the bomb does not end by itself, the agent fails or runs out of time.
    ModelFault(
        "fork bomb within the limit of pids",
        agent("bomb() { bomb | bomb & }; bomb; sleep 3"),
        ("fail", "timeout"),
        False,
        (("fail", "empty_patch"), ("fail", "tests_failed"), ("fail", "step_limit")),
    ),
    ModelFault("a drip of bytes without end", [fault_rule("drip", seconds=1)], SLOW),
)


def batch(group: str, table: Sequence[ModelFault], **config: Any) -> Callable[[Campaign], None]:
    """Return a case that injects all faults of a table in one session, each in its own model."""

    def do(campaign: Campaign) -> None:
        control = campaign.control([lab.PAIR], ["solo"])
        names = {f"m{number}": fault for number, fault in enumerate(table, start=1)}
        rules = {name: fault.rules for name, fault in names.items() if fault.base is None}
        bases = {name: fault.base for name, fault in names.items() if fault.base}
        more = {"breaker": {"failures": 0}, **config}
        with lab.laboratory(models=rules, bases=bases, **more) as laboratory:
            bystanders = invariants.Bystanders.start(laboratory, campaign.image)
            first = laboratory.run(seconds=1800)
            broken = [] if first.returncode == 0 else [first.stdout[-2500:]]
            rows = {row["model"]: row for row in laboratory.rows()} if not broken else {}
            usage = invariants.find_usage_errors(laboratory) if not broken else []
            # Without the faults, all infrastructure errors end as in an undisturbed run.
            for server in laboratory.servers.values():
                server.faults()
            again = [name for name, row in rows.items() if row["outcome"] == "infra_error"]
            if again:
                laboratory.correct_addresses(list(bases), laboratory.server.cohere_url)
                laboratory.retry_infra()
                second = laboratory.run(seconds=1800)
                broken += [second.stdout[-1500:]] if second.returncode else []
            left = invariants.find_leftovers(laboratory, bystanders)
            after = {row["model"]: row for row in laboratory.rows()} if rows else {}
            usage += invariants.find_usage_errors(laboratory, skip=tuple(bases)) if rows else []
            incomplete = invariants.find_incomplete_results(laboratory)
            paid_again = invariants.find_further_calls(laboratory)
            secret = invariants.find_key(laboratory, lab.KEY)
            for name, fault in names.items():
                with campaign.line(group, fault.name, fault.times) as line:
                    line.add(RESUMES, broken + incomplete)
                    if broken:
                        continue
                    campaign.expect(line, [rows[name]], fault.expected, *fault.also)
                    if fault.recovers:
                        line.add(RESUMES, invariants.compare_row(after[name], control))
                    line.add(USAGE, [p for p in usage if p.startswith(f"{name}-")])
                    line.add(PAID_ONCE, paid_again)
                    line.add(NOTHING_LEFT, left)
                    line.add(TRUE_OUTCOME, secret)

    return do


# In `make test` there is a session for each refusal. Pure tests (tests/unit/outcomes) check which
# answers and reasons halt.
HALTS = (
    ("401", fault_rule("unauthorized"), "auth"),
    ("402 payment", fault_rule("quota_payment"), "quota"),
)
MORE_HALTS = (
    ("400 max_tokens", fault_rule("output_limit"), "bad_request"),
    ("403", fault_rule("forbidden"), "auth"),
    ("404 model", fault_rule("model_not_found"), "model_not_found"),
    ("429 month's quota", fault_rule("quota_month"), "quota"),
)


def halts(campaign: Campaign, refusals: Sequence[tuple[str, Any, str]]) -> None:
    """A refusing provider stops paid runs with one message, and the next session continues."""
    pairs = lab.ALL_PAIRS
    control = campaign.control(pairs, ["solo"])
    with lab.laboratory(pairs=pairs, delay="0.2") as laboratory:
        server = laboratory.server
        for (name, rule, reason), last in zip(refusals, itertools.count(1), strict=False):
            with campaign.line("Provider", f"{name}: halts") as line:
                server.faults(rule)
                before = len(server.ledger())
                attempts = len(list(laboratory.results.rglob("attempts/*")))
                halted = laboratory.run("-j", "2", *laboratory.targets())
                refused = len(server.ledger()) - before
                problems = []
                if not halted.returncode:
                    problems.append("the session ended as a success")
                if refused > 6:
                    problems.append(f"{refused} calls were made after the first refusal")
                if halted.stdout.count(f"The session starts no more runs: {reason}") != 1:
                    problems.append(f"not one clear message of {reason}: {halted.stdout[-1500:]}")
                for word in (lab.KEY_NAME, "refused the key") if reason == "auth" else ():
                    if word not in halted.stdout:
                        problems.append(f"{word!r} is missing: {halted.stdout[-1500:]}")
                if len(list(laboratory.results.rglob("attempts/*"))) - attempts >= len(pairs):
                    problems.append("all runs were started")
                problems += [
                    f"{p} exists" for p in laboratory.results.glob("runs/*/*/*/*/*/result.json")
                ]
                line.add(TRUE_OUTCOME, problems)
                line.add(PAID_ONCE, [])
                line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory))
                line.add(RESUMES, invariants.find_incomplete_results(laboratory))
                if last == len(refusals):
                    server.faults()
                    campaign.check_invariants(line, laboratory, control)
                    # Otherwise the search for the key has not read a compressed file.
                    compressed = any(laboratory.results.rglob("*.gz"))
                    line.expect(TRUE_OUTCOME, compressed, "no compressed file exists")


def outage(campaign: Campaign) -> None:
    """A provider outage for all runs: later runs wait, and continue when the provider answers."""
    control = campaign.control(lab.ALL_PAIRS, ["solo"])
    with (
        campaign.line("Provider", "down for all runs: later runs wait") as line,
        lab.laboratory(
            pairs=lab.ALL_PAIRS,
            models={"tested": [fault_rule("server_error", step=0)]},
            breaker={"failures": 2, "pause_seconds": 40},
        ) as laboratory,
    ):
        server = laboratory.server
        start = laboratory.start()
        lab.wait_for(lambda: "waiting: the last" in start.stdout, 300, "a run that waits")
        time.sleep(20)  # running attempts end
        calls = len(server.ledger())
        time.sleep(15)
        more = len(server.ledger()) - calls
        line.expect(TRUE_OUTCOME, more <= 2, f"{more} calls were made into the outage")
        server.faults()
        start.wait(lab.PATIENCE)
        line.expect(TRUE_OUTCOME, "continues" in start.stdout, "no line reports that it continues")
        campaign.check_invariants(line, laboratory, control)


CASES = (
    Case("provider", batch("Provider", PROVIDER, limits={"call_seconds": 12}), quick=False),
    Case(
        "agent",
        batch(
            "Agent",
            AGENT,
            limits={"test_seconds": 20},
            agent={"config": {"agent": {"step_limit": 25}}},
        ),
    ),
    Case(
        "patient",
        batch(
            "Agent",
            PATIENT,
            limits={"run_seconds": 60, "call_seconds": 120},
            containers={"pids": 200},
        ),
    ),
    Case("halts: key and quota", partial(halts, refusals=HALTS), quick=True),
    Case("halts: more", partial(halts, refusals=MORE_HALTS)),
    Case("outage", outage),
)
