"""Workload of both sides: the demo's tasks, repeated, with longer recordings."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cooperflow.upstream.published import image_name

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "demo"
# Copies of the demo's two tasks, by task number; the recordings do not know the number.
COPIES = 2
# Turns of each agent: real runs have 10 to 30 calls.
TURNS = 14
LOOKS = (
    "ls -la",
    "git log --oneline | head -5",
    "git status --short",
    "wc -l $(git ls-files | head -20)",
    "head -20 README* 2>/dev/null || true",
)


@dataclass(frozen=True)
class Workload:
    """A data set, recordings, and the pairs of both forms."""

    dataset: Path
    recordings: Path
    table: Path
    pairs: int

    @property
    def runs(self) -> int:
        return 3 * self.pairs


def make(
    folder: Path,
    copies: int = COPIES,
    turns: int = TURNS,
    most: int | None = None,
    tasks: int | None = None,
) -> Workload:
    """Make the work in ``folder``; the images of the copies are the demo's under other names.

    Args:
        most: take no more pairs of a task than this.
        tasks: take no more of the demo's tasks than this.
    """
    dataset = folder / "dataset"
    chosen = []
    subset = json.loads((DEMO / "dataset/subsets/demo.json").read_text())
    for task in subset["tasks"][:tasks]:
        for copy in range(copies):
            number = task["task_id"] + 10 * copy
            source = DEMO / "dataset" / task["repo"] / f"task{task['task_id']}"
            shutil.copytree(source, dataset / task["repo"] / f"task{number}")
            image = image_name(task["repo"], task["task_id"])
            again = image_name(task["repo"], number)
            if again != image:
                subprocess.run(["docker", "tag", image, again], check=True)
            chosen.append({**task, "task_id": number, "pairs": task["pairs"][:most]})
    (dataset / "subsets").mkdir()
    (dataset / "subsets" / "bench.json").write_text(json.dumps({"tasks": chosen}))
    rows = [(t["repo"], t["task_id"], *pair) for t in chosen for pair in t["pairs"]]
    table = folder / "pairs.csv"
    lines = ["repo,task_id,feature_a,feature_b", *(",".join(map(str, row)) for row in rows)]
    table.write_text("\n".join(lines) + "\n")
    _lengthen(folder / "recordings", turns)
    return Workload(dataset, folder / "recordings", table, len(rows))


def _lengthen(folder: Path, turns: int) -> None:
    """Copy the recordings with looks around put in after the first turn, up to ``turns``."""
    shutil.copytree(DEMO / "recordings", folder, ignore=shutil.ignore_patterns("*.py", "sources"))
    for path in folder.rglob("*.json"):
        recording = json.loads(path.read_text())
        own = recording["turns"]
        more = [
            {"text": "Looking around.", "commands": [LOOKS[i % len(LOOKS)]]}
            for i in range(max(turns - len(own), 0))
        ]
        recording["turns"] = [own[0], *more, *own[1:]]
        path.write_text(json.dumps(recording))


def untag(work: Workload) -> None:
    """Take the copies' image names away again."""
    for line in work.table.read_text().splitlines()[1:]:
        repo, number, *_ = line.split(",")
        if int(number) > 10:
            image = image_name(repo, int(number))
            subprocess.run(["docker", "rmi", "--no-prune", image], capture_output=True)
