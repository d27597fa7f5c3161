"""Invariants that must hold after every fault; each check returns the violations as text."""

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

# Time after which nothing of an ended run may remain, seconds.
GRACE = 15
# Return violations that count even before the next session removes leftovers.
RUNNING = ("process", "results/.state")
# Tokens of the model, USD.
PRICE_IN, PRICE_OUT = 2.5e-6, 10e-6
# Columns that a fault may change: attempts, cost, times; and on a busy machine the number of
# messages of the demo's pair with a late message (demo/README.md).
FREE = (
    *("run_name", "model", "replay", "attempts", "started", "ended", "duration_s", "model_s"),
    *("waited_s", "eval_s", "input_tokens", "output_tokens", "cached_tokens", "cost_usd"),
    *("cache_write_tokens", "reasoning_tokens"),
    *("cost_complete", "cost_bound_usd", "messages_sent"),
)


def usage_errors(lab: Lab, skip: Sequence[str] = ()) -> list[str]:
    """runs.csv against the ledgers: to the token, or marked and bounded."""
    wrong: list[str] = []
    for model, server in lab.servers.items():
        if model in skip:
            continue
        ledger = server.ledger()
        for setting in sorted({str(entry["kind"]) for entry in ledger}):
            rows = [row for row in lab.rows() if (row["model"], row["setting"]) == (model, setting)]
            recorded = [entry for entry in ledger if entry["kind"] == setting]
            wrong += _compare_usage(f"{model}-{setting}", rows, recorded)
    return wrong


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
                f"{name}: the tables say {recorded} tokens, the ledger {requested}, "
                "and cost_complete is true"
            )
        if abs(cost - known) > 1e-5:
            yield f"{name}: the tables say ${known:.6f}, the ledger ${cost:.6f}"
        return
    bound = sum(float(row["cost_bound_usd"] or "nan") for row in rows)
    if recorded[0] > requested[0] or recorded[1] > requested[1]:
        yield f"{name}: the tables say {recorded} tokens, more than the ledger's {requested}"
    if not cost <= bound + 1e-5:
        yield f"{name}: the ledger's ${cost:.6f} is above the bound ${bound:.6f}"


def unanswered_calls_are_marked(lab: Lab) -> list[str]:
    """A run with a call whose usage is unknown states that its cost is incomplete."""
    logs = (atomic_io.read_lines(path) for path in lab.results.rglob(f"attempts/*/{layout.CALLS}"))
    unknown = sum(call.kind != usage.ANSWERED for log in logs for call in usage.calls(log))
    if unknown and all(row["cost_complete"] == "True" for row in lab.rows()):
        return [f"{unknown} calls were not answered, and cost_complete is true"]
    return []


def nothing_left(lab: Lab, others: Bystanders | None = None, is_cleaned: bool = True) -> list[str]:
    """No process, container, network, volume, temporary file or lock 15 s after the end.

    Args:
        is_cleaned: a session followed the last kill; before that, leftovers of killed processes
            themselves may lie, but nothing of them may run or hold a lock.
    """
    limit = time.monotonic() + GRACE
    while left := [text for text in _left(lab) if is_cleaned or text.startswith(RUNNING)]:
        if time.monotonic() > limit:
            break
        time.sleep(0.3)
    return left + (others.missing() if others else [])


