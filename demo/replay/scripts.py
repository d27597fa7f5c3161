"""Scripts: generated turns for any task of a data set, with its gold patches or without changes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from .recordings import SUBMIT, Turn

# The patch is passed in a program's argument, which Linux limits to 128 KiB.
CHUNK_CHARS = 60_000


@dataclass(frozen=True)
class Task:
    """One task directory (REPO/taskID) of a data set in CooperBench's format."""

    path: Path

    @property
    def repo(self) -> str:
        """The repository's name for upstream's -r."""
        return self.path.parent.name

    @property
    def task_id(self) -> int:
        """The task's number for upstream's -t."""
        return int(self.path.name.removeprefix("task"))

    def feature_texts(self) -> dict[int, str]:
        """The texts of the features by number."""
        return {
            int(path.parent.name.removeprefix("feature")): path.read_text(encoding="utf-8")
            for path in self.path.glob("feature*/feature.md")
        }

    def gold(self, feature: int) -> bytes:
        """The gold patch of one feature."""
        return (self.path / f"feature{feature}" / "feature.patch").read_bytes()

    def combined(self) -> bytes | None:
        """The patch of all features together, None without one."""
        path = self.path / "combined.patch"
        return path.read_bytes() if path.is_file() else None


def empty_script(task: Task, features: tuple[int, ...]) -> tuple[Turn, ...]:
    """Return turns that inspect the repository and submit without a change."""
    return (
        Turn("I look around first.", ("git log --oneline | head -n 3; ls",)),
        Turn("There is nothing I want to change.", (SUBMIT,)),
    )


def gold_script(task: Task, features: tuple[int, ...]) -> tuple[Turn, ...]:
    """Return turns that apply the gold patches in the requested order and submit them.

    If the second patch does not apply after the first, the task's combined patch is used instead.
    """
    turns = [Turn("I look around first.", ("git log --oneline | head -n 3; ls",))]
    names = []
    for feature in features:
        names.append(f"f{feature}")
        turns += _transport(f"f{feature}", task.gold(feature))
    # In a new container, the index does not have the files' inodes and times yet.
    refresh = "git update-index -q --refresh"
    apply = " && ".join(_apply(name) for name in names)
    combined = task.combined()
    if len(features) > 1 and combined is not None:
        turns += _transport("combined", combined)
        undo = "{ git reset -q && git checkout -q -- . && git clean -fdq; }"
        apply = f"{{ {apply}; }} || {{ {undo}; {_apply('combined')}; }}"
    titles = ", ".join(f"feature {feature}" for feature in features)
    turns += [
        Turn("I apply it.", (f"{refresh}; {apply} && git --no-pager diff --cached --stat",)),
        Turn("I commit it.", (f"git commit -q -m 'Gold patch of {titles}' && git push -q",)),
        Turn("I open the pull request.", (f"gh pr create --title 'Gold patch' --body '{titles}'",)),
        Turn("Done.", (SUBMIT,)),
    ]
    return tuple(turns)


def _apply(name: str) -> str:
    """Return the command that applies and stages a patch, even if the image has changed files."""
    apply, file = "git apply --whitespace=nowarn", f"/tmp/gold-{name}.patch"
    return f"{{ {apply} --index {file} || {{ {apply} {file} && git add -A; }}; }}"


def _transport(name: str, content: bytes) -> list[Turn]:
    """Return turns that write the content to /tmp/gold-NAME.patch, one chunk each."""
    encoded = base64.b64encode(content).decode()
    chunks = [encoded[at : at + CHUNK_CHARS] for at in range(0, len(encoded), CHUNK_CHARS)]
    file = f"/tmp/gold-{name}"
    turns = []
    for number, chunk in enumerate(chunks):
        lines = "\n".join(chunk[at : at + 76] for at in range(0, len(chunk), 76))
        write = ">" if number == 0 else ">>"
        command = f"cat {write} {file}.b64 <<'EOF'\n{lines}\nEOF"
        if number == len(chunks) - 1:
            command += f"\nbase64 -d {file}.b64 > {file}.patch && wc -c {file}.patch"
        turns.append(Turn(f"I write the patch {name}, part {number + 1}.", (command,)))
    return turns


SCRIPTS = {"gold": gold_script, "empty": empty_script}
