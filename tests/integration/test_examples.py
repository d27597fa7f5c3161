"""The example configs: each is valid, and OpenAI-compatible ones work with the real client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import replay_client

from cooperflow import environment
from cooperflow.experiment import config, plan
from cooperflow.layout import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "config" / "examples").glob("*.yaml"))


# The program of model_check.probe for several models: litellm takes seconds to import.
ASKER = """
import json, sys
from cooperflow.session import model_check
requests = [{"model": m, "kwargs": {}, "key": None, "call": False} for m in json.load(sys.stdin)]
print(json.dumps([model_check.ask_litellm(request) for request in requests]))
"""


def _ask_litellm(models: list[str]) -> list[dict[str, Any]]:
    """Return the facts of litellm about each model."""
    result = subprocess.run(
        [sys.executable, "-c", ASKER],
        input=json.dumps(models),
        capture_output=True,
        text=True,
        check=True,
        env={
            **environment.controlled_environment(os.environ),
            "PYTHONPATH": str(REPOSITORY / "scripts"),
        },
        timeout=180,
    )
    return list(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_each_model_of_the_examples_is_known_and_priced() -> None:
    example_of_model: dict[str, str] = {}
    for path in EXAMPLES:
        for model in filter(None, plan.make(config.load([path])).config.models.values()):
            example_of_model.setdefault(model.model, path.stem)
    answers = _ask_litellm(list(example_of_model))
    for (name, stem), answer in zip(example_of_model.items(), answers, strict=True):
        assert answer["known"], (stem, answer)
        if stem != "openai-compatible":
            assert answer["price"], (stem, name)


@pytest.mark.docker
@pytest.mark.slow
def test_a_server_of_openais_kind_is_run_against(clone: Path, tmp_path: Path) -> None:
    """All steps of a paid run: preflight, one-token call, estimate, run, evaluation."""
    with replay_client.server(
        tmp_path, "--script", "gold", "--dataset", str(replay_client.DATASET)
    ) as server:
        _run(clone, tmp_path, f"{server.url}/v1")


def _run(clone: Path, tmp_path: Path, base: str) -> None:
    example = config.load([REPOSITORY / "config" / "examples" / "openai-compatible.yaml"])
    model = {**example.models["my-model"].model_dump(), "api_base": base}  # type: ignore[union-attr]
    overlay: dict[str, Any] = {
        "results": str(tmp_path / "results"),
        "dataset": {"dir": str(REPOSITORY / "demo" / "dataset"), "subset": "demo", "first": 1},
        "models": {"command-a": None, "my-model": model},
        "settings": {"coop-comm": None, "coop-nocomm": None},
        "images": {"pull": False, "build": True, "free_gb": 0},
    }
    file = tmp_path / "overlay.json"
    file.write_text(json.dumps(overlay))
    prices = tmp_path / "prices.json"
    price = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    entry = {**price, "litellm_provider": "openai", "mode": "chat"}
    prices.write_text(json.dumps({model["model"]: entry}))
    run = tmp_path / "results/runs/my-model-solo/solo/demo_inventory_task/1/f1_f2"
    command = [str(Path(sys.executable).with_name("snakemake")), str(run / "eval.json")]
    command += ["--configfile", str(REPOSITORY / "config/config.yaml"), str(file)]
    # A session locks its clone, and other workers start sessions too.
    command += ["--directory", str(tmp_path), "-s", str(clone / "Snakefile")]
    command += ["--profile", str(clone / "profiles/default"), "--retries", "0"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LOCAL_API_KEY": "key-of-the-test",
            "LITELLM_MODEL_REGISTRY_PATH": str(prices),
        },
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert re.search(r"ok  key +my-model: accepted: one call of one token for 0\.0", output), output
    assert re.search(r"ok  price +my-model: 1.00 / 2.00 USD", output)
    assert "assumed: 10.4 calls" in output
    assert "oracle: not run" in output
    assert json.loads((run / "eval.json").read_text())["workflow"]["outcome"] == "pass"
    accounting = json.loads((run / "result.json").read_text())["workflow"]
    assert accounting["cost_usd"] > 0
    assert "key-of-the-test" not in output
