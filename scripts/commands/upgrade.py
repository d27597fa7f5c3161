"""Update the lock, run demo and contract tests with the new packages, and list the changes.

It imports only the standard library and is run by the system's interpreter, because it replaces the
project's environment.
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

from cooperflow.upstream import releases  # standard library only, too

LOCK = REPOSITORY / "envs" / "requirements.txt"
PROJECT = REPOSITORY / "pyproject.toml"
WATCHED = ("cooperbench", "litellm", "snakemake", "docker", "pandas")
COMPARED = ("outcome", "reason", "caveat", "steps", "messages_sent", "input_tokens", "cost_usd")
# Fields that depend on the arrival of messages and vary in settings with messages.
TIMED = ("input_tokens", "cost_usd")
RUN = ("run_name", "repo", "task_id", "features")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cooperbench", help="its new version; other packages follow their ranges")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    before = parse_lock(LOCK.read_text("utf-8"))
    if arguments.cooperbench:
        text = PROJECT.read_text("utf-8")
        PROJECT.write_text(pin_version(text, arguments.cooperbench), "utf-8")
    call("make", "lock")
    after = parse_lock(LOCK.read_text("utf-8"))
    changes = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    if not changes:
        print("The lock is up to date: no package has changed.")
        return 0
    old_demo = run_demo("before")  # .venv is still the old one
    call("make", "setup")
    broken = run_contract_tests()
    new_demo = run_demo("after")
    print(summarize(before, after, changes, broken, compare_runs(old_demo, new_demo)))
    return 1 if broken or compare_runs(old_demo, new_demo) else 0


def call(*command: str) -> None:
    """Run a command; exit if it fails."""
    code = subprocess.call(command)
    if code:
        sys.exit(
            f"\n{' '.join(command)}: exit code {code}. To undo:"
            " git checkout pyproject.toml envs && make setup"
        )


def parse_lock(text: str) -> dict[str, str]:
    """Return the packages of a lock and their versions."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\\]+)", text, re.MULTILINE))


def pin_version(text: str, version: str) -> str:
    """Return pyproject.toml with cooperbench pinned to ``version``."""
    changed, count = re.subn(r'"cooperbench==[^"]+"', f'"cooperbench=={version}"', text)
    if count != 1:
        sys.exit(f"{PROJECT}: does not pin cooperbench.")
    return changed


def run_demo(label: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Run the demo, and return its runs and upstream's resolved agent config."""
    results = f"results/upgrade-{label}"
    shutil.rmtree(REPOSITORY / results, ignore_errors=True)
    snakemake = str(REPOSITORY / ".venv" / "bin" / "snakemake")
    config = ["--configfile", "config/demo.yaml", "--config", f"results={results}"]
    print(f"the demo, {label}:", flush=True)
    code = subprocess.call([snakemake, "all", *config])
    if code:
        print(f"the demo, {label}: exit code {code}")
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


def run_contract_tests() -> list[str]:
    """Return the contract tests that fail, by name."""
    report = REPOSITORY / "logs" / "contract.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    pytest = str(REPOSITORY / ".venv" / "bin" / "pytest")
    subprocess.call([pytest, "-q", "--disable-warnings", "tests/contract", f"--junitxml={report}"])
    if not report.exists():
        return ["The contract tests could not be run."]
    cases = ElementTree.parse(report).iter("testcase")
    return [
        f"{case.get('classname', '').rpartition('.')[2]}: {case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


def compare_runs(
    before: dict[tuple[str, ...], dict[str, str]], after: dict[tuple[str, ...], dict[str, str]]
) -> list[str]:
    """Return a line for each run of the demo whose result differs from before."""
    lines = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, {}), after.get(key, {})
        has_messages = any(run.get("messages_sent") not in (None, "", "0") for run in (old, new))
        compared = [name for name in COMPARED if not (has_messages and name in TIMED)]
        changed = [name for name in compared if old.get(name) != new.get(name)]
        texts = [f"{name} {shorten(old.get(name))} -> {shorten(new.get(name))}" for name in changed]
        if changed:
            lines.append(f"{' '.join(key)}: {', '.join(texts)}")
    return lines


def shorten(value: str | None) -> str:
    """Return a value, or its length if it is long."""
    if value is None:
        return "(none)"
    return value if len(value) <= 30 else f"({len(value)} characters)"


def summarize(
    before: dict[str, str],
    after: dict[str, str],
    changes: list[str],
    broken: list[str],
    runs: list[str],
) -> str:
    """Return the changes as text."""
    lines = ["", "Packages"]
    for name in [n for n in WATCHED if n in changes]:
        lines.append(f"  {name}: {before.get(name, '(none)')} -> {after.get(name, '(none)')}")
    lines.append(f"  {len(changes)} of {len(after)} packages have changed; see git diff envs")
    if "cooperbench" in changes:
        facts = [
            line
            for release in releases.between(
                before.get("cooperbench", "0"), after.get("cooperbench", "0")
            )
            for line in releases.describe(release)
        ]
        lines += ["Known changes of cooperbench (docs/upstream-versions.md)", *indent(facts)]
    lines += ["Failing contract tests (tests/contract)", *indent(broken)]
    lines += ["Runs of the demo with a different result", *indent(runs)]
    lines.append("To keep the upgrade, commit pyproject.toml and envs/. To undo:")
    lines.append("  git checkout pyproject.toml envs && make setup")
    return "\n".join(lines)


def indent(lines: list[str]) -> list[str]:
    """Return indented lines, or `none`."""
    return [f"  {line}" for line in lines] or ["  none"]


if __name__ == "__main__":
    sys.exit(main())
