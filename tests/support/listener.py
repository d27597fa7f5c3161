"""A notify command that records the events it receives; for tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def listener(tmp_path: Path, more: str = "") -> tuple[list[str], Path]:
    """A command that writes each document to a file, a line each."""
    target = tmp_path / "events.jsonl"
    script = tmp_path / "listen.py"
    script.write_text(
        "import os, sys\n"
        f"with open({str(target)!r}, 'a') as stream:\n"
        "    stream.write(sys.stdin.read())\n"
        "    assert 'COHERE_API_KEY' not in os.environ\n" + more
    )
    return [sys.executable, str(script)], target


def read_events(target: Path) -> list[dict[str, Any]]:
    """Return the events received so far."""
    if not target.exists():
        return []
    return [json.loads(line) for line in target.read_text().splitlines()]
