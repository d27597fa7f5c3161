"""Whether a model can be paid for: its key, its name, its price, tried with one call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from cooperflow import atomic_io, halt, layout, provider_environment, redaction
from cooperflow.experiment.config_schema import Model
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import usage
from cooperflow.session import findings
from cooperflow.session.findings import BAD, NOTE, OK, Line

# A key that was accepted is not asked again for so long, seconds.
FRESH = 600


def lines(plan: Plan, name: str, model: Model) -> Iterator[Line]:
    """Try a model, unless it was tried a moment ago; return what it came to."""
    if model.replay is not None:
        yield Line("model", OK, f"{name}: replay of {model.replay}: no key, no cost")
        return
    given = redaction.read(model.api_key, os.environ)
    if given.problem:
        yield Line("key", BAD, given.problem)
        return
    key = given.value
    if model.api_key and not key:
        yield Line("key", BAD, f"{model.api_key} is not set: `export {model.api_key}=...`")
        return
    if given.note:
        yield Line("key", NOTE, given.note)
    told = _fresh(plan, name, model) or probe(model, key, call=True)
    yield from model_lines(name, model, told)
    if told.get("kind") == usage.ANSWERED:
        _remember(plan, name, model, told)
    if model.api_base:
        yield findings.clock("clock", _their_date(model.api_base), f"that of {name}'s end point")


def model_lines(name: str, model: Model, told: dict[str, Any]) -> Iterator[Line]:
    """Return what the probe of a model came to. Pure."""
    if not told.get("known"):
        yield Line(
            "model",
            BAD,
            f"{name}: litellm does not know {model.model!r} "
            f"({told.get('message', '')}). Write provider/model, such as openai/NAME.",
        )
        return
    kind, said = told.get("kind"), str(told.get("message") or "")
    if kind in (usage.ANSWERED, usage.RATE_LIMITED):
        cost = told.get("cost")
        spent = "at no known price"
        if cost is not None:
            spent = f"for {cost:.6f} USD, which are not in the runs' books"
        again = " (a moment ago)" if told.get("again") else ""
        yield Line("key", OK, f"{name}: accepted{again}: one call of one token {spent}")
        yield Line("model", OK, f"{name}: {model.model} answers")
    elif kind in halt.ADVICE and kind != usage.BAD_REQUEST:
        advice = halt.ADVICE[str(kind)].format(key=model.api_key or "(none)", model=name)
        which = "model" if kind == usage.MODEL_NOT_FOUND else "key"
        yield Line(which, BAD, f"{name}: {advice} It said: {said}")
    else:
        yield Line(
            "model",
            BAD,
            f"{name}: {kind}: the end point "
            f"{model.api_base or 'of the provider'} does not serve ({said}).",
        )
    price = told.get("price")
    if price and price[0]:
        per = " / ".join(f"{1e6 * (p or 0):.2f}" for p in price)
        yield Line("price", OK, f"{name}: {per} USD per million tokens in / out")
    else:
        yield Line(
            "price",
            NOTE,
            f"{name}: litellm has no price for this model. Its cost will be unknown: cost_complete "
            "False, without a bound. Name a file with its price in LITELLM_MODEL_REGISTRY_PATH "
            "(litellm's format); a price of 0 declares it free.",
        )


def probe(model: Model, key: str | None, call: bool) -> dict[str, Any]:
    """Ask the model in a process of its own; the key goes through a pipe and is not written."""
    asked = {"model": model.model, "api_base": model.api_base, "key": key, "call": call}
    environment = provider_environment.controlled(os.environ)
    environment["PYTHONPATH"] = str(layout.REPOSITORY / "scripts")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cooperflow.session.model_probe"],
            input=json.dumps(asked).encode(),
            capture_output=True,
            env=environment,
            timeout=180,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return {"known": True, "kind": usage.API_TIMEOUT, "message": "no answer in 180 s"}


def _their_date(url: str) -> str:
    try:
        return str(httpx.head(url, timeout=10).headers.get("Date", ""))
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError):
        return ""


def _place(plan: Plan) -> Path:
    return plan.results.state / "preflight.json"


def _same(model: Model) -> str:
    return json.dumps([model.model, model.api_base, model.api_key])


def _fresh(plan: Plan, name: str, model: Model) -> dict[str, Any] | None:
    """Return what the model said a moment ago: one start pays for one call."""
    known = (atomic_io.read_json(_place(plan)) or {}).get(name)
    if not known or known["asked"] != _same(model) or time.time() - known["time"] > FRESH:
        return None
    return {**known["told"], "again": True}


def _remember(plan: Plan, name: str, model: Model, told: dict[str, Any]) -> None:
    if told.get("again"):
        return
    known = atomic_io.read_json(_place(plan)) or {}
    record = {"asked": _same(model), "time": time.time(), "told": told}
    atomic_io.write_json(_place(plan), {**known, name: record})
    plan.results.state.mkdir(parents=True, exist_ok=True)
    atomic_io.append_line(
        plan.results.root / "preflight.jsonl", json.dumps({"model": name, **record})
    )
