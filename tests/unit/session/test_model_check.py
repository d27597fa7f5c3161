"""The test call of the preflight: what its answer proves."""

from __future__ import annotations

import subprocess
from pathlib import Path
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[]", "is not a table of models"),
        ('{"m": 5}', "m: is not a table"),
        ('{"m": {"input_cost_per_token": "2.5e-6"}}', "input_cost_per_token: '2.5e-6'"),
        ('{"m": {"output_cost_per_token": -1}}', "output_cost_per_token: -1"),
        ('{"m": {"cache_read_input_token_cost": NaN}}', "cache_read_input_token_cost: nan"),
        ('{"m": {"input_cost_per_token": 0, "output_cost_per_token": null, "mode": "x"}}', ""),
    ],
)
def test_a_broken_file_of_prices_is_found_before_a_call(
    text: str | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "prices.json"
    if text is not None:
        path.write_text(text)
    problem = model_check.registry_problem({"LITELLM_MODEL_REGISTRY_PATH": str(path)})
    assert words in problem
    assert bool(words) == bool(problem)
    assert model_check.registry_problem({}) == ""


def test_a_client_library_that_fails_is_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-0123456789abc"
    stderr = f"Traceback\nValueError: bad registry of {key}\n".encode()
    ended = subprocess.CompletedProcess([], 1, b"", stderr)
    monkeypatch.setattr(model_check.subprocess, "run", lambda *_, **__: ended)
    answer = model_check.probe("m", key, {}, call=True)
    assert answer["kind"] == usage.API_UNAVAILABLE
    assert answer["message"] == "the client library failed: ValueError: bad registry of [key]"
