"""The invariants that must hold after every fault; each check returns the violations as text."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process_groups import MARKER

from cooperflow import atomic_io, layout
from cooperflow.outcomes import usage

from .lab import Lab, Server

# Time after a run's end after which nothing of it may remain, seconds.
GRACE = 15
# Violations that count even before the next session removes leftovers.
RUNNING = ("process", "results/.state")
# Prices of the model, USD per token.
PRICE_IN, PRICE_OUT = 2.5e-6, 10e-6
# Columns that a fault may change: attempts, cost, times; on a busy machine also the number of
# messages of the demo's pair with a late message (demo/README.md).
FREE = (
    *("run_name", "model", "replay", "attempts", "started", "ended", "duration_s", "model_s"),
    *("waited_s", "eval_s", "input_tokens", "output_tokens", "cached_tokens", "cost_usd"),
    *("cache_write_tokens", "reasoning_tokens"),
    *("cost_complete", "cost_bound_usd", "messages_sent"),
)


def find_usage_errors(lab: Lab, skip: Sequence[str] = ()) -> list[str]:
    """Check runs.csv against the ledgers: usage is exact, or marked as incomplete and bounded."""
    violations: list[str] = []
    for model, server in lab.servers.items():
        if model in skip:
            continue
        ledger = server.ledger()
        for setting in sorted({str(entry["kind"]) for entry in ledger}):
            rows = [row for row in lab.rows() if (row["model"], row["setting"]) == (model, setting)]
            recorded = [entry for entry in ledger if entry["kind"] == setting]
            violations += _compare_usage(f"{model}-{setting}", rows, recorded)
    return violations


def _compare_usage(
    name: str, rows: Sequence[Mapping[str, str]], ledger: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    answered = [entry for entry in ledger if entry["answered"]]
    requested = [sum(int(e[key]) for e in answered) for key in ("input_tokens", "output_tokens")]
    recorded = [sum(int(row[key]) for row in rows) for key in ("input_tokens", "output_tokens")]
    billed = [sum(int(e[f"billed_{key}_tokens"]) for e in answered) for key in ("input", "output")]
    cost = billed[0] * PRICE_IN + billed[1] * PRICE_OUT
    known = sum(float(row["cost_usd"]) for row in rows)
    if all(row["cost_complete"] == "True" for row in rows):
        if recorded != requested:
            yield (
                f"{name}: the tables have {recorded} tokens, the ledger {requested}, "
                "and cost_complete is true"
            )
        if abs(cost - known) > 1e-5:
            yield f"{name}: the tables have ${known:.6f}, the ledger ${cost:.6f}"
        return
    bound = sum(float(row["cost_bound_usd"] or "nan") for row in rows)
    if recorded[0] > requested[0] or recorded[1] > requested[1]:
        yield f"{name}: the tables have {recorded} tokens, more than the ledger's {requested}"
    if not cost <= bound + 1e-5:
        yield f"{name}: the ledger's ${cost:.6f} is above the bound ${bound:.6f}"


def find_unmarked_calls(lab: Lab) -> list[str]:
    """Check that the cost of a run with a call of unknown usage is marked as incomplete."""
    logs = (atomic_io.read_lines(path) for path in lab.results.rglob(f"attempts/*/{layout.CALLS}"))
    unknown = sum(call.kind != usage.ANSWERED for log in logs for call in usage.calls(log))
    if unknown and all(row["cost_complete"] == "True" for row in lab.rows()):
        return [f"{unknown} calls were not answered, and cost_complete is true"]
    return []


def find_leftovers(
    lab: Lab, bystanders: Bystanders | None = None, is_cleaned: bool = True
) -> list[str]:
    """Check that no process, container, network, volume, temporary file or lock remains.

    Args:
        is_cleaned: a session followed the last kill. Before that, files of killed processes may
            remain, but no process and no lock.
    """
    limit = time.monotonic() + GRACE
    while left := [text for text in _leftovers(lab) if is_cleaned or text.startswith(RUNNING)]:
        if time.monotonic() > limit:
            break
        time.sleep(0.3)
    return left + (bystanders.missing() if bystanders else [])


def entries_below(folder: Path) -> Iterator[Path]:
    """Yield files and folders like rglob(), but tolerate their removal by a process."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _leftovers(lab: Lab) -> Iterator[str]:
    for pid, line in lab.processes():
        yield f"process {pid} is alive: {line[:100]}"
    chosen = f"label=cooperflow.results={lab.identity}"
    for kind in ("container", "network", "volume"):
        extra = ["-a"] if kind == "container" else []
        for found in lab.docker(kind, "ls", "-q", *extra, "--filter", chosen).split():
            yield f"{kind} {found[:12]} remains"
    for place in (lab.runtime, lab.temporary):
        for path in entries_below(place):
            if not path.is_dir() and not path.name.startswith("snakemake"):
                yield f"{path.relative_to(lab.folder)} remains"
            if path.is_dir() and path.name.startswith("run-"):
                yield f"{path.relative_to(lab.folder)}/ remains"
    if lab.results.is_dir():
        for path in entries_below(lab.results):
            if path.suffix == ".tmp":
                yield f"{path.relative_to(lab.clone)} remains"
        yield from _locks(lab)


