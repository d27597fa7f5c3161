"""Pulled images: shared layers, pauses after a refusal."""

from __future__ import annotations

import pytest
import requests

from cooperflow.images import disk_space, registry


def test_shared_layers_count_once() -> None:
    first = registry.Manifest("sha256:1", (("a", 100), ("b", 10)))
    second = registry.Manifest("sha256:2", (("a", 100), ("c", 20)))
    manifests = {"x": first, "y": second}
    assert disk_space.compute_need(["x", "y"], manifests, {}).packed == 130
    assert disk_space.compute_need(["y"], manifests, {}, present=["x"]).packed == 20
    assert disk_space.compute_need(["x", "z", "w"], manifests, {"z": 7}) == disk_space.Need(
        3, 117, 1
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 1.0),
        ("0", 1.0),
        (None, registry.DEFAULT_PAUSE),
        ("soon", registry.DEFAULT_PAUSE),
    ],
)
def test_pause_after_a_refusal(value: str | None, seconds: float) -> None:
    answer = requests.Response()
    answer.headers.update({} if value is None else {"Retry-After": value})
    assert registry._pause(answer) == seconds
