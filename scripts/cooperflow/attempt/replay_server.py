"""A server that plays recordings in a model's place, for one attempt."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from cooperflow import layout, processes


def start(recordings: str, folder: Path, model: str, stack: contextlib.ExitStack) -> str:
    """Start it, with its ledger and log in ``folder``; return its URL for ``model``."""
    port = folder / ".port"
    command = [sys.executable, str(layout.REPOSITORY / "demo" / "replay_server.py")]
    command += ["--recordings", recordings, "--port-file", str(port)]
    command += ["--ledger", str(folder / "ledger.jsonl")]
    with (folder / "replay.log").open("ab") as log:
        server = processes.spawn(command, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(port.unlink, missing_ok=True)
    stack.callback(processes.end, server)
    limit = time.monotonic() + 30
    while not port.exists() and server.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    base = f"http://127.0.0.1:{port.read_text().strip() if port.exists() else 9}"
    return f"{base}/v1" if model.startswith("openai/") else f"{base}/v2/chat"
