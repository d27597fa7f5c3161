"""The bytes of a patch: whether the evaluation gets any of them, and which are not plain text."""

from __future__ import annotations

import re

# Caveats of a pass: upstream reads patches as text, which changes such a patch.
LINE_ENDINGS = "line_endings"
NOT_UTF8 = "not_utf8"

# Upstream's rule of a test file (cooperbench.eval.sandbox); tests/contract compares the two.
_TEST_FOLDER = re.compile(r"/(tests?|__tests__|spec|testdata)/")
_TEST_FILE = re.compile(
    r"(^|/)(test_[^/]+|[^/]+_test\.[A-Za-z0-9]+|[^/]+\.(test|spec)\.[A-Za-z0-9]+"
    r"|[^/]*Test[s]?\.(java|kt|cs|scala)|tests?\.py)$"
)


def is_empty(patch: bytes) -> bool:
    """Return whether upstream's evaluation gets nothing of this patch.

    Upstream removes the test files that an agent wrote before it applies a patch.
    """
    kept = []
    skipped = False
    for line in patch.decode("utf-8", "replace").split("\n"):
        if line.startswith("diff --git"):
            paths = re.findall(r"[ab]/(\S+)", line)
            skipped = any(_TEST_FOLDER.search(f"/{p}") or _TEST_FILE.search(p) for p in paths)
        if not skipped:
            kept.append(line)
    return not "\n".join(kept).strip()


def text_caveats(patch: bytes) -> tuple[str, ...]:
    """Return what reading ``patch`` as text would change: carriage returns, bytes, or nothing."""
    caveats = [LINE_ENDINGS] if b"\r" in patch else []
    try:
        patch.decode("utf-8")
    except UnicodeDecodeError:
        caveats.append(NOT_UTF8)
    return tuple(caveats)
