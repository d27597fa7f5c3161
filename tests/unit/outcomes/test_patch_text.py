"""Overlap of two patches, against git's own diff and merge."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from cooperflow.outcomes import patch_text

BASE = [f"line {n}\n" for n in range(1, 41)]


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/"}
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


class Repository:
    """A repository with one file, in which two sides change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        git(folder, "init", "-q", "-b", "main")
        self.write(BASE)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "base")

    def write(self, lines: list[str], name: str = "a.py") -> None:
        (self.folder / name).write_text("".join(lines))

    def patch(self, branch: str, lines: list[str], name: str = "a.py") -> bytes:
        """Commit the file's lines on a new branch and return the branch's patch."""
        git(self.folder, "checkout", "-q", "-b", branch, "main")
        self.write(lines, name)
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-qm", branch)
        return git(self.folder, "diff", "main", branch).stdout.encode()

    def conflicts(self, branch: str, other: str) -> bool:
        """Return whether git's merge of the branches reports a conflict."""
        git(self.folder, "checkout", "-q", branch)
        merged = git(self.folder, "merge", "--no-edit", other)
        git(self.folder, "merge", "--abort")
        return merged.returncode != 0


def replaced(first: int, last: int, word: str) -> list[str]:
    """Return the file with lines ``first`` to ``last`` replaced by one."""
    return [*BASE[: first - 1], f"{word}\n", *BASE[last:]]


@pytest.mark.parametrize(
    ("second", "overlapping", "near"),
    [
        ((10, 12), 1, 1),  # the same lines
        ((12, 14), 1, 1),  # one line in common
        ((13, 14), 1, 1),  # no unchanged line between
        ((14, 14), 0, 1),  # one unchanged line between
        ((16, 16), 0, 1),  # three
        ((17, 17), 0, 0),  # four
        ((1, 2), 0, 0),
    ],
)
def test_distance(tmp_path: Path, second: tuple[int, int], overlapping: int, near: int) -> None:
    """Agent 1 replaces lines 10 to 12; git agrees on which places conflict."""
    repository = Repository(tmp_path)
    patch1 = repository.patch("one", replaced(10, 12, "one"))
    patch2 = repository.patch("other", replaced(*second, "other"))
    assert patch_text.overlap_columns(patch1, patch2) == {
        "files_both": 1,
        "hunks_overlapping": overlapping,
        "hunks_near": near,
        "changed1_lines": 4,
        "changed2_lines": 2 + second[1] - second[0],
    }
    assert repository.conflicts("one", "other") == bool(overlapping)
    assert patch_text.overlap_columns(patch2, patch1)["hunks_overlapping"] == overlapping


def test_git_conflicts_where_hunks_overlap(tmp_path: Path) -> None:
    """Random edits of both sides: a conflict if and only if a pair of hunks overlaps."""
    repository = Repository(tmp_path)
    chance = random.Random(18)
    answers = set()
    for number in range(25):
        sides = []
        for name in ("one", "other"):
            lines = list(BASE)
            for _ in range(2):
                start = chance.randrange(len(lines))
                width = chance.choice((0, 1, 2))
                lines[start : start + width] = [f"{name} {number} {chance.random()}\n"]
            sides.append(repository.patch(f"{name}{number}", lines))
        overlapping = patch_text.overlap_columns(*sides)["hunks_overlapping"]
        is_conflict = repository.conflicts(f"one{number}", f"other{number}")
        assert is_conflict == bool(overlapping), number
        answers.add(is_conflict)
    assert answers == {True, False}


def test_new_files_and_other_files(tmp_path: Path) -> None:
    """Two new files of one name overlap; test files are not part of what is merged."""
    repository = Repository(tmp_path)
    patch1 = repository.patch("one", ["x = 1\n", "y = 2\n"], "new.py")
    patch2 = repository.patch("other", ["z = 3\n"], "new.py")
    (tmp_path / "tests").mkdir(exist_ok=True)
    tests = repository.patch("tests", ["assert True\n"], "tests/test_new.py")
    assert patch_text.overlap_columns(patch1, patch2) == {
        "files_both": 1,
        "hunks_overlapping": 1,
        "hunks_near": 1,
        "changed1_lines": 2,
        "changed2_lines": 1,
    }
    assert repository.conflicts("one", "other")
    nothing = {"files_both": 0, "hunks_overlapping": 0, "hunks_near": 0}
    assert patch_text.overlap_columns(patch1, tests) == {
        **nothing,
        "changed1_lines": 2,
        "changed2_lines": 0,
    }
    empty = dict.fromkeys(patch_text.OVERLAP_COLUMNS)
    assert patch_text.overlap_columns(patch1, None) == empty
    assert patch_text.overlap_columns(patch1, b"no diff\n") == empty
    broken = patch1.replace(b"@@ -0,0 +1,2 @@", b"@@ -0,0 +1,5 @@")
    assert patch_text.overlap_columns(patch1, broken) == empty
    assert patch_text.overlap_columns(patch1, b"")["changed2_lines"] == 0


def _hunks(rng: random.Random, count: int, files: int, length: int) -> patch_text.ParsedPatch:
    hunks = []
    for _ in range(count):
        start = rng.randrange(length)
        name = f"{rng.randrange(files)}.py"
        hunks.append(patch_text.Hunk(name, start, start + rng.randrange(9), (), ("x",)))
    return patch_text.ParsedPatch(frozenset(hunk.file for hunk in hunks), tuple(hunks))


def test_near_hunks_are_those_of_all_comparisons() -> None:
    rng = random.Random(5)
    for _ in range(50):
        first, second = _hunks(rng, 40, 3, 200), _hunks(rng, 40, 3, 200)
        expected = [
            (a, b)
            for a in first.hunks
            for b in second.hunks
            if (gap := patch_text.gap(a, b)) is not None and gap <= patch_text.NEAR_LINES
        ]
        found = [(pair.first, pair.second) for pair in patch_text.hunk_pairs(first, second)]
        assert sorted(found, key=repr) == sorted(expected, key=repr)


def test_agents_that_reformat_a_repository_are_compared_in_time() -> None:
    """All comparisons would be 400 million, which takes minutes for each run."""
    rng = random.Random(6)
    patches = [_hunks(rng, 20_000, 500, 20_000) for _ in range(2)]
    start = time.process_time()
    patch_text.hunk_pairs(*patches)
    assert time.process_time() - start < 10
