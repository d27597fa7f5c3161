"""One call of one token: is the key accepted, are the model and its price known. A process.

Reads {"model", "api_base", "key", "call"} as JSON from its input and prints one JSON line: the
client library takes seconds to import and prints as it likes.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from cooperflow import redaction

# Name of the one call.
_CALL = "preflight"
# Seconds for it.
PATIENCE = 60


def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the model, and what a call of one token came to."""
    import litellm

    from cooperflow.instrumentation import call_log
    from cooperflow.instrumentation.raw_answers import RawAnswers
    from cooperflow.outcomes import provider_answer, usage

    litellm.suppress_debug_info = True
    told: dict[str, Any] = {"known": True, "price": None, "called": False}
    try:
        _, told["provider"], _, _ = litellm.get_llm_provider(asked["model"])
    except Exception as error:
        return {**told, "known": False, "message": _line(error)}
    call_log.register_prices()
    try:
        info = litellm.get_model_info(asked["model"])
        told["price"] = [info.get("input_cost_per_token"), info.get("output_cost_per_token")]
        told["window"] = info.get("max_input_tokens")
    except Exception:  # litellm raises plain Exception for a model without a price
        told["price"] = None
    if not asked["call"]:
        return told
    options: dict[str, Any] = {"max_tokens": 1, "timeout": PATIENCE, "max_retries": 0}
    if asked.get("api_base"):
        options["api_base"] = asked["api_base"]
    if asked.get("key"):
        options["api_key"] = asked["key"]
    messages = [{"role": "user", "content": "Hi"}]
    answers = RawAnswers()
    answers.install()
    answers.begin(_CALL)
    try:
        answer = litellm.completion(model=asked["model"], messages=messages, **options)
    except Exception as error:
        kind, _, _ = call_log.failure_of(error, answers.take(_CALL))
        if usage.proves_model(str(error)):
            kind = usage.ANSWERED
        return {**told, "called": True, "kind": kind, "message": _line(error)}
    tokens = getattr(answer, "usage", None)
    noted = answers.take(_CALL)
    try:
        cost = litellm.completion_cost(completion_response=answer, model=asked["model"])
    except Exception:  # no price
        cost = None
    if noted and noted.answer:
        kwargs = {"model": asked["model"], "custom_llm_provider": told["provider"]}
        known = provider_answer.cost_of(noted.answer, call_log.prices_of(kwargs), cost, None)
        cost = known.known if known.complete else None
    return {
        **told,
        "called": True,
        "kind": usage.ANSWERED,
        "cost": cost,
        "input_tokens": getattr(tokens, "prompt_tokens", 0) or 0,
        "output_tokens": getattr(tokens, "completion_tokens", 0) or 0,
    }


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def main() -> int:
    asked = json.load(sys.stdin)
    with open(os.devnull, "w") as nothing:
        real, sys.stdout = sys.stdout, nothing
        told = ask(asked)
        sys.stdout = real
    print(redaction.hidden(json.dumps(told), asked.get("key")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
