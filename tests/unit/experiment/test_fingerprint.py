"""Differences between two experiments."""

from __future__ import annotations

from typing import Any

from cooperflow import layout
from cooperflow.experiment import config, config_schema, fingerprint
from cooperflow.experiment import plan as planning


def test_returning_the_plan_is_in_the_fingerprint() -> None:
    """Documents written before the key existed stay as they are; a change of it is refused."""
    raw: dict[str, Any] = {
        "dataset": {"subset": "flash"},
        "models": {"a": {"model": "command-a-03-2025"}},
        "settings": {"solo": ["--setting", "solo"]},
    }
    requests = []
    for value in (False, True):
        raw["models"]["a"]["return_tool_plan"] = value
        plan = planning.make(config.parse(raw))
        requests.append(fingerprint.requested_config(plan.experiments[0], plan))
    assert "return_tool_plan" not in requests[0]
    documents = [{"asked": request, "resolved": {}} for request in requests]
    assert fingerprint.fingerprint(documents[0]) != fingerprint.fingerprint(documents[1])
    for before, now in (documents, documents[::-1]):
        assert any("return_tool_plan" in text for text in fingerprint.differences(before, now))
    assert fingerprint.differences(documents[0], documents[0]) == []


def test_differences_of_experiments() -> None:
    before = {"asked": {"model": "a"}, "resolved": {"cooperbench": "1", "tasks": {"x/1": "h"}}}
    same = {"asked": {"model": "a"}, "resolved": {"cooperbench": "1", "tasks": {"y/2": "i"}}}
    assert fingerprint.differences(before, same) == []
    other = {"asked": {"model": "b"}, "resolved": {"cooperbench": "1", "tasks": {"x/1": "j"}}}
    assert fingerprint.differences(before, other) == [
        'model: "a" -> "b"',
        "data set: x/1 has other contents",
    ]


def test_limits_are_in_experiment_json() -> None:
    plan = planning.make(config.load([layout.REPOSITORY / "config" / "demo.yaml"]))
    document = fingerprint.requested_config(plan.experiments[0], plan)
    assert document["containers"] == config_schema.Containers().model_dump()
