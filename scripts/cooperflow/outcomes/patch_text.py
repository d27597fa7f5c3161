"""Contents of patches: emptiness, caveats, hunks, and the overlap of two agents' patches.

In this module, a hunk is a block of changed lines without context, located by the lines of the
original file that it replaces. Two hunks overlap if no unchanged line lies between them: git's
merge then reports a conflict unless both sides are identical (git's xdiff/xmerge.c). Hunks are read
from patches as the evaluation gets them, without test files.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from cooperflow.experiment import dataset
from cooperflow.layout import Pair

# Caveats of a pass whose patch upstream would change by reading it as text.
LINE_ENDINGS = "line_endings"
NOT_UTF8 = "not_utf8"

# A feature's patches in the data set.
PATCH_FILES = ("feature.patch", "tests.patch")

# Upstream's definition of a test file (cooperbench.eval.sandbox); tests/contract compares them.
_TEST_FOLDER = re.compile(r"/(tests?|__tests__|spec|testdata)/")
_TEST_FILE = re.compile(
    r"(^|/)(test_[^/]+|[^/]+_test\.[A-Za-z0-9]+|[^/]+\.(test|spec)\.[A-Za-z0-9]+"
    r"|[^/]*Test[s]?\.(java|kt|cs|scala)|tests?\.py)$"
)
_GIT_ERROR = re.compile(r"(error|fatal|warning): ")


def is_empty(patch: bytes) -> bool:
    """Return whether upstream's evaluation gets no change from this patch.

    If an agent has removed its repository, upstream records git's error message as the patch.
    """
    lines = [line for line in remove_test_changes(patch).splitlines() if line.strip()]
    return all(_GIT_ERROR.match(line) for line in lines)


def remove_test_changes(patch: bytes) -> str:
    """Return the patch as upstream's evaluation gets it, without changes of test files."""
    lines = []
    skipped = False
    for line in patch.decode("utf-8", "replace").split("\n"):
        if line.startswith("diff --git"):
            paths = re.findall(r"[ab]/(\S+)", line)
            skipped = any(_TEST_FOLDER.search(f"/{p}") or _TEST_FILE.search(p) for p in paths)
        if not skipped:
            lines.append(line)
    return "\n".join(lines)


def text_caveats(patch: bytes) -> tuple[str, ...]:
    """Return the caveats of ``patch``: carriage returns or bytes that a read as text changes."""
    caveats = [LINE_ENDINGS] if b"\r" in patch else []
    try:
        patch.decode("utf-8")
    except UnicodeDecodeError:
        caveats.append(NOT_UTF8)
    return tuple(caveats)


def collect_caveats(patches: Iterable[bytes]) -> tuple[str, ...]:
    """Return the caveats of several patches, each once."""
    return tuple(dict.fromkeys(word for patch in patches for word in text_caveats(patch)))


def task_caveats(root: Path, pairs: Iterable[Pair]) -> dict[str, tuple[str, ...]]:
    """Return the tasks of the data set at ``root`` with such patches, and their caveats."""
    paths: dict[str, set[Path]] = {}
    for pair in pairs:
        folder = dataset.task_folder(root, pair.repo, pair.task_id)
        of_task = paths.setdefault(f"{pair.repo} {pair.task_id}", set())
        for feature in pair.features:
            of_task |= {folder / f"feature{feature}" / name for name in PATCH_FILES}
    caveats = {
        task: collect_caveats(path.read_bytes() for path in sorted(of_task))
        for task, of_task in paths.items()
    }
    return {task: words for task, words in caveats.items() if words}


# Hunks with at most this many unchanged lines between them are near: git's usual context.
NEAR_LINES = 3

OVERLAP_COLUMNS = (
    "files_both",
    "hunks_overlapping",
    "hunks_near",
    "changed1_lines",
    "changed2_lines",
)


@dataclass(frozen=True)
class Hunk:
    """A block of changed lines of one file."""

    file: str  # its path before the patch; of a new file the new path
    start: int  # first replaced line of the original, or the line before which lines are inserted
    end: int  # first line of the original after the hunk
    removed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def lines(self) -> int:
        """The number of removed and added lines."""
        return len(self.removed) + len(self.added)

    @property
    def location(self) -> str:
        """The location in the original, in words."""
        if self.start == self.end:
            return f"before line {self.start}"
        last = self.end - 1
        return f"line {self.start}" if last == self.start else f"lines {self.start} to {last}"

    @property
    def text(self) -> str:
        """The hunk as in a diff, without context."""
        marked = [*(f"-{line}" for line in self.removed), *(f"+{line}" for line in self.added)]
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in marked)


