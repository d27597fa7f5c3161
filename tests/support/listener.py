"""A notify command that records the events it receives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def make_listener(tmp_path: Path, more: str = "") -> tuple[list[str], Path]:
    """Return a command that writes each document to a file as a line, and the file's path."""
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
    """Return the received events."""
    if not target.exists():
        return []
    return [json.loads(line) for line in target.read_text().splitlines()]
