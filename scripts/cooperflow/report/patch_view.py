"""How a patch is shown: file by file, folded, its lines coloured by Pygments."""

from __future__ import annotations

import re
from functools import lru_cache

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers.diff import DiffLexer

from cooperflow.report import safe_text

_FILE = re.compile(r"^diff --git .*$", re.MULTILINE)
_LEXER = DiffLexer(stripnl=False, ensurenl=False)
_FORMATTER = HtmlFormatter(nowrap=True)
# More files than these are named in the raw file only.
MOST_FILES = 60


def shown(patch: str, raw: str | None = None, is_open: bool = True) -> Markup:
    """Return a patch as HTML; ``raw`` is the URL of the file that has all of it."""
    if not patch.strip():
        return Markup('<p class="note">Empty: nothing was changed.</p>')
    parts = _files(patch)
    whole = [_file(part, is_open and len(parts) <= 6) for part in parts[:MOST_FILES]]
    html = "".join(markup for markup, _ in whole)
    if len(parts) > MOST_FILES or any(cut for _, cut in whole):
        html += safe_text.left_out(raw)
    return Markup(html)


def _files(patch: str) -> list[str]:
    starts = [found.start() for found in _FILE.finditer(patch)]
    if not starts or starts[0] > 0:
        starts = [0, *starts]
    return [patch[a:b] for a, b in zip(starts, [*starts[1:], len(patch)], strict=True) if b > a]


def _file(part: str, is_open: bool) -> tuple[str, bool]:
    """Return one file of a patch, and whether some of it is left out."""
    lines = part.split("\n")
    added = sum(line.startswith("+") and not line.startswith("+++ ") for line in lines)
    removed = sum(line.startswith("-") and not line.startswith("--- ") for line in lines)
    body, cut = _body(part)
    state = " open" if is_open else ""
    return (
        f'<details class="file"{state}><summary><span class="path">{safe_text.inline(_name(lines))}'
        f'</span> <span class="added">+{added}</span> <span class="removed">−{removed}</span>'
        f'</summary><pre class="block diff" tabindex="0">{body}</pre></details>',
        cut,
    )


@lru_cache(maxsize=256)
def _body(part: str) -> tuple[str, bool]:
    """Return the coloured lines. Kept for a while: a run's page and its pair's show the same."""
    short, cut = safe_text.shorten(safe_text.plain(part))
    return safe_text.visible(highlight(short, _LEXER, _FORMATTER)), cut


def _name(lines: list[str]) -> str:
    """Return the path that a file's part of a patch is about."""
    for prefix in ("+++ b/", "--- a/", "+++ ", "--- "):
        for line in lines[:12]:
            if line.startswith(prefix) and "/dev/null" not in line:
                return line.removeprefix(prefix).rstrip("\t\r")
    first = lines[0]
    return first.rpartition(" b/")[2] if " b/" in first else first or "patch"
