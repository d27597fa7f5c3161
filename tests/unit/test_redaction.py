"""Keys: valid values, and their redaction in everything written or printed."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from commands import bundle
from cooperflow import redaction

KEY = 'sk/9f"2+c7\\e1<5>d0-never&written'


@pytest.mark.parametrize(
    ("raw", "value", "problem", "note"),
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
def test_a_key_that_is_invalid_in_a_header_is_refused(
    raw: str, value: str | None, problem: str, note: str
) -> None:
    key = redaction.read("THE_KEY", {"THE_KEY": raw})
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
    redaction.redact_files(tmp_path, [key])
    for clean in (redaction.redact(text, key), path.read_text()):
        assert redaction.MARK in clean and clean.startswith("before ") and clean.endswith(" after")
        assert _traces(clean) == []


def _traces(text: str) -> list[str]:
    """Return the parts of the key that are readable in ``text``."""
    traces = [part for part in ("9f", "c7", "never", "written") if part in text]
    for word in text.replace("-", "+").replace("_", "/").split():
        for start in range(4):
            part = word[start : start + (len(word) - start) // 4 * 4]
            try:
                decoded = base64.b64decode(part)
            except ValueError:
                continue
            traces += [p for p in ("9f", "never", "written") if p.encode() in decoded]
    return traces


def test_a_short_word_is_not_a_key() -> None:
    assert redaction.redact("a replay", "replay") == "a replay"


def test_a_bundle_hides_a_key_with_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    redactor = redaction.Redactor.of([f"{KEY}\n"])
    assert _traces(redactor.data(WRITTEN["repr in JSON"].encode()).decode()) == []
    assert not hasattr(bundle, "NO_KEY")


def test_a_key_quoted_by_a_provider_is_redacted(tmp_path: Path) -> None:
    key = "sk-1234567890abcdef"
    (tmp_path / "deep").mkdir()
    quoted = tmp_path / "deep" / "cooperbench.log"
    quoted.write_bytes(b"\xff said: bad key " + key.encode())
    (tmp_path / "other").write_text("nothing")
    redaction.redact_files(tmp_path, [key])
    assert quoted.read_bytes() == b"\xff said: bad key [key]"
    redaction.redact_files(tmp_path, ["replay"])
    assert (tmp_path / "other").read_text() == "nothing"


def test_credentials_and_passwords_are_secrets() -> None:
    """An error of AWS quotes the session's token; upstream's log quotes the URL of the store."""
    environment = {
        "THE_KEY": "sk-1234567890",
        "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjE",
        "AWS_ACCESS_KEY_ID": "AKIA0123456789",
        "OTHER": "x" * 20,
    }
    secrets = redaction.secrets(["THE_KEY", None], environment, "redis://:p%40ssw0rd@host:6379")
    assert secrets == ["sk-1234567890", "IQoJb3JpZ2luX2VjE", "p%40ssw0rd", "p@ssw0rd"]
    assert redaction.secrets([], {}, "redis://host") == redaction.secrets([], {}) == []
