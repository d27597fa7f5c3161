"""Faults of the provider and of the agent: what the model's side can do to a run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import invariants, lab
from .report import GOES_ON, LEFT, ONCE, TRUE, Campaign, Case, Expected

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
PASS = ("pass", "")


@dataclass(frozen=True)
class Told:
    """A fault for a replay server; ``recovers``: once undone, the run is as undisturbed."""

    name: str
    rules: Sequence[Mapping[str, Any]]
    expected: Expected
    recovers: bool = True
    also: tuple[Expected, ...] = ()  # as true, where chance decides
    base: str | None = None  # an address where nobody serves
    times: int = 1


def strike(action: str, times: int | None = None, step: int = 1, **more: Any) -> Mapping[str, Any]:
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
    Told("connection refused", (), DOWN, base=NOBODY, times=3),
    Told("DNS error", (), DOWN, base=NOWHERE, times=3),
    Told("connection cut", [strike("refuse")], DOWN, times=3),
    Told("429 to the end", [strike("rate_limited_minute")], LIMITED, times=3),
    Told("429 with Retry-After, then well", [strike("rate_limited", 2, retry_after=3)], PASS),
    Told("500 to the end", [strike("server_error")], DOWN, times=3),
    Told("503 for a while, then well", [strike("unavailable", 3)], PASS),
    Told("no answer", [strike("hang")], SLOW, times=3),
    Told("hang in mid-response, then well", [strike("hang_mid", 2)], PASS),
    Told("truncated JSON", [strike("truncated")], DOWN, times=3),
    Told("empty answer", [strike("empty")], DOWN, times=3),
    Told("HTML for JSON", [strike("html", status=200)], DOWN, times=3),
    Told("HTML with 502, then well", [strike("html", 1)], PASS),
    Told("context length", [strike("context_length")], ("fail", "context_limit"), recovers=False),
    # The agent takes one step more.
    Told("broken tool arguments, then well", [strike("bad_arguments", 1)], PASS, recovers=False),
    Told("an answer of 5 MB", [strike("huge", 1)], PASS),
    Told("Cohere 422 on the model's output, then well", [strike("unusable_output", 2)], PASS),
    Told("Cohere 499 to the end", [strike("cancelled")], DOWN, times=3),
    Told("529 overloaded, then well", [strike("overloaded", 2)], PASS),
    Told("finish_reason ERROR to the end", [strike("finish_error")], DOWN, times=3),
    Told("finish_reason TIMEOUT, then well", [strike("finish_timeout", 2)], PASS),
    Told("an answer without usage", [strike("no_usage", 1)], PASS),
    Told("billed units that differ", [strike("billed_units", 2)], PASS),
    Told("a slow drip of bytes", [strike("drip", 1, seconds=0.002)], PASS),
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
    Told("talks about rate limits and OOM",
         agent(f"echo '{TALK}'; exit 1", text=TALK, submit=False),
         ("fail", "empty_patch"), False),
    Told("submits nothing", agent(submit=False), ("fail", "empty_patch"), False),
    Told("rm -rf /workspace", agent("rm -rf /workspace"), ("fail", "step_limit"), False),
    Told("deletes .git", agent("rm -rf /workspace/repo/.git"), ("fail", "empty_patch"), False),
    Told("file names with quotes, newlines, other bytes", agent(NAMES),
         ("fail", "tests_failed"), False),
    Told("binary files", agent("head -c 3000000 /dev/urandom > /workspace/repo/blob.bin"),
         ("fail", "patch_not_applied"), False),
    Told("a patch of 200 MB",
         agent("yes 0123456789abcde | head -c 200000000 > /workspace/repo/big"),
         ("fail", "patch_too_large"), False),
    Told("changes the tests",
         agent("cd /workspace/repo && for f in tests/*.py; do echo > $f; done"),
         ("fail", "empty_patch"), False),
    Told("a test that never ends", agent(LIBRARY.format("while True: pass")),
         ("fail", "tests_failed"), False),
    Told(
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
    Told("sleeps for ever", agent("sleep 100000"), ("fail", "timeout"), False),
    # If it does not end by itself, its agent fails or runs out of time.
    Told(
        "fork bomb within the limit of pids",
        agent("bomb() { bomb | bomb & }; bomb; sleep 3"),
        ("fail", "timeout"),
        False,
        (("fail", "empty_patch"), ("fail", "tests_failed"), ("fail", "step_limit")),
    ),
    Told("a drip of bytes without end", [strike("drip", seconds=1)], SLOW),
)


def batch(group: str, table: Sequence[Told], **config: Any) -> Callable[[Campaign], None]:
    """Return a case that causes all faults of a table in one session, each on a separate model."""

    def do(campaign: Campaign) -> None:
        control = campaign.control([lab.PAIR], ["solo"])
        names = {f"m{number}": told for number, told in enumerate(table, start=1)}
        rules = {name: told.rules for name, told in names.items() if told.base is None}
        bases = {name: told.base for name, told in names.items() if told.base}
        more = {"breaker": {"failures": 0}, **config}
        with lab.laboratory(models=rules, bases=bases, **more) as here:
            others = invariants.Bystanders.begin(here, campaign.image)
            first = here.run(seconds=1800)
            broken = [] if first.returncode == 0 else [first.stdout[-2500:]]
            rows = {row["model"]: row for row in here.rows()} if not broken else {}
            books = invariants.books(here) if not broken else []
            # Undone, all that was infrastructure ends as if nothing had been.
            for server in here.servers.values():
                server.faults()
            again = [name for name, row in rows.items() if row["outcome"] == "infra_error"]
            if again:
                here.correct_addresses(list(bases), here.server.cohere_url)
                here.retry_infra()
                second = here.run(seconds=1800)
                broken += [second.stdout[-1500:]] if second.returncode else []
            left = invariants.nothing_left(here, others)
            after = {row["model"]: row for row in here.rows()} if rows else {}
            books += invariants.books(here, skip=tuple(bases)) if rows else []
            whole, once = invariants.whole(here), invariants.no_further_call(here)
            secret = invariants.key_is_secret(here, lab.KEY)
            for name, told in names.items():
                with campaign.line(group, told.name, told.times) as line:
                    line.add(GOES_ON, broken + whole)
                    if broken:
                        continue
                    campaign.expect(line, [rows[name]], told.expected, *told.also)
                    if told.recovers:
                        line.add(GOES_ON, invariants.same_row(after[name], control))
                    line.add("books", [p for p in books if p.startswith(f"{name}-")])
                    line.add(ONCE, once)
                    line.add(LEFT, left)
                    line.add(TRUE, secret)

    return do


# In the subset of `make test`: a session for each refusal. That a reason halts, and what answers
# have it, are pure tests (tests/unit/outcomes).
HALTS = (
    ("401", strike("unauthorized"), "auth"),
    ("402 payment", strike("quota_payment"), "quota"),
)
MORE_HALTS = (
    ("400 max_tokens", strike("output_limit"), "bad_request"),
    ("403", strike("forbidden"), "auth"),
    ("404 model", strike("model_not_found"), "model_not_found"),
    ("429 month's quota", strike("quota_month"), "quota"),
)


def halts(campaign: Campaign, refusals: Sequence[tuple[str, Any, str]]) -> None:
    """A provider that refuses: paid runs stop with one message, the next session continues."""
    pairs = lab.ALL_PAIRS
    control = campaign.control(pairs, ["solo"])
    with lab.laboratory(pairs=pairs, delay="0.2") as here:
        server = here.server
        for (name, rule, reason), last in zip(refusals, itertools.count(1), strict=False):
            with campaign.line("Provider", f"{name}: halts") as line:
                server.faults(rule)
                before = len(server.ledger())
                attempts = len(list(here.results.rglob("attempts/*")))
                halted = here.run("-j", "2", *here.targets())
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
                if len(list(here.results.rglob("attempts/*"))) - attempts >= len(pairs):
                    problems.append("all runs were started")
                problems += [f"{p} exists" for p in here.results.glob("runs/*/*/*/*/*/result.json")]
                line.add(TRUE, problems)
                line.add(ONCE, [])
                line.add(LEFT, invariants.nothing_left(here))
                line.add(GOES_ON, invariants.whole(here))
                if last == len(refusals):
                    server.faults()
                    campaign.settle(line, here, control)
                    # Else the search for the key has read no compressed file.
                    compressed = any(here.results.rglob("*.gz"))
                    line.add(TRUE, [] if compressed else ["there is no compressed file"])


def outage(campaign: Campaign) -> None:
    """A provider that is down for all: runs after the first wait, and continue when it answers."""
    control = campaign.control(lab.ALL_PAIRS, ["solo"])
    with (
        campaign.line("Provider", "down for all runs: the next ones wait") as line,
        lab.laboratory(
            pairs=lab.ALL_PAIRS,
            models={"tested": [strike("server_error", step=0)]},
            breaker={"failures": 2, "pause_seconds": 40},
        ) as here,
    ):
        server = here.server
        start = here.start()
        lab.wait_for(lambda: "waiting: the last" in start.stdout, 300, "a run that waits")
        time.sleep(20)  # those under way end
        calls = len(server.ledger())
        time.sleep(15)
        more = len(server.ledger()) - calls
        line.add(TRUE, [f"{more} calls were made into the outage"] if more > 2 else [])
        server.faults()
        start.wait(lab.PATIENCE)
        line.add(TRUE, [] if "continues" in start.stdout else ["no line reports that it continues"])
        campaign.settle(line, here, control)


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
