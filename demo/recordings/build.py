#!/usr/bin/env python3
"""Generate the recordings (*.json) from their sources (sources/*.yaml), which are easier to read.

The `runs` in a source are for mini-swe-agent and are written to this folder; those in `openhands`
are for OpenHands, which has other tools, and are written to ../openhands.

python demo/recordings/build.py            write them
python demo/recordings/build.py --check    check that they are up to date (exit code 1 if not)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
OPENHANDS = HERE.parent / "openhands"
DATASET = HERE.parent / "dataset"
SCHEMA = 1


def title(repo: str, task_id: int, feature: int) -> str:
    """Return the line with a feature's title, which identifies a conversation's task."""
    text = (DATASET / repo / f"task{task_id}" / f"feature{feature}" / "feature.md").read_text(
        "utf-8"
    )
    return next(line for line in text.splitlines() if line.startswith("**Title**"))


def recordings(source: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """Return the recordings in one part of a source, by path below the recordings' directory."""
    repo, task_id, pair = source["repo"], source["task_id"], source["features"]
    recordings = {}
    for run in source.get(part, []):
        kind, agent = run["kind"], run["agent"]
        features = pair if agent == "solo" else [pair[int(agent.removeprefix("agent")) - 1]]
        turns = []
        for turn in run["turns"]:
            source_commands = turn.get("run", [])
            commands = source_commands if isinstance(source_commands, list) else [source_commands]
            entry = {"text": turn["text"], "commands": [c.rstrip("\n") for c in commands]}
            turns.append(entry | {key: turn[key] for key in ("tools", "after") if key in turn})
        name = f"{repo}/task{task_id}/f{pair[0]}_f{pair[1]}/{kind}.{agent}.json"
        recordings[name.replace("solo.solo", "solo")] = {
            "schema": SCHEMA,
            "repo": repo,
            "task_id": task_id,
            "features": pair,
            "asked": features,
            "kind": kind,
            "agent": agent,
            "outcome": run["outcome"],
            "shows": run["shows"],
            "titles": [title(repo, task_id, feature) for feature in features],
            "turns": turns,
        }
    return recordings


def main(argv: list[str]) -> int:
    """Write or check all recordings."""
    documents: dict[Path, str] = {}
    for path in sorted((HERE / "sources").glob("*.yaml")):
        source = yaml.safe_load(path.read_text("utf-8"))
        for part, folder in (("runs", HERE), ("openhands", OPENHANDS)):
            for name, recording in recordings(source, part).items():
                documents[folder / name] = (
                    json.dumps(recording, ensure_ascii=False, indent=1) + "\n"
                )
    existing = [*HERE.glob("*/**/*.json"), *OPENHANDS.glob("*/**/*.json")]
    stale = {path for path in existing if path not in documents}
    differing = {
        p for p, text in documents.items() if not p.exists() or p.read_text("utf-8") != text
    }
    if "--check" in argv:
        for path in sorted(stale | differing):
            print(f"{path.relative_to(HERE.parent)} is not up to date with its source")
        return 1 if stale | differing else 0
    for path in stale:
        path.unlink()
    for path in differing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents[path], "utf-8")
    print(f"{len(documents)} recordings, {len(differing)} written, {len(stale)} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
