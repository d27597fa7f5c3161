"""The bytes of a patch: whether the evaluation gets any of them, and which are not plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cooperflow.experiment import dataset
from cooperflow.layout import Pair

# Caveats of a pass: upstream reads patches as text, which changes such a patch.
LINE_ENDINGS = "line_endings"
NOT_UTF8 = "not_utf8"

# A feature's patches in the data set.
PATCH_FILES = ("feature.patch", "tests.patch")

# Upstream's rule of a test file (cooperbench.eval.sandbox); tests/contract compares the two.
_TEST_FOLDER = re.compile(r"/(tests?|__tests__|spec|testdata)/")
_TEST_FILE = re.compile(
    r"(^|/)(test_[^/]+|[^/]+_test\.[A-Za-z0-9]+|[^/]+\.(test|spec)\.[A-Za-z0-9]+"
    r"|[^/]*Test[s]?\.(java|kt|cs|scala)|tests?\.py)$"
)


def is_empty(patch: bytes) -> bool:
    """Return whether upstream's evaluation gets nothing of this patch."""
    return not without_tests(patch).strip()


def without_tests(patch: bytes) -> str:
    """Return the patch as upstream's evaluation gets it: without the test files that it changes."""
    kept = []
    skipped = False
    for line in patch.decode("utf-8", "replace").split("\n"):
        if line.startswith("diff --git"):
            paths = re.findall(r"[ab]/(\S+)", line)
            skipped = any(_TEST_FOLDER.search(f"/{p}") or _TEST_FILE.search(p) for p in paths)
        if not skipped:
            kept.append(line)
    return "\n".join(kept)


def text_caveats(patch: bytes) -> tuple[str, ...]:
    """Return what reading ``patch`` as text would change: carriage returns, bytes, or nothing."""
    caveats = [LINE_ENDINGS] if b"\r" in patch else []
    try:
        patch.decode("utf-8")
    except UnicodeDecodeError:
        caveats.append(NOT_UTF8)
    return tuple(caveats)


def all_caveats(patches: Iterable[bytes]) -> tuple[str, ...]:
    """Return the caveats of several patches, each once."""
    return tuple(dict.fromkeys(word for patch in patches for word in text_caveats(patch)))


def task_caveats(root: Path, pairs: Iterable[Pair]) -> dict[str, tuple[str, ...]]:
    """Return the tasks of the data set at ``root`` with such patches, and what they would lose."""
    paths: dict[str, set[Path]] = {}
    for pair in pairs:
        folder = dataset.task_folder(root, pair.repo, pair.task_id)
        of_task = paths.setdefault(f"{pair.repo} {pair.task_id}", set())
        for feature in pair.features:
            of_task |= {folder / f"feature{feature}" / name for name in PATCH_FILES}
    caveats = {
        task: all_caveats(path.read_bytes() for path in sorted(of_task))
        for task, of_task in paths.items()
    }
    return {task: words for task, words in caveats.items() if words}
