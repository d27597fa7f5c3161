"""Conversion of untrusted text (names, output, patches) to safe HTML."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from functools import lru_cache
from typing import Any

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers.diff import DiffLexer

# Maximum length of a displayed line and of a block; the raw file has the rest.
LONGEST_LINE = 2_000
LONGEST_BLOCK = 60_000
LONGEST_NAME = 300

_ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)|[@-Z\\^_]|[ -/]+[0-~])"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
# Invisible characters and characters that change the text direction: control and format characters,
# separators, surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_BREAK = re.compile(r"\r\n?")

_FILE = re.compile(r"^diff --git .*$", re.MULTILINE)
_LEXER = DiffLexer(stripnl=False, ensurenl=False)
_FORMATTER = HtmlFormatter(nowrap=True)
# Maximum number of displayed file names; the raw file has all of them.
MOST_FILES = 60


def strip_terminal_codes(text: str) -> str:
    """Return ``text`` without terminal codes and with newlines as line ends."""
    if "\x1b" in text or "\x9b" in text:
        text = _ANSI.sub("", text)
    return _BREAK.sub("\n", text) if "\r" in text else text


def name_invisible_characters(markup: str) -> str:
    """Return escaped ``markup`` with every invisible character replaced by its name."""
    return _UNSEEN.sub(_mark, markup)


def _mark(match: re.Match[str]) -> str:
    code = f"U+{ord(match[0]):04X}"
    name = unicodedata.name(match[0], "control character")
    return f'<span class="unseen" title="{html.escape(name)}">{code}</span>'


def shorten(text: str) -> tuple[str, bool]:
    """Shorten ``text`` to a displayable length; return it and whether it was cut."""
    is_cut = False
    if len(text) > LONGEST_BLOCK:
        # A line may be longer than the block, so cut lines first, then the middle of the text.
        head, tail = text[: LONGEST_BLOCK // 2], text[-LONGEST_BLOCK // 2 :]
        omitted = len(text) - len(head) - len(tail)
        text = f"{head}\n[{omitted:,} characters left out here]\n{tail}"
        is_cut = True
    if len(text) > LONGEST_LINE:
        lines = text.split("\n")
        for number, line in enumerate(lines):
            if len(line) > LONGEST_LINE:
                omitted = len(line) - LONGEST_LINE
                lines[number] = f"{line[:LONGEST_LINE]} [{omitted:,} more characters in this line]"
                is_cut = True
        text = "\n".join(lines)
    return text, is_cut


def block(text: str, raw: str | None = None, kind: str = "") -> Markup:
    """Return a block of text as <pre>; ``raw`` is the URL of the file with the complete text."""
    shown, is_cut = shorten(strip_terminal_codes(text))
    name = f"block {kind}".strip()
    body = f'<pre class="{name}" tabindex="0">{name_invisible_characters(html.escape(shown))}</pre>'
    return Markup(body + (left_out(raw) if is_cut else ""))


def left_out(raw: str | None) -> str:
    """Return the note on a text that was cut."""
    link = f'<a href="{html.escape(raw)}">the raw file</a>' if raw else "the raw file"
    return f'<p class="note">Cut here; {link} has all of it.</p>'


def inline(text: Any) -> Markup:
    """Return a name or short value, isolated from the surrounding text direction."""
    value = strip_terminal_codes(str(text))
    if len(value) > LONGEST_NAME:
        value = f"{value[:LONGEST_NAME]}…"
    return Markup(f"<bdi>{name_invisible_characters(html.escape(value))}</bdi>")


def script_json(value: Any) -> str:
    """Return ``value`` as JSON that cannot end a script element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def patch(patch: str, raw: str | None = None, is_open: bool = True) -> Markup:
    """Return a patch as HTML; ``raw`` is the URL of the patch file."""
    if not patch.strip():
        return Markup('<p class="note">Empty: nothing was changed.</p>')
    parts = _files(patch)
    rendered = [_file(part, is_open and len(parts) <= 6) for part in parts[:MOST_FILES]]
    html = "".join(markup for markup, _ in rendered)
    if len(parts) > MOST_FILES or any(is_cut for _, is_cut in rendered):
        html += left_out(raw)
    return Markup(html)


def hunk(text: str) -> Markup:
    """Return lines of a diff as a coloured block."""
    body, is_cut = _body(text)
    note = left_out(None) if is_cut else ""
    return Markup(f'<pre class="block diff" tabindex="0">{body}</pre>{note}')


def _files(patch: str) -> list[str]:
    starts = [match.start() for match in _FILE.finditer(patch)]
    if not starts or starts[0] > 0:
        starts = [0, *starts]
    return [patch[a:b] for a, b in zip(starts, [*starts[1:], len(patch)], strict=True) if b > a]


def _file(part: str, is_open: bool) -> tuple[str, bool]:
    """Return one file of a patch, and whether it was cut."""
    lines = part.split("\n")
    added = sum(line.startswith("+") and not line.startswith("+++ ") for line in lines)
    removed = sum(line.startswith("-") and not line.startswith("--- ") for line in lines)
    body, is_cut = _body(part)
    state = " open" if is_open else ""
    return (
        f'<details class="file"{state}><summary><span class="path">{inline(_name(lines))}'
        f'</span> <span class="added">+{added}</span> <span class="removed">−{removed}</span>'
        f'</summary><pre class="block diff" tabindex="0">{body}</pre></details>',
        is_cut,
    )


@lru_cache(maxsize=256)
def _body(part: str) -> tuple[str, bool]:
    """Return the coloured lines; cached, because two pages show the same patch."""
    short, is_cut = shorten(strip_terminal_codes(part))
    return name_invisible_characters(highlight(short, _LEXER, _FORMATTER)), is_cut


def _name(lines: list[str]) -> str:
    """Return the path of the file that one part of a patch changes."""
    for prefix in ("+++ b/", "--- a/", "+++ ", "--- "):
        for line in lines[:12]:
            if line.startswith(prefix) and "/dev/null" not in line:
                return line.removeprefix(prefix).rstrip("\t\r")
    first = lines[0]
    return first.rpartition(" b/")[2] if " b/" in first else first or "patch"
