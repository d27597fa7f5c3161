"""Plans with a judge, answers of a judge, and its summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cooperflow.experiment import config
from cooperflow.experiment import plan as planning


def answer(*labels: tuple[str, Sequence[str]]) -> str:
    """Return a judge's answer with these labels and their quotes."""
    return json.dumps({"labels": [{"symptom": name, "quotes": quotes} for name, quotes in labels]})


def plan_of(root: Path, **judge: object) -> planning.Plan:
    """Return a plan with a judge for the results in ``root``."""
    raw: dict[str, Any] = {
        "results": str(root),
        "dataset": {"subset": "flash"},
        "models": {"command-a": {"model": "command-a-03-2025", "api_key": "COHERE_API_KEY"}},
        "settings": {
            "solo": ["--setting", "solo"],
            "coop-comm": ["--setting", "coop"],
            "coop-nocomm": ["--setting", "coop", "--no-messaging"],
        },
        "limits": {"call_tries": 3},
        "judge": {"model": "command-a", "sample": 3, **judge},
    }
    return planning.make(config.parse(raw))


def summary_of(root: Path) -> dict[str, Any]:
    """Return the judge's summary."""
    return dict(json.loads((root / "judge" / "summary.json").read_text()))
