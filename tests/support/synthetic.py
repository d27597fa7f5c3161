"""Synthetic finished experiments on disk, of any size and with any texts."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cooperflow.analysis import losses
from cooperflow.analysis.losses import OwnFeature
from cooperflow.experiment import config, plan
from cooperflow.experiment.plan import Plan, Run
from cooperflow.outcomes import judgement
from cooperflow.tables import run_table

BEGAN = 1_795_500_000.0
COMMAND = "python3 - <<'PY'\nprint('hello')\nPY"


@dataclass(frozen=True)
class Words:
    """Texts from models and repositories, which tests replace by hostile text."""

    statement: str = "I look at the code first."
    command: str = COMMAND
    output: str = "hello\n"
    message: str = "I take store.py; is report.py yours?"
    patch: str = (
        "diff --git a/store.py b/store.py\n--- a/store.py\n+++ b/store.py\n"
        "@@ -1,2 +1,2 @@\n def size():\n-    return 1\n+    return 2\n"
    )
    tests: str = "1 passed in 0.01s\n"
    error: str = ""
    files: dict[str, str] = field(default_factory=dict)


def make_plan(root: Path, subset: str = "lite", models: int = 1, first: int | None = None) -> Plan:
    """Return the plan of an experiment at ``root``; ``first``: the number of pairs."""
    names = ["command-a", *(f"model-{n}" for n in range(2, models + 1))]
    entry = {"model": "command-a-03-2025", "api_key": "COHERE_API_KEY"}
    settings = {
        "solo": ["--setting", "solo"],
        "coop-comm": ["--setting", "coop"],
        "coop-nocomm": ["--setting", "coop", "--no-messaging"],
    }
    raw = {
        "results": str(root),
        "dataset": {"subset": subset, "first": first},
        "models": {name: dict(entry) for name in names},
        "settings": settings,
    }
    return plan.make(config.parse(raw))


def finish(plan: Plan, words: Words | None = None, steps: int = 3) -> None:
    """Write the documents of all runs, and the tables, of a finished experiment."""
    chance = random.Random(1)
    for number, run in enumerate(plan.runs):
        kind = chance.choices(("pass", "fail", "infra_error"), (6, 3, 1))[0]
        write_run(plan, run, kind, BEGAN + 40 * number, words or Words(), steps)
    run_table.make(plan)


def write_run(plan: Plan, run: Run, kind: str, began: float, words: Words, steps: int = 3) -> None:
    """Write one run; an infra_error has no trajectory, as after a timeout."""
    folder = run.folder(plan.results)
    mode = run.experiment.setting.mode
    a, b = run.pair.sorted_features
    agents = {"solo": a} if mode == "solo" else {f"agent{f}": f for f in (a, b)}
    broken = kind == judgement.INFRA_ERROR
    reason = {"pass": "", "fail": judgement.TESTS_FAILED, "infra_error": "rate_limited"}[kind]
    workflow = {
        "schema": 1,
        "outcome": judgement.INFRA_ERROR if broken else None,
        "reason": reason if broken else "",
        "attempts": 1,
        "cost_usd": 0.01 * steps,
        "cost_complete": not broken,
        "cost_bound_usd": 0.02 * steps,
        "input_tokens": 1000 * steps,
        "output_tokens": 50 * steps,
        "cached_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "seconds": 90.0,
        "waited_seconds": 0.0,
        "model_seconds": 12.5,
        "steps": steps,
        "messages_sent": 1 if run.experiment.setting.messaging else 0,
        "patch_lines": 3,
        "started": began,
        "ended": began + 95,
    }
    ends = {name: {"feature_id": f, "status": "Submitted"} for name, f in agents.items()}
    result = {"model": "command-a-03-2025", "workflow": workflow}
    result |= {"agent": ends["solo"]} if mode == "solo" else {"agents": ends}
    tested = {"passed": kind == "pass", "test_output": words.tests}
    evaluation: dict[str, Any] = {
        "merge": None if mode == "solo" else {"status": "clean", "strategy": "naive"},
        "feature1": {} if broken else tested,
        "feature2": {} if broken else tested,
        "error": words.error or None,
        "workflow": {"outcome": kind, "reason": reason, "caveat": "", "seconds": 3.0,
                     "tests_passed": [1, 1]},
    }  # fmt: skip
    attempt = folder.attempt(1)
    attempt.mkdir(parents=True, exist_ok=True)
    _write(attempt / "attempt.json", {
        "number": 1, "state": "ended", "started": began, "ended": began + 95,
        "outcome": workflow["outcome"], "reason": workflow["reason"],
    })  # fmt: skip
    lines = [_call(name, n, began, words, broken) for name in agents for n in range(steps)]
    (attempt / "calls.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    if not broken:
        for number, name in enumerate(agents):
            document = {"agent_id": name, "messages": _messages(number, steps, began, words)}
            _write(folder.path / f"{name}_traj.json", document)
            # All patches differ, as those of real runs.
            own = words.patch.replace("return 2", f"return {began + number:.0f}")
            _text(folder.path / f"{name}.patch", own)
        if run.experiment.setting.messaging:
            first, second = agents
            message = {"from": first, "to": second, "message": words.message, "timestamp": None}
            _write(folder.path / "conversation.json", [message])
    for name, text in words.files.items():
        _text(folder.path / name, text)
    _write(folder.result, result)
    _write(folder.eval, evaluation)
    if plan.has_own_features(run.experiment):
        verdicts = {f"agent{n}": OwnFeature(f, None) for n, f in enumerate((a, b), start=1)}
        _write(folder.own, losses.make_document({}, verdicts))


def _messages(agent: int, steps: int, began: float, words: Words) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Your task."}]
    for n in range(steps):
        now = began + 10 + 20 * n + 3 * agent
        send = f"send_message other <<'MSG'\n{words.message}\nMSG"
        command = send if n == 1 else words.command
        messages.append(
            {
                "role": "assistant",
                "content": words.statement,
                "tool_calls": [
                    {"id": f"c{n}", "function": {"arguments": json.dumps({"command": command})}}
                ],
                "extra": {
                    "timestamp": now,
                    "cost": 0.01,
                    "response": {
                        "id": f"r{agent}-{n}",
                        "usage": {"prompt_tokens": 1000, "completion_tokens": 50},
                    },
                },
            }
        )
        messages.append(
            {
                "role": "tool",
                "tool_call_id": f"c{n}",
                "content": words.output,
                "extra": {"raw_output": words.output, "returncode": 0, "timestamp": now + 1.5},
            }
        )
    return messages


def _call(agent: str, number: int, began: float, words: Words, broken: bool) -> dict[str, Any]:
    record = {
        "schema": 1,
        "event": "end",
        "id": f"{agent}-{number}",
        "thread": agent,
        "time": began + 10 + 20 * number,
        "started": began + 8 + 20 * number,
        "kind": "rate_limited" if broken and number else "answered",
        "input_tokens": 1000,
        "output_tokens": 50,
        "cost": 0.01,
    }
    if record["kind"] != "answered":
        return {**record, "status": 429, "error": words.error or "Too many requests"}
    call = {"function": {"arguments": json.dumps({"command": words.command})}}
    return {**record, "message": {"content": words.statement, "tool_calls": [call]}}


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
