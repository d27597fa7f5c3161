"""Keys: valid values, and their redaction in everything written or printed."""

from __future__ import annotations

import base64
import html
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from stub_provider import stub

from cooperflow import redaction
from cooperflow.archive import bundle

KEY = 'sk/9f"2+c7\\e1<5>d0-never&written'


@pytest.mark.parametrize(
    ("given", "value", "problem", "note"),
    [
        ("sk-0123456789", "sk-0123456789", "", ""),
        ("sk-0123456789\n", "sk-0123456789", "", "ends with white space"),
        ("sk-0123456789\r\n", "sk-0123456789", "", "ends with white space"),
        (" sk-0123456789", "sk-0123456789", "", "starts with white space"),
        ("\n", None, "", ""),
        ("sk-01234\n56789", None, "a line break at position 9", ""),
        ("sk-01234 56789", None, "a space at position 9", ""),
        ("sk-0123456789\u200b", None, "U+200B at position 14", ""),
        ("sk-01234\x0756789", None, "U+0007", ""),
        ("sk-ä123456789", None, "U+00E4", ""),
    ],
)
def test_a_key_that_no_header_carries_is_refused(
    given: str, value: str | None, problem: str, note: str
) -> None:
    key = redaction.read("THE_KEY", {"THE_KEY": given})
    assert key.value == value
    assert problem in key.problem and bool(problem) == bool(key.problem)
    assert note in key.note and bool(note) == bool(key.note)
    assert "sk-" not in key.problem + key.note


WRITTEN = {
    "plain": KEY,
    "with a line break": repr(f"Bearer {KEY}\n"),
    "bytes": repr(f"Bearer {KEY}\n".encode()),
    "JSON": json.dumps({"error": f"Bearer {KEY}\n"}),
    "JSON in JSON": json.dumps({"error": json.dumps({"token": KEY})}),
    "repr in JSON": json.dumps({"error": f"Illegal header value {KEY.encode()!r}"}),
    "URL": f"https://x.test/?key={quote(KEY, safe='')}",
    "path": f"https://x.test/{quote(KEY)}",
    "form": f"key={quote_plus(KEY)}",
    "HTML": html.escape(f"<b>{KEY}</b>"),
    **{
        f"base64 after {len(user)}": base64.b64encode(f"{user}:{KEY}\n".encode()).decode()
        for user in ("", "a", "ab")
    },
    "base64 of a URL": base64.urlsafe_b64encode(f"{KEY}".encode()).decode(),
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("key", [KEY, f"{KEY}\n"])
def test_a_key_is_redacted_however_it_is_written(form: str, key: str, tmp_path: Path) -> None:
    text = f"before {WRITTEN[form]} after"
    path = tmp_path / "log"
    path.write_text(text)
    redaction.scrub(tmp_path, key)
    for clean in (redaction.redact(text, key), path.read_text()):
        assert redaction.MARK in clean and clean.startswith("before ") and clean.endswith(" after")
        assert _traces(clean) == []


def _traces(text: str) -> list[str]:
    """Return what of the key can still be read in ``text``."""
    found = [part for part in ("9f", "c7", "never", "written") if part in text]
    for word in text.replace("-", "+").replace("_", "/").split():
        for start in range(4):
            part = word[start : start + (len(word) - start) // 4 * 4]
            try:
                decoded = base64.b64decode(part)
            except ValueError:
                continue
            found += [p for p in ("9f", "never", "written") if p.encode() in decoded]
    return found


def test_a_short_word_is_no_key() -> None:
    assert redaction.redact("a replay", "replay") == "a replay"


def test_a_bundle_hides_a_key_with_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    redactor = redaction.Redactor.of([f"{KEY}\n"])
    assert _traces(redactor.data(WRITTEN["repr in JSON"].encode()).decode()) == []
    assert not hasattr(bundle, "NO_KEY")


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
    redaction.scrub(folder, key)

# A process for each key: the log of calls has one key, and litellm takes seconds to import.
for name, key in asked["keys"].items():
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    if not (child := os.fork()):
        call(folder, key)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_no_kind_of_error_leaves_the_key(tmp_path: Path) -> None:
    statuses = [400, 401, 402, 403, 404, 422, 429, 500, 502, 503]
    keys = {"plain": "sk-5e1f0d7c2b9a-never", "line-break": "sk-5e1f0d7c2b9a-never\n"}
    with stub() as provider:
        provider.statuses = statuses * len(keys)
        done = subprocess.run(
            [sys.executable, "-c", CALLER, str(tmp_path), f"{provider.url}/v2/chat"],
            input=json.dumps({"keys": keys, "calls": len(statuses)}),
            text=True,
            capture_output=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": "scripts"},
        )
    assert done.returncode == 0, done.stderr
    for name in keys:
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        written = "".join(path.read_text() for path in files)
        assert written.count('"event": "end"') == len(statuses), done.stderr
        assert "[key]" in written
        for text in (written, done.stdout):
            assert "5e1f0d7c2b9a" not in text
