"""Overlap of the patches of two agents: files, changed lines and hunks. Pure.

A hunk here is a block of changed lines without context, by the lines of the original file that it
replaces. Two hunks overlap if no unchanged line lies between them: git's merge then reports a
conflict unless both sides are identical (git's xdiff/xmerge.c). Patches are read as the
evaluation gets them, without test files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cooperflow.outcomes import patch_text

# Hunks with at most this many unchanged lines between them are near: git's usual context.
NEAR_LINES = 3

COLUMNS = ("files_both", "hunks_overlapping", "hunks_near", "changed1_lines", "changed2_lines")


@dataclass(frozen=True)
class Hunk:
    """A block of changed lines of one file."""

    file: str  # its path before the patch; of a new file the new path
    start: int  # first line of the original that it replaces, or that it is inserted before
    end: int  # the line of the original after it
    removed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def lines(self) -> int:
        """The number of removed and added lines."""
        return len(self.removed) + len(self.added)

    @property
    def place(self) -> str:
        """The lines of the original, in words."""
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
class Patch:
    """The files and hunks of a patch."""

    files: frozenset[str]
    hunks: tuple[Hunk, ...]

    @property
    def lines(self) -> int:
        """The number of removed and added lines."""
        return sum(hunk.lines for hunk in self.hunks)


@dataclass(frozen=True)
class Meeting:
    """A hunk of each agent in the same file, and the unchanged lines between them."""

    first: Hunk
    second: Hunk
    gap: int

    @property
    def overlaps(self) -> bool:
        return self.gap == 0


def parse(content: bytes) -> Patch | None:
    """Return the files and hunks of a patch; None if it is not a readable unified diff."""
    from unidiff import PatchSet
    from unidiff.errors import UnidiffParseError

    text = patch_text.without_tests(content)
    try:
        changed = list(PatchSet(text))
    except UnidiffParseError:
        return None
    if text.strip() and not changed:
        return None
    hunks: list[Hunk] = []
    for file in changed:
        path = _path(file.source_file, file.target_file)
        for hunk in file:
            hunks += _hunks(path, hunk)
    files = frozenset(_path(file.source_file, file.target_file) for file in changed)
    return Patch(files, tuple(hunks))


def _path(source: str, target: str) -> str:
    name = target if source == "/dev/null" else source
    return name[2:] if name[:2] in ("a/", "b/") else name


def _hunks(path: str, lines: Iterable[object]) -> Iterator[Hunk]:
    """Yield the blocks of changed lines of a hunk."""
    length, start = getattr(lines, "source_length", 0), getattr(lines, "source_start", 0)
    # A hunk of no original line is placed after its line number.
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


def meetings(first: Patch, second: Patch) -> list[Meeting]:
    """Return the pairs of hunks of both patches that overlap or are near, in file order."""
    pairs = [
        Meeting(one, other, distance)
        for one in first.hunks
        for other in second.hunks
        if (distance := gap(one, other)) is not None and distance <= NEAR_LINES
    ]
    return sorted(pairs, key=lambda pair: (pair.first.file, pair.first.start, pair.second.start))


def columns(first: bytes | None, second: bytes | None) -> dict[str, int | None]:
    """Return the overlap of two patches as columns of runs.csv.

    Without a patch, or with an unreadable diff, the columns are empty.
    """
    patches = [None if content is None else parse(content) for content in (first, second)]
    one, other = patches
    if one is None or other is None:
        return dict.fromkeys(COLUMNS)
    close = meetings(one, other)
    return {
        "files_both": len(one.files & other.files),
        "hunks_overlapping": sum(pair.overlaps for pair in close),
        "hunks_near": len(close),
        "changed1_lines": one.lines,
        "changed2_lines": other.lines,
    }
