"""The preflight's check of a paid model (key, name, price, call of one token), and findings.

A separate process, `python -m cooperflow.session.model_check`, makes the call, because the client
library takes seconds to import and prints messages. It reads {"model", "kwargs", "key", "call"} as
JSON from stdin and prints one line of JSON.
"""

from __future__ import annotations

import email.utils
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from cooperflow import atomic_io, environment, layout, redaction, session_state
from cooperflow.experiment.config_schema import Model
from cooperflow.experiment.plan import Experiment, Plan
from cooperflow.outcomes import usage
from cooperflow.redaction import Redactor

# States of a finding.
OK, BAD, NOTE = "ok", "NO", "--"
# Time during which an accepted key is not tested again, seconds.
FRESH = 600
# Difference of clocks above which signatures and tokens may be refused, seconds.
CLOCK = 120
# Time limits of the call and of its process, seconds.
CALL_SECONDS = 60
PROBE_SECONDS = 180
# Keys of model_kwargs that limit an answer's output tokens.
OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens")
# litellm's list of models and prices, in its package.
PRICE_LIST = "model_prices_and_context_window_backup.json"
# Id of the call among the raw answers.
_CALL = "preflight"


@dataclass(frozen=True)
class Finding:
    """Result of a preflight check. A NOTE does not prevent the session."""

    name: str
    state: str
    text: str

    @property
    def title(self) -> str:
        return self.name[:1].upper() + self.name[1:]

    def __str__(self) -> str:
        return f"{self.state:<3} {self.name:<12} {self.text}"


def check_key(name: str, model: Model) -> Iterator[Finding]:
    """Check that a model's key is set or that its recordings exist."""
    if model.replay is not None:
        if Path(model.replay).is_dir():
            text = f"{name}: replay of {model.replay}: no key, no cost"
            yield Finding("model", OK, text)
        else:
            text = f"models.{name}.replay: the folder {model.replay} does not exist."
            yield Finding("recordings", BAD, text)
        return
    key = redaction.read(model.api_key, os.environ)
    if key.problem:
        yield Finding("key", BAD, key.problem)
    elif model.api_key and not key.value:
        yield Finding(
            "key",
            BAD,
            f"the environment variable {model.api_key} (models.{name}.api_key) is not set. Run "
            f"`export {model.api_key}=...`.",
        )
    elif key.note:
        yield Finding("key", NOTE, key.note)
    elif model.api_key is None:
        for line in environment.unsent_keys(os.environ, name, model.model):
            yield Finding("key", NOTE, line)


def check_model(plan: Plan, experiment: Experiment) -> Iterator[Finding]:
    """Call an experiment's model for one token, unless a recent call was answered."""
    name, model = experiment.model_name, experiment.model
    key = redaction.read(model.api_key, os.environ)
    if model.replay is not None or key.problem or (model.api_key and not key.value):
        return
    answer = _recent_answer(plan, experiment)
    answer = answer or probe(model.model, key.value, experiment.connection, call=True)
    yield from explain_answer(experiment, answer)
    if answer.get("kind") == usage.ANSWERED and not answer.get("again"):
        _remember(plan, experiment, answer)
    if url := experiment.api_base:
        yield check_clock(_server_date(url), f"that of {name}'s end point")


def explain_answer(experiment: Experiment, answer: dict[str, Any]) -> Iterator[Finding]:
    """Return the findings from the answer of a probe. Pure."""
    name, model = experiment.model_name, experiment.model
    if not answer.get("known"):
        yield Finding(
            "model",
            BAD,
            f"{name}: litellm does not know {model.model!r} "
            f"({answer.get('message', '')}). Write provider/model, such as openai/NAME.",
        )
        return
    kind, message = answer.get("kind"), str(answer.get("message") or "")
    if kind in (usage.ANSWERED, usage.RATE_LIMITED):
        cost = answer.get("cost")
        usage_text = "at an unknown price"
        if cost is not None:
            usage_text = f"for {cost:.6f} USD, which the usage of the runs does not include"
        again = " (recently)" if answer.get("again") else ""
        yield Finding("key", OK, f"{name}: accepted{again}: one call of one token {usage_text}")
        yield Finding("model", OK, f"{name}: {model.model} answers")
    elif kind in session_state.HALT_ADVICE and kind != usage.BAD_REQUEST:
        advice = session_state.HALT_ADVICE[str(kind)].format(
            key=model.api_key or "(none)", model=name
        )
        subject = "model" if kind == usage.MODEL_NOT_FOUND else "key"
        yield Finding(subject, BAD, f"{name}: {advice} Its message: {message}")
    else:
        endpoint = experiment.api_base or "of the provider"
        text = f"{name}: {kind}: the end point {endpoint} does not answer correctly ({message})."
        yield Finding("model", BAD, text)
    yield _price_finding(name, answer.get("price"))
    yield from _output_finding(experiment, answer.get("longest_output"))


