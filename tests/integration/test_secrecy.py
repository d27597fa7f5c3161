"""Errors of a provider: none leaves the key in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from stub_provider import stub

# Errors that quote what was sent, and a key that the HTTP client itself refuses.
CALLER = """
import json, os, sys, time
from pathlib import Path
from cooperflow.attempt import child_process
child_process.prepare_environment()
from cooperflow import redaction
from cooperflow.instrumentation import call_log
import litellm
url, asked = sys.argv[2], json.load(sys.stdin)

def call(folder, key):
    call_log.install(folder / "calls.jsonl", key)
    for _ in range(asked["calls"]):
        try:
            litellm.completion(
                model="command-a-03-2025", api_base=url, api_key=key, max_retries=0, timeout=20,
                messages=[{"role": "user", "content": "Hi"}],
            )
        except Exception as error:
            print(repr(error), file=open(folder / "trajectory.json", "a"))
            print(redaction.redact(str(error), key), flush=True)
    time.sleep(1)
    redaction.redact_files(folder, [key])

# A process for each key: the log of calls has one key, and litellm takes seconds to import.
for name, key in asked["keys"].items():
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    if not (child := os.fork()):
        call(folder, key)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_no_error_of_a_provider_leaves_the_key_in_a_file(tmp_path: Path) -> None:
    statuses = [400, 401, 402, 403, 404, 422, 429, 500, 502, 503]
    keys = {"plain": "sk-5e1f0d7c2b9a-never", "line-break": "sk-5e1f0d7c2b9a-never\n"}
    with stub() as provider:
        provider.statuses = statuses * len(keys)
        result = subprocess.run(
            [sys.executable, "-c", CALLER, str(tmp_path), f"{provider.url}/v2/chat"],
            input=json.dumps({"keys": keys, "calls": len(statuses)}),
            text=True,
            capture_output=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": "scripts"},
        )
    assert result.returncode == 0, result.stderr
    for name in keys:
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        written = "".join(path.read_text() for path in files)
        assert written.count('"event": "end"') == len(statuses), result.stderr
        assert "[key]" in written
        for text in (written, result.stdout):
            assert "5e1f0d7c2b9a" not in text