def entries_below(folder: Path) -> Iterator[Path]:
    """Yield files and folders, without those that a process removes meanwhile, as rglob() does."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _left(lab: Lab) -> Iterator[str]:
    for pid, line in lab.processes():
        yield f"process {pid} is alive: {line[:100]}"
    chosen = f"label=cooperflow.results={lab.identity}"
    for kind in ("container", "network", "volume"):
        extra = ["-a"] if kind == "container" else []
        for found in lab.docker(kind, "ls", "-q", *extra, "--filter", chosen).split():
            yield f"{kind} {found[:12]} is there"
    for place in (lab.runtime, lab.temporary):
        for path in entries_below(place):
            if not path.is_dir() and not path.name.startswith("snakemake"):
                yield f"{path.relative_to(lab.folder)} is left"
            if path.is_dir() and path.name.startswith("run-"):
                yield f"{path.relative_to(lab.folder)}/ is left"
    if lab.results.is_dir():
        for path in entries_below(lab.results):
            if path.suffix == ".tmp":
                yield f"{path.relative_to(lab.clone)} is left"
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


def incomplete_results(lab: Lab) -> list[str]:
    """Every JSON and CSV that a reader can see can be read to its end."""
    wrong = []
    for path in entries_below(lab.results):
        parts = path.relative_to(lab.results).parts
        # Partial files of a killed upstream process stay with their attempt.
        if "logs" in parts or path.is_dir():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".csv":
                with path.open(newline="") as stream:
                    widths = {len(row) for row in csv.reader(stream)}
                if len(widths) != 1:
                    wrong.append(f"{path.relative_to(lab.clone)}: rows of widths {widths}")
        except ValueError as error:
            wrong.append(f"{path.relative_to(lab.clone)}: {error}")
    return wrong


def no_further_call(lab: Lab) -> list[str]:
    """A session on finished runs calls no model, and Snakemake prints that nothing is pending."""
    before = calls(lab.servers.values())
    again = lab.run()
    wrong = []
    if calls(lab.servers.values()) != before:
        wrong.append("a session on finished runs called the model")
    if again.returncode != 0 or "Nothing to be done" not in again.stdout:
        wrong.append(f"a session on finished runs had pending jobs: {again.stdout[-300:]}")
    return wrong


def calls(servers: Iterable[Server]) -> int:
    return sum(len(server.ledger()) for server in servers)


def same_tables(
    lab: Lab,
    control: Mapping[tuple[str, str, str], Mapping[str, str]],
    settings: Sequence[str] | None = None,
) -> list[str]:
    """Every row (of these settings) equals that of an undisturbed run.

    Attempts, cost and times may differ.
    """
    rows = [row for row in lab.rows() if settings is None or row["setting"] in settings]
    wrong = [problem for row in rows for problem in same_row(row, control)]
    for line in lab.summary():
        if settings is not None and line["setting"] not in settings:
            continue
        mine = [row for row in rows if row["run_name"] == line["run_name"]]
        for word in ("pass", "fail", "infra_error"):
            if int(line[word]) != sum(control[_key(row)]["outcome"] == word for row in mine):
                wrong.append(f"summary.csv: {line['run_name']}: {word} is {line[word]}")
    return wrong


def same_row(
    row: Mapping[str, str], control: Mapping[tuple[str, str, str], Mapping[str, str]]
) -> list[str]:
    """One row against that of the undisturbed run."""
    want = control[_key(row)]
    return [
        f"{_key(row)}: {column} is {value!r}, undisturbed {want[column]!r}"
        for column, value in row.items()
        if column not in FREE and want[column] != value
    ]


def _key(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["setting"], f"{row['repo']}/{row['task_id']}", row["features"]


def control_rows(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str, str], dict[str, str]]:
    """Index the rows of an undisturbed run."""
    return {_key(row): dict(row) for row in rows}


def key_is_secret(lab: Lab, key: str) -> list[str]:
    """No file that a session wrote contains the provider's key."""
    wrong = []
    # The servers' own files are the campaign's: it has them quote the key.
    ours = lab.folder / "servers"
    for path in [p for p in entries_below(lab.folder) if p.is_file() and ours not in p.parents]:
        try:
            if any(key.encode() in content for _, content in atomic_io.file_contents(path)):
                wrong.append(f"the key is in {path.relative_to(lab.folder)}")
        except (OSError, ValueError):
            continue
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if key.encode() in (entry / "cmdline").read_bytes():
                    wrong.append(f"the key is in the command line of {entry.name}")
            except OSError:
                continue
    return wrong


@dataclass
class Bystanders:
    """Foreign containers: of another workflow with a dead session process, and without a label."""

    lab: Lab
    names: tuple[str, ...]

    @classmethod
    def begin(cls, lab: Lab, image: str) -> Bystanders:
        suffix = lab.mark[MARKER][:8]
        foreign, plain = f"cflab-foreign-{suffix}", f"cflab-plain-{suffix}"
        labels = ["--label", "cooperflow.results=another", "--label", "cooperflow.run=x"]
        labels += ["--label", "cooperflow.owner=nowhere:1:0", "--label", "cooperflow.token=t"]
        for name, extra in ((foreign, labels), (plain, [])):
            lab.bystanders.append(name)  # the laboratory removes it, however the case ends
            lab.docker("run", "-d", "--name", name, *extra, "--entrypoint", "sleep", image, "3600")
        return cls(lab, (foreign, plain))

    def missing(self) -> list[str]:
        there = self.lab.docker("ps", "-a", "--format", "{{.Names}}").split()
        return [f"{name}, of others, is missing" for name in self.names if name not in there]
