"""Show the progress of an experiment, read from its files, with or without a running session."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cooperflow import formats
from cooperflow.formats import fit_table
from cooperflow.jobs import entry_points
from cooperflow.outcomes import judgement
from cooperflow.session import progress
from cooperflow.session.progress import ExperimentState, Status

# Reading thousands of runs takes time: at most a tenth of the time is spent on it.
PAUSE_FACTOR = 10
# All columns are shown from this width, in characters.
WIDE = 116
BAR = 12
MAX_ACTIVE = 12
MAX_PROBLEMS = 8


def main() -> int:
    parser = entry_points.config_parser(__doc__)
    parser.add_argument("--watch", action="store_true", help="repeat until Ctrl-C")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two readings")
    arguments = parser.parse_args()
    reader = progress.Reader.open(entry_points.load_plan(arguments.configfile))
    console = Console()
    if not arguments.watch:
        console.print(render(reader.status(), console.width), highlight=False)
        reader.save()
        return 0
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=False) as live:
        while True:
            start = time.monotonic()
            live.update(render(reader.status(), console.width), refresh=True)
            reader.save()
            duration = time.monotonic() - start
            time.sleep(max(arguments.every, PAUSE_FACTOR * duration))
    return 0


def render(status: Status, width: int) -> RenderableType:
    """Return the displayed status, the most important parts first, with columns that fit."""
    parts: list[RenderableType] = [_header(status), "", _experiment_table(status, width)]
    reasons: Counter[str] = Counter()
    for experiment in status.experiments:
        reasons.update(experiment.reasons)
    if status.findings:
        parts += ["", Text("Findings", style="bold"), *map(Text, status.findings)]
    if reasons:
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(8))
        parts += ["", Text.assemble(("Reasons  ", "bold"), counts)]
    if status.active:
        table = _active_table(status)
        parts += ["", fit_table(table, width, ["steps", "attempt", "for", "last call"])]
    parts += ["", *_totals(status)]
    if status.problems:
        parts += ["", Text("Problems", style="bold red")]
        parts += [Text(f"  {line}") for line in status.problems[:MAX_PROBLEMS]]
        if len(status.problems) > MAX_PROBLEMS:
            parts.append(Text(f"  and {len(status.problems) - MAX_PROBLEMS} more"))
    return Group(*parts)


def _header(status: Status) -> Text:
    text = Text.assemble((str(status.root), "bold"), "  ")
    if status.is_held and status.holder:
        text.append(
            f"session: process {status.holder.get('pid')} on {status.holder.get('host')}"
            f" since {status.holder.get('since')}"
        )
    else:
        text.append("no session is running", style="dim")
    if _has_replay(status):
        text.append("  replay: recorded answers instead of a model", style="yellow")
    return text


def _has_replay(status: Status) -> bool:
    return any(experiment.replay for experiment in status.experiments)


def _experiment_table(status: Status, width: int) -> Table:
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False)
    table.add_column("run name", no_wrap=True)
    for head in ("done", *_if(wide, ""), "running", *_if(wide, "to evaluate", "waiting")):
        table.add_column(head, justify="right", no_wrap=True)
    for head in ("pass", "fail", "infra", "rate", "95 %", *_if(wide, "cost")):
        table.add_column(head, justify="right", no_wrap=True)
    for experiment in status.experiments:
        table.add_row(*_experiment_row(experiment, wide))
    return fit_table(
        table, width, ["", "to evaluate", "waiting", "95 %", "cost", "rate", "running"]
    )


def _experiment_row(experiment: ExperimentState, wide: bool) -> Iterator[Any]:
    count = experiment.states
    done = count.get(progress.DONE, 0)
    low, high = experiment.interval
    name = experiment.name
    yield f"{name} (replay)" if experiment.replay and "replay" not in name else name
    yield f"{done}/{experiment.runs}"
    yield from _if(wide, _bar(done, experiment.runs))
    yield str(count.get(progress.RUNNING, 0))
    yield from _if(wide, *(str(count.get(s, 0)) for s in (progress.TO_EVALUATE, progress.WAITING)))
    yield from (str(experiment.outcomes.get(outcome, 0)) for outcome in judgement.OUTCOMES)
    rate = experiment.pass_rate
    yield formats.percent(rate)
    yield "–" if math.isnan(low) else f"{100 * low:.0f}–{100 * high:.0f} %"
    yield from _if(wide, f"${experiment.cost:.2f}{'' if experiment.cost_complete else '+'}")


def _if(wide: bool, *cells: Any) -> tuple[Any, ...]:
    return cells if wide else ()


def _bar(done: int, total: int) -> Text:
    full = BAR * done // total if total else 0
    return Text.assemble(("━" * full, "green"), ("─" * (BAR - full), "dim"))


def _active_table(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("running")
    for head in ("attempt", "steps", "for", "last call"):
        table.add_column(head, justify="right")
    alive = sorted((a for a in status.active if not a.is_dead), key=lambda a: a.started)
    for attempt in alive[:MAX_ACTIVE]:
        table.add_row(
            attempt.run.key,
            str(attempt.attempt),
            str(attempt.steps),
            _since(status, attempt.started),
            f"{_since(status, attempt.last)} ago" if attempt.steps else "–",
        )
    if len(alive) > MAX_ACTIVE:
        table.add_row(f"and {len(alive) - MAX_ACTIVE} more")
    return table


def _since(status: Status, moment: float) -> str:
    """Return the time since a moment, which may be in the future by another machine's clock."""
    return formats.seconds(max(status.now - moment, 0.0), 0)


def _totals(status: Status) -> Iterator[Text]:
    cost = sum(experiment.cost for experiment in status.experiments)
    expected = [experiment.expected_cost for experiment in status.experiments]
    text = Text.assemble(("Cost     ", "bold"), f"${cost:.2f} so far")
    if expected and None not in expected:
        text.append(f", about ${sum(value or 0 for value in expected):.2f} in the end")
    if _has_replay(status):
        text.append(" (the price of the recorded calls; a replay is free)", style="dim")
    yield text
    if status.budget:
        yield Text.assemble(("Budget   ", "bold"), status.budget.removeprefix("budget: "))
    total = sum(experiment.runs for experiment in status.experiments)
    done = sum(experiment.states.get(progress.DONE, 0) for experiment in status.experiments)
    text = Text.assemble(("Runs     ", "bold"), f"{done} of {total} done")
    if status.seconds_left:
        text.append(f", about {formats.seconds(status.seconds_left, 0)} left at this pace")
    yield text
    own = status.own_features
    if own.total:
        text = Text.assemble(("Own      ", "bold"), f"{own.done} of {own.total} coop runs have ")
        text.append(f"each patch evaluated alone, {own.ready} pending")
        if own.total > own.done + own.ready:
            text.append(f", {own.total - own.done - own.ready} after their run")
        yield text


if __name__ == "__main__":
    entry_points.run_command(main)
