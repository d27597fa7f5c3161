"""Upstream's backends besides docker: impossible configs are refused; Modal needs no Docker.

Modal itself cannot be reached: a stand-in for its client (standin/modal) has containers for
sandboxes. Config, checks, cooperbench, its adapter, the seam, the clean-up and Redis are the real
ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cooperflow.engine import modal_sandboxes
from cooperflow.errors import UserError
from cooperflow.experiment import config

BASE: dict[str, Any] = {
    "models": {"m": {"model": "command-a-03-2025"}},
    "settings": {"solo": ["--setting", "solo"]},
    "backend": "modal",
}


def refused(**keys: Any) -> str:
    with pytest.raises(UserError) as error:
        config.parse({**BASE, **keys})
    return str(error.value)


def test_modal_is_a_backend() -> None:
    assert config.parse(BASE).docker is False


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"backend": "gcp"}, "backend: 'gcp' cannot work"),
        ({"containers": {"memory": "4g"}}, "containers: limits and networks are Docker's"),
        ({"images": {"registry": "mirror.example.org"}}, "images.registry: Modal fetches"),
        ({"images": {"rolling": True}}, "images.rolling: Modal fetches"),
        ({"limits": {"test_seconds": 60}}, "limits.test_seconds: on Modal an evaluation"),
        (
            {"agent": {"name": "codex"}, "settings": {"coop": ["--setting", "coop"]}},
            "settings.coop: its agents send messages from inside their sandboxes",
        ),
        ({"settings": {"team": ["--setting", "team"]}}, "settings.team: its agents send messages"),
        (
            {
                "settings": {"team": ["--setting", "team"]},
                "redis": {"url": "redis://127.0.0.1:6379"},
            },
            "settings.team: its agents send messages",
        ),
    ],
)
def test_impossible_configs_are_refused(keys: dict[str, Any], words: str) -> None:
    assert words in refused(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"settings": {"coop": ["--setting", "coop"]}},
        {"agent": {"name": "codex"}, "settings": {"c": ["--setting", "coop", "--no-messaging"]}},
        {
            "settings": {"team": ["--setting", "team"]},
            "redis": {"url": "rediss://:secret@redis.example.org:6380"},
        },
    ],
)
def test_possible_configs_are_accepted(keys: dict[str, Any]) -> None:
    config.parse({**BASE, **keys})


def test_the_modal_client_reports_missing_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    with pytest.raises(modal_sandboxes.EngineError, match="Token missing"):
        modal_sandboxes.check_access()
