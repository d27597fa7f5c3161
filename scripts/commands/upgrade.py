"""Update the lock, run demo and contract tests with the new packages, and say what changed.

Stdlib only, and run by the system's interpreter: it replaces the environment it is about.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from cooperflow.upstream import releases  # stdlib only, as this script

LOCK = REPOSITORY / "envs" / "requirements.txt"
PROJECT = REPOSITORY / "pyproject.toml"
WATCHED = ("cooperbench", "litellm", "snakemake", "docker", "pandas")
COMPARED = ("outcome", "reason", "caveat", "steps", "messages_sent", "input_tokens", "cost_usd")
# What depends on when a message arrives: it differs from one run to the next where agents talk.
TIMED = ("input_tokens", "cost_usd")
RUN = ("run_name", "repo", "task_id", "features")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cooperbench", help="its new version; the others follow their ranges")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    before = locked(LOCK.read_text("utf-8"))
    if arguments.cooperbench:
        text = PROJECT.read_text("utf-8")
        PROJECT.write_text(pinned(text, arguments.cooperbench), "utf-8")
    call("make", "lock")
    after = locked(LOCK.read_text("utf-8"))
    changes = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    if not changes:
        print("The lock is up to date: no package has changed.")
        return 0
    old_demo = demo("before")  # .venv is still the old one
    call("make", "setup")
    broken = contract()
    new_demo = demo("after")
    print(told(before, after, changes, broken, differing(old_demo, new_demo)))
    return 1 if broken or differing(old_demo, new_demo) else 0


def call(*command: str) -> None:
    """Run a command whose failure ends it all."""
    code = subprocess.call(command)
    if code:
        sys.exit(
            f"\n{' '.join(command)}: exit code {code}. To go back:"
            " git checkout pyproject.toml envs && make setup"
        )


def locked(text: str) -> dict[str, str]:
    """Return the packages of a lock and their versions."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\\]+)", text, re.MULTILINE))


def pinned(text: str, version: str) -> str:
    """Return the project's file with cooperbench pinned to ``version``."""
    changed, count = re.subn(r'"cooperbench==[^"]+"', f'"cooperbench=={version}"', text)
    if count != 1:
        sys.exit(f"{PROJECT}: has no pin of cooperbench.")
    return changed


def demo(when: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Run the demo anew, and return its runs and what upstream's agent config was."""
    results = f"results/upgrade-{when}"
    shutil.rmtree(REPOSITORY / results, ignore_errors=True)
    snakemake = str(REPOSITORY / ".venv" / "bin" / "snakemake")
    config = ["--configfile", "config/demo.yaml", "--config", f"results={results}"]
    print(f"the demo, {when}:", flush=True)
    code = subprocess.call([snakemake, "all", *config])
    if code:
        print(f"the demo, {when}: exit code {code}")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    table = REPOSITORY / results / "runs.csv"
    if table.exists():
        with table.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                rows[tuple(row[key] for key in RUN)] = row
    for path in sorted((REPOSITORY / results / "runs").glob("*/experiment.json")):
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        agent = json.dumps(document["resolved"]["agent_config"], sort_keys=True)
        rows[(document["run_name"], "upstream's agent config")] = {"outcome": agent}
    return rows


def contract() -> list[str]:
    """Return the contract tests that fail, by name."""
    report = REPOSITORY / "logs" / "contract.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    pytest = str(REPOSITORY / ".venv" / "bin" / "pytest")
    subprocess.call([pytest, "-q", "--disable-warnings", "tests/contract", f"--junitxml={report}"])
    if not report.exists():
        return ["the contract tests could not be run"]
    cases = ElementTree.parse(report).iter("testcase")
    return [
        f"{case.get('classname', '').rpartition('.')[2]}: {case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


def differing(
    before: dict[tuple[str, ...], dict[str, str]], after: dict[tuple[str, ...], dict[str, str]]
) -> list[str]:
    """Return what the demo's runs came to before and after, where that is not the same."""
    found = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, {}), after.get(key, {})
        talked = any(one.get("messages_sent") not in (None, "", "0") for one in (old, new))
        compared = [name for name in COMPARED if not (talked and name in TIMED)]
        changed = [name for name in compared if old.get(name) != new.get(name)]
        shown = [f"{name} {short(old.get(name))} -> {short(new.get(name))}" for name in changed]
        if changed:
            found.append(f"{' '.join(key)}: {', '.join(shown)}")
    return found


def short(value: str | None) -> str:
    """Return a value in a few words."""
    if value is None:
        return "(none)"
    return value if len(value) <= 30 else f"({len(value)} characters)"


def told(
    before: dict[str, str],
    after: dict[str, str],
    changes: list[str],
    broken: list[str],
    runs: list[str],
) -> str:
    """Return the report."""
    lines = ["", "Packages"]
    for name in [n for n in WATCHED if n in changes]:
        lines.append(f"  {name}: {before.get(name, '(none)')} -> {after.get(name, '(none)')}")
    lines.append(f"  {len(changes)} of {len(after)} packages have changed; git diff envs shows all")
    if "cooperbench" in changes:
        facts = [
            line
            for release in releases.between(
                before.get("cooperbench", "0"), after.get("cooperbench", "0")
            )
            for line in releases.describe(release)
        ]
        lines += ["Known changes of cooperbench (docs/upstream-versions.md)", *listed(facts)]
    lines += ["Facts that do not hold any more (tests/contract)", *listed(broken)]
    lines += ["Runs of the demo that ended otherwise", *listed(runs)]
    lines.append("To keep it, commit pyproject.toml and envs/. To go back:")
    lines.append("  git checkout pyproject.toml envs && make setup")
    return "\n".join(lines)


def listed(lines: list[str]) -> list[str]:
    """Return lines set in, or a word for none."""
    return [f"  {line}" for line in lines] or ["  none"]


if __name__ == "__main__":
    sys.exit(main())
