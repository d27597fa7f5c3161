"""Notifications: the `notify` command is called once per session and event, with JSON on stdin."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, processes, session_state
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import judgement
from cooperflow.outcomes.run_result import EvalRecord, RunRecord

SCHEMA = 1
# The events.
ENDED = "ended"
HALTED = "halted"
WAITING = "waiting"
BUDGET = "budget"
# Time limit of the command, seconds.
SECONDS = 30.0

LOG = Path("logs") / "notify.log"


def send(plan: Plan, event: str, text: str, success: bool | None = None) -> bool:
    """Call the configured command, unless it was already called for this event.

    A failure of the command is printed and logged; the session continues.

    Returns:
        True if the command was called and succeeded.
    """
    if not plan.config.notify:
        return False
    try:
        if not _claim_event(plan, event):
            return False
        failure = _call(plan, json.dumps(build_document(plan, event, text, success)) + "\n")
    except Exception as error:  # a notification must never break a session
        failure = f"{type(error).__name__}: {error}"
    if failure:
        print(f"notify: {plan.config.notify[0]}: {failure}. The session is not affected.")
    return not failure


def build_document(plan: Plan, event: str, text: str, success: bool | None) -> dict[str, Any]:
    """Return the document for an event, with the session and the progress."""
    cost, complete, states = 0.0, True, dict.fromkeys((*judgement.OUTCOMES, "unfinished"), 0)
    for run in plan.runs:
        folder = run.folder(plan.results)
        record = RunRecord.read(atomic_io.read_json(folder.result)) or RunRecord()
        final = EvalRecord.read(atomic_io.read_json(folder.eval))
        states[final.outcome or "unfinished"] += 1
        if record.is_paid:
            cost += record.usage.cost_usd
            complete = complete and record.usage.cost_complete
    owner = processes.session_process()
    return {
        "schema": SCHEMA,
        "event": event,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "results": str(plan.results.root.resolve()),
        "session": None if owner is None else {"host": owner.host, "pid": owner.pid},
        "success": success,
        "message": text,
        "runs": {"total": len(plan.runs), **states},
        "cost_usd": round(cost, 6),
        "cost_complete": complete,
        "budget_usd": plan.config.limits.budget_usd,
    }


def session_ended(plan: Plan, success: bool) -> None:
    """Call the command at the end of a session."""
    text = session_state.halt_message(plan.results) or ""
    if not text:
        text = "All is done." if success else "The session ended with unfinished work."
    send(plan, ENDED, text, success)


def _claim_event(plan: Plan, event: str) -> bool:
    """Claim an event; return False if another process has already sent it."""
    plan.results.notifications.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(plan.results.notifications / event, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _call(plan: Plan, text: str) -> str:
    """Run the command; return a description of its failure, empty on success."""
    # Without the providers' keys, which the command does not need.
    key_names = set(plan.config.key_names)
    environment = {name: value for name, value in os.environ.items() if name not in key_names}
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            plan.config.notify,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            process.communicate(text.encode(), timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"killed after {SECONDS:.0f} s"
        finally:
            processes.kill_group(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)
    return f"exit code {process.returncode}, see {LOG}" if process.returncode else ""