def _locks(lab: Lab) -> Iterator[str]:
    state = lab.results / ".state"
    for path in [state / "lock", *(state / "claims").glob("*")]:
        if path.exists():
            with path.open("a") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    yield f"{path.relative_to(lab.clone)} is locked"


def find_incomplete_results(lab: Lab) -> list[str]:
    """Check that every visible JSON and CSV file is complete."""
    violations = []
    for path in entries_below(lab.results):
        parts = path.relative_to(lab.results).parts
        # Partial files of a killed upstream process stay in their attempt.
        if "logs" in parts or path.is_dir():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".csv":
                with path.open(newline="") as stream:
                    widths = {len(row) for row in csv.reader(stream)}
                if len(widths) != 1:
                    violations.append(f"{path.relative_to(lab.clone)}: rows of widths {widths}")
        except ValueError as error:
            violations.append(f"{path.relative_to(lab.clone)}: {error}")
    return violations


def find_further_calls(lab: Lab) -> list[str]:
    """Check that a session on finished runs calls no model and has no pending jobs."""
    before = calls(lab.servers.values())
    again = lab.run()
    violations = []
    if calls(lab.servers.values()) != before:
        violations.append("a session on finished runs called the model")
    if again.returncode != 0 or "Nothing to be done" not in again.stdout:
        violations.append(f"a session on finished runs had pending jobs: {again.stdout[-300:]}")
    return violations


def calls(servers: Iterable[Server]) -> int:
    return sum(len(server.ledger()) for server in servers)


def compare_tables(
    lab: Lab,
    control: Mapping[tuple[str, str, str], Mapping[str, str]],
    settings: Sequence[str] | None = None,
) -> list[str]:
    """Check that every row (of these settings) equals the row of an undisturbed run.

    Attempts, cost and times may differ.
    """
    rows = [row for row in lab.rows() if settings is None or row["setting"] in settings]
    violations = [problem for row in rows for problem in compare_row(row, control)]
    for line in lab.summary():
        if settings is not None and line["setting"] not in settings:
            continue
        rows_of_run = [row for row in rows if row["run_name"] == line["run_name"]]
        for word in ("pass", "fail", "infra_error"):
            if int(line[word]) != sum(control[_key(row)]["outcome"] == word for row in rows_of_run):
                violations.append(f"summary.csv: {line['run_name']}: {word} is {line[word]}")
    return violations


def compare_row(
    row: Mapping[str, str], control: Mapping[tuple[str, str, str], Mapping[str, str]]
) -> list[str]:
    """Compare one row with the row of the undisturbed run."""
    expected = control[_key(row)]
    return [
        f"{_key(row)}: {column} is {value!r}, undisturbed {expected[column]!r}"
        for column, value in row.items()
        if column not in FREE and expected[column] != value
    ]


def _key(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["setting"], f"{row['repo']}/{row['task_id']}", row["features"]


def control_rows(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return the rows of an undisturbed run by their keys."""
    return {_key(row): dict(row) for row in rows}


def find_key(lab: Lab, key: str) -> list[str]:
    """Check that no file that a session wrote contains the provider's key."""
    violations = []
    # Except the files of the servers, which the campaign makes quote the key.
    server_folder = lab.folder / "servers"
    for path in [
        p for p in entries_below(lab.folder) if p.is_file() and server_folder not in p.parents
    ]:
        try:
            if any(key.encode() in content for _, content in atomic_io.file_contents(path)):
                violations.append(f"the key is in {path.relative_to(lab.folder)}")
        except (OSError, ValueError):
            continue
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if key.encode() in (entry / "cmdline").read_bytes():
                    violations.append(f"the key is in the command line of {entry.name}")
            except OSError:
                continue
    return violations


@dataclass
class Bystanders:
    """Foreign containers: without labels, and of another workflow whose session has ended."""

    lab: Lab
    names: tuple[str, ...]

    @classmethod
    def start(cls, lab: Lab, image: str) -> Bystanders:
        suffix = lab.mark[MARKER][:8]
        foreign, plain = f"cflab-foreign-{suffix}", f"cflab-plain-{suffix}"
        labels = ["--label", "cooperflow.results=another", "--label", "cooperflow.run=x"]
        labels += ["--label", "cooperflow.owner=nowhere:1:0", "--label", "cooperflow.token=t"]
        for name, extra in ((foreign, labels), (plain, [])):
            lab.bystanders.append(name)  # the laboratory removes it when the case ends
            lab.docker("run", "-d", "--name", name, *extra, "--entrypoint", "sleep", image, "3600")
        return cls(lab, (foreign, plain))

    def missing(self) -> list[str]:
        there = self.lab.docker("ps", "-a", "--format", "{{.Names}}").split()
        return [
            f"the foreign container {name} is missing" for name in self.names if name not in there
        ]
