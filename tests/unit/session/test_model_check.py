"""The test call of the preflight: what its answer proves."""

from __future__ import annotations

from typing import Any

import pytest

from cooperflow.experiment import config, plan
from cooperflow.outcomes import usage
from cooperflow.session import model_check
from cooperflow.session.model_check import NOTE


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        (
            "Could not finish the message because max_tokens or model output limit was reached."
            " Please try again with higher max_tokens.",
            True,
        ),
        (
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but"
            " got 1 instead.",
            True,
        ),
        ("max_tokens must be greater than or equal to 2", True),
        ("max_tokens is too large: 99999. This model supports at most 16384", False),
        ("model 'x' not found", False),
        ("invalid api token", False),
    ],
)
def test_answers_that_prove_a_model_exists(words: str, accepted: bool) -> None:
    assert usage.proves_model(words) is accepted


def first_experiment(raw: dict[str, Any]) -> plan.Experiment:
    settings = {"solo": ["--setting", "solo"]}
    base: dict[str, Any] = {"dataset": {"subset": "flash"}, "settings": settings}
    return plan.make(config.parse({**base, **raw})).experiments[0]


@pytest.mark.parametrize(
    ("key", "limit", "longest", "hinted"),
    [
        ("max_tokens", 99999, 8000, True),
        ("max_completion_tokens", 8001, 8000, True),
        ("max_tokens", 8000, 8000, False),
        ("max_tokens", 99999, None, False),
        ("temperature", 99999, 8000, False),
    ],
)
def test_preflight_compares_the_output_limit_with_the_models(
    key: str, limit: int, longest: int | None, hinted: bool
) -> None:
    """The one-token call cannot test the limit. A hint, since litellm's list may be wrong."""
    agent = {"config": {"model": {"model_kwargs": {key: limit}}}}
    models = {"m": {"model": "command-a-03-2025"}}
    experiment = first_experiment({"models": models, "agent": agent})
    answer = {"known": True, "kind": usage.ANSWERED, "longest_output": longest}
    lines = list(model_check.explain_answer(experiment, answer))
    hints = [line for line in lines if f"model_kwargs.{key}" in line.text]
    assert [line.state for line in hints] == ([NOTE] if hinted else [])