def _output_finding(experiment: Experiment, longest: Any) -> Iterator[Finding]:
    """Compare the configured limit of output tokens with litellm's list, without a call."""
    for key in OUTPUT_LIMITS:
        limit = experiment.model_kwargs.get(key)
        if isinstance(limit, int) and isinstance(longest, int) and limit > longest:
            yield Finding(
                "model",
                NOTE,
                f"{experiment.model_name}: {key} {limit} exceeds {longest}, the longest output "
                f"that litellm lists for {experiment.model.model}. If the provider refuses it, the "
                f"first run halts the session. Lower agent.config.model.model_kwargs.{key}.",
            )


def _price_finding(name: str, price: Any) -> Finding:
    if price and price[0] is not None:
        prices = " / ".join(f"{1e6 * (p or 0):.2f}" for p in price)
        return Finding("price", OK, f"{name}: {prices} USD per million tokens in / out")
    return Finding(
        "price",
        NOTE,
        f"{name}: litellm has no price for this model. Its cost will be unknown: cost_complete "
        "False, without a bound. Name a file with its price in LITELLM_MODEL_REGISTRY_PATH "
        "(litellm's format); a price of 0 declares it free.",
    )


def probe(model: str, key: str | None, kwargs: Mapping[str, Any], call: bool) -> dict[str, Any]:
    """Query litellm about a model in a separate process; the key is passed through a pipe.

    Args:
        kwargs: parameters that determine the called server.
    """
    request = {"model": model, "kwargs": dict(kwargs), "key": key, "call": call}
    variables = environment.controlled_environment(os.environ)
    if not key:
        environment.remove_keys(variables, model)
    variables["PYTHONPATH"] = str(layout.REPOSITORY / "scripts")
    try:
        process = subprocess.run(
            [sys.executable, "-m", "cooperflow.session.model_check"],
            input=json.dumps(request).encode(),
            capture_output=True,
            env=variables,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        message = f"no answer in {PROBE_SECONDS} s"
        return {"known": True, "kind": usage.API_TIMEOUT, "message": message}
    try:
        return dict(json.loads(process.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        text = redaction.redact(process.stderr.decode(errors="replace"), key).strip()
        message = f"the client library failed: {text.splitlines()[-1] if text else 'no message'}"
        return {"known": True, "kind": usage.API_UNAVAILABLE, "message": message[:300]}


def listed_price(model: str) -> Sequence[float] | None:
    """Return a model's price if litellm's list has its exact name, USD per token in and out.

    The list is read as a file, since litellm takes seconds to import. None: only litellm itself can
    decide, by its rules for names or a registry of the user.
    """
    package = importlib.util.find_spec("litellm")
    if package is None or os.environ.get("LITELLM_MODEL_REGISTRY_PATH"):
        return None
    entries = atomic_io.read_object(Path(str(package.origin)).with_name(PRICE_LIST))
    entry = entries.get(model, {})
    price = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    return None if None in price else price


def registry_problem(variables: Mapping[str, str]) -> str:
    """Return the problem with the user's price file, empty without one."""
    name = "LITELLM_MODEL_REGISTRY_PATH"
    path = variables.get(name)
    if not path:
        return ""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return (
            f"{name}={path}: cannot be read as JSON ({error}). Correct it, or unset the variable."
        )
    if not isinstance(entries, dict):
        return f"{name}={path}: is not a table of models. Write litellm's format."
    for model, entry in entries.items():
        if not isinstance(entry, dict):
            return f"{name}={path}: {model}: is not a table. Write litellm's format."
        for key, price in entry.items():
            is_price = "cost_per_token" in key or "token_cost" in key
            if is_price and not _is_amount(price):
                return (
                    f"{name}={path}: {model}: {key}: {price!r} is not a price. Write USD per token,"
                    " a number from 0."
                )
    return ""


def _is_amount(price: object) -> bool:
    if isinstance(price, bool) or not isinstance(price, int | float):
        return price is None  # litellm has no price
    return math.isfinite(price) and price >= 0


def _server_date(url: str) -> str:
    try:
        return str(httpx.head(url, timeout=10).headers.get("Date", ""))
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError):
        return ""


def read_answers(plan: Plan) -> dict[str, Any]:
    """Return the saved answers, by model name."""
    return atomic_io.read_object(_answer_file(plan))


def _answer_file(plan: Plan) -> Path:
    return plan.results.state / "preflight.json"


def _identity(experiment: Experiment) -> str:
    model, kwargs = experiment.model, experiment.connection
    others = {name: value for name, value in kwargs.items() if name != "api_base"}
    return json.dumps(
        [model.model, experiment.api_base, model.api_key, *([others] if others else [])]
    )


def _recent_answer(plan: Plan, experiment: Experiment) -> dict[str, Any] | None:
    """Return a recent answer of the model, so that repeated sessions pay for only one call."""
    record = read_answers(plan).get(experiment.model_name) or {}
    answer = last_answer(plan, experiment)
    if answer is None or time.time() - record["time"] > FRESH:
        return None
    return {**answer, "again": True}


def last_answer(plan: Plan, experiment: Experiment) -> dict[str, Any] | None:
    """Return the last saved answer to the call that the config describes, of any age."""
    record = read_answers(plan).get(experiment.model_name) or {}
    return record.get("answer") if record.get("request") == _identity(experiment) else None


def _remember(plan: Plan, experiment: Experiment, answer: dict[str, Any]) -> None:
    name = experiment.model_name
    record = {"request": _identity(experiment), "time": time.time(), "answer": answer}
    atomic_io.write_json(_answer_file(plan), {**read_answers(plan), name: record})
    plan.results.state.mkdir(parents=True, exist_ok=True)
    atomic_io.append_line(
        plan.results.root / "preflight.jsonl", json.dumps({"model": name, **record})
    )


def ask_litellm(request: dict[str, Any]) -> dict[str, Any]:
    """Return litellm's information about the model, and the result of a call of one token."""
    import litellm

    from cooperflow.instrumentation import call_log
    from cooperflow.instrumentation.raw_answers import RawAnswers
    from cooperflow.outcomes import provider_answer

    litellm.suppress_debug_info = True
    answer: dict[str, Any] = {"known": True, "price": None, "called": False}
    try:
        _, answer["provider"], _, _ = litellm.get_llm_provider(request["model"])
    except Exception as error:
        return {**answer, "known": False, "message": _one_line(error, request.get("key"))}
    call_log.register_prices()
    try:
        info = litellm.get_model_info(request["model"])
        listed = call_log.prices_of(
            {"model": request["model"], "custom_llm_provider": answer["provider"]}
        )
        # A price of 0 counts if it is in the list; get_model_info() also returns 0 for a missing
        # price.
        answer["price"] = [
            info.get(f"{key}_cost_per_token") or None if price is None else price
            for key, price in (("input", listed.input), ("output", listed.output))
        ]
        answer["window"] = info.get("max_input_tokens")
        answer["longest_output"] = info.get("max_output_tokens")
    except Exception:  # litellm raises plain Exception for a model without a price
        answer["price"] = None
    if not request["call"]:
        return answer
    options: dict[str, Any] = {"max_tokens": 1, "timeout": CALL_SECONDS, "max_retries": 0}
    options |= request["kwargs"]
    if request.get("key"):
        options["api_key"] = request["key"]
    messages = [{"role": "user", "content": "Hi"}]
    raw_answers = RawAnswers()
    raw_answers.install()
    raw_answers.start_call(_CALL)
    try:
        response = litellm.completion(model=request["model"], messages=messages, **options)
    except Exception as error:
        kind, _, _ = call_log.failure_of(error, raw_answers.take(_CALL))
        if usage.proves_model(str(error)):
            kind = usage.ANSWERED
        message = _one_line(error, request.get("key"))
        return {**answer, "called": True, "kind": kind, "message": message}
    tokens = getattr(response, "usage", None)
    raw = raw_answers.take(_CALL)
    try:
        cost = litellm.completion_cost(completion_response=response, model=request["model"])
    except Exception:  # no price
        cost = None
    if raw and raw.answer:
        kwargs = {"model": request["model"], "custom_llm_provider": answer["provider"]}
        measured = provider_answer.cost_of(raw.answer, call_log.prices_of(kwargs), cost, None)
        cost = measured.known if measured.complete else None
    return {
        **answer,
        "called": True,
        "kind": usage.ANSWERED,
        "cost": cost,
        "input_tokens": getattr(tokens, "prompt_tokens", 0) or 0,
        "output_tokens": getattr(tokens, "completion_tokens", 0) or 0,
    }


def _one_line(error: BaseException, key: str | None) -> str:
    # Redacted before the text is shortened, because part of a key would not be recognized.
    redactor = Redactor.for_calls(key, os.environ)
    return " ".join(redactor.text(str(error)).split())[:300]


def main() -> int:
    request = json.load(sys.stdin)
    with open(os.devnull, "w") as nothing:
        stdout, sys.stdout = sys.stdout, nothing
        answer = ask_litellm(request)
        sys.stdout = stdout
    print(redaction.redact(json.dumps(answer), request.get("key")))
    return 0


def check_clock(time_text: str, owner: str) -> Finding:
    """Compare this machine's clock with another clock's time in ISO 8601 or HTTP format."""
    try:
        moment = datetime.fromisoformat(time_text[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        moment = _parse_http_date(time_text)
    if not moment:
        return Finding("clock", NOTE, f"{owner} time is unknown")
    offset = abs(moment - time.time())
    if offset > CLOCK:
        return Finding("clock", BAD, f"{offset:.0f} s off {owner}: set this machine's clock (NTP).")
    return Finding("clock", OK, f"within {max(offset, 1):.0f} s of {owner}")


def _parse_http_date(text: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
