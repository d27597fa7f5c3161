"""What the runs in a results folder have cost so far, and what those that are running will add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout
from cooperflow.layout import Results, RunFolder
from cooperflow.outcomes import forecast, judgement, publication, usage
from cooperflow.processes import Process


@dataclass(frozen=True)
class Spending:
    """Costs in USD of the paid runs of a results folder, whatever the config now selects."""

    known: float = 0.0  # cost of all calls whose cost is known
    open: float = 0.0  # upper bound of the calls without an answer: in flight, or cut off
    running: tuple[tuple[str, float], ...] = ()  # run name, cost so far of each running attempt
    finished: tuple[tuple[str, float], ...] = ()  # run name, cost of each finished run

    def costs(self, run_name: str) -> list[float]:
        """Return the costs of the finished runs of an experiment."""
        return [cost for name, cost in self.finished if name == run_name]

    def expected(self, assumed: Mapping[str, float | None]) -> float:
        """Return what the running attempts are expected to cost beyond what they have cost."""
        total = 0.0
        for name, spent in self.running:
            mean = forecast.mean(assumed.get(name), self.costs(name))
            total += max((mean or 0.0) - spent, 0.0)
        return total


def read(results: Results) -> Spending:
    """Return the spending of all runs, finished, running and interrupted ones."""
    known, unanswered = 0.0, 0.0
    running, finished = [], []
    for name, folder in _paid(results):
        record = (atomic_io.read_json(folder.result) or {}).get("workflow") or {}
        if record.get("replay") or record.get("adopted"):
            continue
        if record:
            cost, bound = float(record.get("cost_usd") or 0.0), record.get("cost_bound_usd")
            if record.get("outcome") != judgement.INFRA_ERROR:
                finished.append((name, cost))
        else:
            books, latest = publication.books(folder), _running(folder)
            cost, bound = books.cost_usd, books.cost_bound_usd
            if latest is not None:
                calls = usage.total(publication.attempt_calls(latest))
                running.append((name, calls.cost_bound_usd or calls.cost_usd))
        known += cost
        unanswered += max((cost if bound is None else float(bound)) - cost, 0.0)
    return Spending(known, unanswered, tuple(running), tuple(finished))


def _paid(results: Results) -> Iterator[tuple[str, RunFolder]]:
    for experiment in _folders(results.runs):
        document: Any = atomic_io.read_json(experiment / "experiment.json") or {}
        if document.get("replay") or document.get("adopted"):
            continue
        for folder in sorted(experiment.glob("*/*_task/*/f*_f*")):
            yield experiment.name, RunFolder(folder)


def _folders(root: Path) -> Sequence[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _running(folder: RunFolder) -> Path | None:
    """Return the folder of the run's attempt that is running now, if one is."""
    for number in folder.attempt_numbers()[-1:]:
        place = folder.attempt(number)
        record = atomic_io.read_json(place / layout.ATTEMPT) or {}
        process = Process.parse(str(record.get("process") or ""))
        if record.get("state") == "running" and process is not None and process.is_alive():
            return place
    return None