@dataclass(frozen=True)
class ParsedPatch:
    """The files and hunks of a patch."""

    files: frozenset[str]
    hunks: tuple[Hunk, ...]

    @property
    def lines(self) -> int:
        """The number of removed and added lines."""
        return sum(hunk.lines for hunk in self.hunks)


@dataclass(frozen=True)
class HunkPair:
    """A hunk of each agent in the same file, and the number of unchanged lines between them."""

    first: Hunk
    second: Hunk
    gap: int

    @property
    def overlaps(self) -> bool:
        return self.gap == 0


def parse(content: bytes) -> ParsedPatch | None:
    """Return the files and hunks of a patch; None if it is not a readable unified diff."""
    from unidiff import PatchSet
    from unidiff.errors import UnidiffParseError

    text = remove_test_changes(content)
    try:
        changed = list(PatchSet(text))
    except UnidiffParseError:
        return None
    if text.strip() and not changed:
        return None
    hunks: list[Hunk] = []
    for file in changed:
        path = _original_path(file.source_file, file.target_file)
        for hunk in file:
            hunks += _hunks(path, hunk)
    files = frozenset(_original_path(file.source_file, file.target_file) for file in changed)
    return ParsedPatch(files, tuple(hunks))


def _original_path(source: str, target: str) -> str:
    name = target if source == "/dev/null" else source
    return name[2:] if name[:2] in ("a/", "b/") else name


def _hunks(path: str, lines: Iterable[object]) -> Iterator[Hunk]:
    """Yield the blocks of changed lines of a hunk."""
    length, start = getattr(lines, "source_length", 0), getattr(lines, "source_start", 0)
    # A hunk that replaces no line is inserted after its line number.
    position = start if length else start + 1
    removed: list[str] = []
    added: list[str] = []
    for line in lines:
        kind, value = getattr(line, "line_type", ""), str(getattr(line, "value", ""))
        if kind == "-":
            removed.append(value)
        elif kind == "+":
            added.append(value)
        elif kind == " ":
            if removed or added:
                yield _hunk(path, position, removed, added)
            position += len(removed) + 1
            removed, added = [], []
    if removed or added:
        yield _hunk(path, position, removed, added)


def _hunk(path: str, start: int, removed: list[str], added: list[str]) -> Hunk:
    return Hunk(path, start, start + len(removed), tuple(removed), tuple(added))


def gap(first: Hunk, second: Hunk) -> int | None:
    """Return the number of unchanged lines between two hunks; None in different files."""
    if first.file != second.file:
        return None
    return max(max(first.start, second.start) - min(first.end, second.end), 0)


def hunk_pairs(first: ParsedPatch, second: ParsedPatch) -> list[HunkPair]:
    """Return the pairs of hunks of both patches that overlap or are near, in file order.

    Hunks are not all compared with each other, since agents that reformat a repository have 10,000.
    """
    files: dict[str, list[Hunk]] = {}
    for hunk in sorted(second.hunks, key=lambda hunk: hunk.start):
        files.setdefault(hunk.file, []).append(hunk)
    # For each hunk of a file, the largest end of the hunks up to it.
    ends = {name: list(accumulate((h.end for h in file), max)) for name, file in files.items()}
    pairs = []
    for a in first.hunks:
        others = files.get(a.file, [])
        first_near = bisect_left(ends.get(a.file, []), a.start - NEAR_LINES)
        for number in range(first_near, len(others)):
            b = others[number]
            if b.start > a.end + NEAR_LINES:
                break
            distance = gap(a, b)
            if distance is not None and distance <= NEAR_LINES:
                pairs.append(HunkPair(a, b, distance))
    return sorted(pairs, key=lambda pair: (pair.first.file, pair.first.start, pair.second.start))


def overlap_columns(
    first: bytes | None = None, second: bytes | None = None
) -> dict[str, int | None]:
    """Return the overlap of two patches as columns of runs.csv.

    Without a patch, or with an unreadable diff, the columns are empty.
    """
    a, b = (None if content is None else parse(content) for content in (first, second))
    if a is None or b is None:
        return dict.fromkeys(OVERLAP_COLUMNS)
    pairs = hunk_pairs(a, b)
    return {
        "files_both": len(a.files & b.files),
        "hunks_overlapping": sum(pair.overlaps for pair in pairs),
        "hunks_near": len(pairs),
        "changed1_lines": a.lines,
        "changed2_lines": b.lines,
    }
