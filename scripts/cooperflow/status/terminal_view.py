"""How the state of an experiment reads in a terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cooperflow.outcomes import judgement
from cooperflow.status import states
from cooperflow.status.states import ExperimentState, Status
from cooperflow.terminal import fit

# From this width on, in characters, all columns are shown.
WIDE = 116
BAR = 12
MOST_ACTIVE = 12
MOST_WRONG = 8


def view(now: Status, width: int) -> RenderableType:
    """Return all of it, the most important first; a narrow terminal gets fewer columns."""
    parts: list[RenderableType] = [_head(now), "", _experiments(now, width)]
    reasons: Counter[str] = Counter()
    for one in now.experiments:
        reasons.update(one.reasons)
    if reasons:
        told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(8))
        parts += ["", Text.assemble(("Reasons  ", "bold"), told)]
    if now.active:
        parts += ["", fit(_active(now), width, ["steps", "attempt", "for", "last call"])]
    parts += ["", *_sums(now)]
    if now.wrong:
        parts += ["", Text("Wrong now", style="bold red")]
        parts += [Text(f"  {line}") for line in now.wrong[:MOST_WRONG]]
        if len(now.wrong) > MOST_WRONG:
            parts.append(Text(f"  and {len(now.wrong) - MOST_WRONG} more"))
    return Group(*parts)


def _head(now: Status) -> Text:
    made = Text.assemble((str(now.root), "bold"), "  ")
    if now.at_work and now.holder:
        made.append(
            f"process {now.holder.get('pid')} on {now.holder.get('host')} is at work"
            f" since {now.holder.get('since')}"
        )
    else:
        made.append("nobody is at work", style="dim")
    if any(one.replay for one in now.experiments):
        made.append("  replay: recordings in the model's place", style="yellow")
    return made


def _experiments(now: Status, width: int) -> Table:
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False)
    table.add_column("run name", no_wrap=True)
    for head in ("done", *_if(wide, ""), "running", *_if(wide, "to grade", "waiting")):
        table.add_column(head, justify="right", no_wrap=True)
    for head in ("pass", "fail", "infra", "rate", "95 %", *_if(wide, "cost")):
        table.add_column(head, justify="right", no_wrap=True)
    for one in now.experiments:
        done = one.states.get(states.DONE, 0)
        low, high = one.interval
        table.add_row(
            f"{one.name} (replay)" if one.replay and "replay" not in one.name else one.name,
            f"{done}/{one.of}",
            *_if(wide, _bar(done, one.of)),
            str(one.states.get(states.RUNNING, 0)),
            *_if(wide, *(str(one.states.get(s, 0)) for s in (states.TO_GRADE, states.WAITING))),
            *(str(one.outcomes.get(name, 0)) for name in judgement.OUTCOMES),
            "–" if math.isnan(one.pass_rate) else f"{100 * one.pass_rate:.1f} %",
            "–" if math.isnan(low) else f"{100 * low:.0f}–{100 * high:.0f} %",
            *_if(wide, _cost(one)),
        )
    return fit(table, width, ["", "to grade", "waiting", "95 %", "cost", "rate", "running"])


def _if(wide: bool, *cells: Any) -> tuple[Any, ...]:
    return cells if wide else ()


def _bar(done: int, of: int) -> Text:
    full = BAR * done // of if of else 0
    return Text.assemble(("━" * full, "green"), ("─" * (BAR - full), "dim"))


def _cost(one: ExperimentState) -> str:
    return f"${one.cost:.2f}{'' if one.cost_complete else '+'}"


def _active(now: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    for head, justify in (("running", "left"), ("attempt", "right"), ("steps", "right")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for head in ("for", "last call"):
        table.add_column(head, justify="right")
    alive = sorted((a for a in now.active if not a.dead), key=lambda a: a.started)
    for one in alive[:MOST_ACTIVE]:
        table.add_row(
            one.run.key,
            str(one.attempt),
            str(one.steps),
            duration(now.now - one.started),
            f"{duration(now.now - one.last)} ago" if one.steps else "–",
        )
    if len(alive) > MOST_ACTIVE:
        table.add_row(f"and {len(alive) - MOST_ACTIVE} more")
    return table


def _sums(now: Status) -> Iterator[Text]:
    spent = sum(one.cost for one in now.experiments)
    known = [one.expected_cost for one in now.experiments]
    text = Text.assemble(("Cost     ", "bold"), f"${spent:.2f} so far")
    if None not in known and known:
        text.append(f", about ${sum(c or 0 for c in known):.2f} in the end")
    if any(one.replay for one in now.experiments):
        text.append(" (what such calls would have cost; a replay pays nothing)", style="dim")
    yield text
    if now.budget:
        yield Text.assemble(("Budget   ", "bold"), now.budget.removeprefix("budget: "))
    total = sum(one.of for one in now.experiments)
    done = sum(one.states.get(states.DONE, 0) for one in now.experiments)
    text = Text.assemble(("Runs     ", "bold"), f"{done} of {total} done")
    if now.seconds_left:
        text.append(f", about {duration(now.seconds_left)} left at this pace")
    yield text


def duration(seconds: float) -> str:
    """Return a time span as two of its units."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
