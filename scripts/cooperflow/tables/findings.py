"""Findings of an experiment: sentences on its figures, and the runs to inspect first.

The wording depends on the evidence. A sentence states a direction only if its interval (Newcombe's,
and the interval clustered by task if there are two tasks) excludes 0 and McNemar's exact test has p
< 0.05. Otherwise it states "inconclusive" and the smallest difference that this number of pairs
detects with a power of 80 %. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cooperflow import formats
from cooperflow.analysis.losses import AGENT, INTEGRATION, MERGE, UNKNOWN
from cooperflow.experiment.plan import Plan
from cooperflow.outcomes import judgement
from cooperflow.tables import breakdowns, comparison
from cooperflow.tables.comparison import SIGNIFICANT, Difference
from cooperflow.upstream.result_files import CONFLICTS

REPLAY = (
    "Replay: recorded answers instead of a model. The figures are not evidence about any model."
)
ADOPTED = "Some runs were made by plain cooperbench and adopted, without a record of their calls."


@dataclass(frozen=True)
class Roles:
    """The settings in the sentences, and the number of pairs in the plan."""

    solo: str | None
    messages: str | None
    silent: str | None
    pairs: int


@dataclass(frozen=True)
class Count:
    """Passes and evaluated pairs of an experiment, and its runs without a verdict."""

    passed: int
    evaluated: int
    infra: int = 0
    unfinished: int = 0
    lead_alone: int = 0  # passes in which the patches conflict and agent 1's patch alone passes


@dataclass(frozen=True)
class Losses:
    """Failures of a setting, by the column `loss`."""

    failures: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Figures:
    """The figures of one model for the sentences; None if a setting is missing."""

    model: str
    solo: Count | None = None
    messages: Count | None = None
    silent: Count | None = None
    messages_gap: Difference | None = None  # with messages, less solo
    silent_gap: Difference | None = None  # without messages, less solo
    messages_effect: Difference | None = None  # pass rate with messages, less without
    conflict_effect: Difference | None = None  # conflict rate with messages, less without
    losses: Losses | None = None  # with messages
    silent_losses: Losses | None = None  # without messages
    repeats: int = 1
    replay: bool = False
    adopted: bool = False


def roles(plan: Plan) -> Roles:
    """Return the first setting of each role: one agent, two with messages, two without messages."""
    coop = [setting for setting in plan.settings if setting.mode == "coop"]
    return Roles(
        next((setting.name for setting in plan.settings if setting.mode == "solo"), None),
        next((setting.name for setting in coop if setting.messaging), None),
        next((setting.name for setting in coop if not setting.messaging), None),
        len(plan.pairs),
    )


def describe_plan(
    plan: Plan,
    runs: pd.DataFrame,
    passes: pd.DataFrame | None = None,
    conflicts: pd.DataFrame | None = None,
) -> list[str]:
    """Return the sentences about a plan's runs, model by model.

    Args:
        passes: comparison.csv; None: compute it from the runs.
        conflicts: conflict_comparison.csv; None: compute it from the runs.
    """
    return report(figures(runs, roles(plan), passes, conflicts))


def figures(
    runs: pd.DataFrame,
    parts: Roles,
    passes: pd.DataFrame | None = None,
    conflicts: pd.DataFrame | None = None,
) -> list[Figures]:
    """Return the figures of each model, from the first repeat of each setting."""
    passes = comparison.table(runs) if passes is None else passes
    conflicts = breakdowns.conflict_comparison(runs) if conflicts is None else conflicts
    return [
        _figures(str(model), group, parts, passes, conflicts)
        for model, group in runs.groupby("model", sort=False)
    ]


def _figures(
    model: str, runs: pd.DataFrame, parts: Roles, passes: pd.DataFrame, conflicts: pd.DataFrame
) -> Figures:
    first = runs[runs["repeat"] == 1]
    solo, messages, silent = (
        first[first["setting"] == name] for name in (parts.solo, parts.messages, parts.silent)
    )
    return Figures(
        model=model,
        solo=_count(solo, parts.pairs),
        messages=_count(messages, parts.pairs),
        silent=_count(silent, parts.pairs),
        messages_gap=_difference(passes, messages, solo),
        silent_gap=_difference(passes, silent, solo),
        messages_effect=_difference(passes, messages, silent),
        conflict_effect=_difference(conflicts, messages, silent),
        losses=_losses(messages),
        silent_losses=_losses(silent),
        repeats=int(runs["repeat"].max()),
        replay=bool(runs["replay"].any()),
        adopted=bool(runs["adopted"].any()),
    )


def _count(runs: pd.DataFrame, pairs: int) -> Count | None:
    if runs.empty:
        return None
    counts = {outcome: int((runs["outcome"] == outcome).sum()) for outcome in judgement.OUTCOMES}
    passed, infra = counts[judgement.PASS], counts[judgement.INFRA_ERROR]
    evaluated = passed + counts[judgement.FAIL]
    caveats = runs.loc[runs["outcome"] == judgement.PASS, "caveat"].fillna("").str.split(";")
    lead_alone = sum(judgement.LEAD_ALONE in names for names in caveats)
    return Count(passed, evaluated, infra, max(pairs - evaluated - infra, 0), lead_alone)


def _difference(
    table: pd.DataFrame, second: pd.DataFrame, first: pd.DataFrame
) -> Difference | None:
    """Return the paired difference from a table of comparisons, None if a side is missing."""
    if second.empty or first.empty:
        return None
    run_names = second["run_name"].iloc[0], first["run_name"].iloc[0]
    for row in table.to_dict("records"):
        names = row["a"], row["b"]
        if names == run_names:
            return Difference.of_row(row)
        if names[::-1] == run_names:
            return Difference.of_row(row).reversed()
    return None


def _losses(runs: pd.DataFrame) -> Losses | None:
    """Return the losses of failed runs, None if the table lacks the column `loss`."""
    if "loss" not in runs:
        return None
    failed = runs[runs["outcome"] == judgement.FAIL]
    counts = failed["loss"].fillna("").replace("", UNKNOWN).value_counts()
    if failed.empty or set(counts.index) == {UNKNOWN}:
        return None
    return Losses(len(failed), {str(name): int(n) for name, n in counts.items()})


def report(models: Sequence[Figures]) -> list[str]:
    """Return the sentences, each with the model's name if there are several models."""
    lines = []
    if any(model.replay for model in models):
        lines.append(REPLAY)
    if any(model.adopted for model in models):
        lines.append(ADOPTED)
    for model in models:
        name = f"{model.model}: " if len(models) > 1 else ""
        lines += [f"{name}{sentence}" for sentence in sentences(model)]
    return lines


def sentences(model: Figures) -> list[str]:
    """Return the sentences about one model, without those that lack figures."""
    return [
        *_solo(model.solo),
        *_together("With messages two agents", model.messages, model.messages_gap, model.solo),
        *_together(
            "Without messages they" if model.messages else "Without messages two agents",
            model.silent,
            model.silent_gap,
            model.solo,
        ),
        *_effect("pass rate", model.messages_effect),
        *_lost(model.losses, "with messages"),
        *_lost(model.silent_losses, "without messages"),
        *_effect("conflict rate", model.conflict_effect),
        *_missing(model),
    ]


def _solo(solo: Count | None) -> list[str]:
    if solo is None:
        return []
    if not solo.evaluated:
        return ["No solo run has been evaluated yet."]
    return [f"Solo solves {solo.passed} of {_pairs(solo.evaluated)}."]


def _together(
    subject: str, count: Count | None, gap: Difference | None, solo: Count | None
) -> list[str]:
    """Return sentences on two agents' pass rate and its difference from one agent's."""
    if count is None:
        return []
    if not count.evaluated:
        return [f"{subject} have no evaluated run yet."]
    text = f"{subject} solve {count.passed} of {count.evaluated}"
    if count.lead_alone:
        text += f", {count.lead_alone} of them only by agent 1's patch ({judgement.LEAD_ALONE})"
    if gap is None or solo is None:
        return [f"{text}."]
    if not gap.pairs:
        return [f"{text}; no pair is evaluated in both settings yet, so the difference is unknown."]
    sides = {count.evaluated, solo.evaluated}
    where = "" if sides == {gap.pairs} else f" over {_pairs(gap.pairs)} evaluated in both"
    if gap.is_established:
        word = "fewer" if gap.value < 0 else "more"
        detail = f"difference{where} {_points(gap.value)} points, {_interval(gap)}"
        return [f"{text}: {word} than one agent ({detail})."]
    return [
        f"{text}. The difference from one agent{where} is inconclusive: "
        f"{_points(gap.value)} points ({_interval(gap)}; {detectable(gap)})."
    ]


def _effect(rate: str, effect: Difference | None) -> list[str]:
    """Return a sentence on the effect of messages on a rate."""
    if effect is None or not effect.pairs:
        return []
    if effect.is_established:
        word = "raise" if effect.value > 0 else "lower"
        size = _points(abs(effect.value)).removeprefix("+")
        return [f"Messages {word} the {rate} by {size} points ({_interval(effect)})."]
    return [
        f"The effect of messages on the {rate} is inconclusive: {_points(effect.value)} points "
        f"({_interval(effect)}; {detectable(effect)})."
    ]


def _lost(lost: Losses | None, where: str) -> list[str]:
    if lost is None:
        return []
    counts = {name: lost.counts.get(name, 0) for name in (MERGE, INTEGRATION, AGENT, UNKNOWN)}
    verb = "is" if counts[MERGE] == 1 else "are"
    number = counts[MERGE] or "none"
    text = f"{number} {verb} lost in the merge although both features work alone"
    verb_phrase = (
        "merges cleanly but fails" if counts[INTEGRATION] == 1 else "merge cleanly but fail"
    )
    rest = [
        f"{counts[INTEGRATION]} {verb_phrase} together" if counts[INTEGRATION] else "",
        f"in {counts[AGENT]} an agent's own feature fails" if counts[AGENT] else "",
        f"for {counts[UNKNOWN]} the loss is unknown" if counts[UNKNOWN] else "",
    ]
    total = f"the {lost.failures} failures" if lost.failures > 1 else "1 failure"
    return [f"Of {total} {where}, {'; '.join([text, *filter(None, rest)])}."]


def _missing(model: Figures) -> list[str]:
    """Return sentences on the runs that the figures exclude, and on their possible effect."""
    counts = [count for count in (model.solo, model.messages, model.silent) if count]
    infra, unfinished = sum(c.infra for c in counts), sum(c.unfinished for c in counts)
    parts = [
        f"{infra} infrastructure error{'' if infra == 1 else 's'}" if infra else "",
        f"{unfinished} run{'' if unfinished == 1 else 's'} without an outcome"
        if unfinished
        else "",
    ]
    lines = []
    if any(parts):
        lines.append(f"Left out: {' and '.join(filter(None, parts))}.")
    gap = model.messages_gap or model.silent_gap
    if gap is not None and gap.excluded and gap.pairs and not math.isnan(gap.bound_low):
        lines.append(
            f"Whatever the outcomes of the {_pairs(gap.excluded)} with infrastructure errors, the "
            f"difference from one agent would be between {_points(gap.bound_low)} and "
            f"{_points(gap.bound_high)} points."
        )
    if model.repeats > 1:
        lines.append(f"All sentences are about the first of {model.repeats} repeats.")
    return lines


def _interval(difference: Difference) -> str:
    """Return the interval and p, with the clustered interval if only that includes 0."""
    text = f"95 % interval {_points(difference.low)} to {_points(difference.high)}"
    low, high = difference.cluster_low, difference.cluster_high
    plain_excludes = difference.low > 0 or difference.high < 0
    if math.isnan(low):
        text += ", all pairs of one task"
    elif plain_excludes and low <= 0 <= high:
        text += f", clustered by task {_points(low)} to {_points(high)}"
    p = formats.probability(difference.p)
    return f"{text}, p {p}" if p.startswith("<") else f"{text}, p = {p}"


def detectable(difference: Difference) -> str:
    """Return the smallest difference that the number of pairs can detect, as text."""
    pairs = _pairs(difference.pairs)
    verb = "is" if difference.pairs == 1 else "are"
    # With fewer pairs the exact test cannot have a p below the limit.
    if math.isnan(difference.detectable) or 0.5 ** (difference.pairs - 1) >= SIGNIFICANT:
        return f"{pairs} {verb} too few to detect any difference"
    size = _points(difference.detectable).removeprefix("+")
    return f"{pairs} {verb} enough to detect {size} points or more"


def _pairs(count: int) -> str:
    return f"{count:,} pair{'' if count == 1 else 's'}"


def _points(value: Any) -> str:
    """Return percentage points as a signed integer, with one decimal below 1."""
    number = 100 * float(value)
    digits = 0 if abs(number) >= 1 else 1
    text = f"{number:+.{digits}f}"
    return "0" if float(text) == 0 else text.replace("-", formats.MINUS)


@dataclass(frozen=True)
class Notable:
    """A run, and the reason to inspect it."""

    row: dict[Any, Any]  # row of runs.csv
    line: str

    @property
    def name(self) -> str:
        """The run's experiment and pair, as text."""
        row = self.row
        return f"{row['run_name']}, {row['repo']} {row['task_id']}, features {row['features']}"


def notable_runs(plan: Plan, runs: pd.DataFrame) -> list[Notable]:
    """Return the runs of a plan to inspect first."""
    messaging_settings = (
        setting for setting in plan.settings if setting.mode == "coop" and setting.messaging
    )
    return choose_notable(runs, frozenset(setting.name for setting in messaging_settings))


def choose_notable(runs: pd.DataFrame, messaging: frozenset[str]) -> list[Notable]:
    """Return at most one run for each rule, and no run twice.

    Args:
        messaging: settings in which agents can send messages.
    """
    notable: list[Notable] = []
    chosen: set[Any] = set()
    for rule in (_costly_fail, _lost_in_merge, _talked_and_conflicts, _silent_run, _doubtful_pass):
        table, line = rule(runs[~runs.index.isin(chosen)], messaging)
        if table.empty:
            continue
        chosen.add(table.index[0])
        row = table.iloc[0].to_dict()
        notable.append(Notable(row, line(row, len(table))))
    return notable


Choice = tuple[pd.DataFrame, Callable[[dict[Any, Any], int], str]]


def _costly_fail(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """Return the most expensive fail."""
    failed = runs[(runs["outcome"] == judgement.FAIL) & (runs["cost_usd"] > 0)]
    return (
        _sorted(failed, cost_usd=False),
        lambda row, n: (
            f"The most expensive fail: {formats.usd(row['cost_usd'])}, {row['steps']} steps, "
            f"{row['reason'] or 'no reason'}."
        ),
    )


def _lost_in_merge(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """Return a run whose own features pass alone but conflict, with the smallest patches."""
    lost = runs[runs["loss"] == MERGE] if "loss" in runs else runs.iloc[:0]
    return (
        _sorted(lost, patch_lines=True),
        lambda row, n: (
            f"Both features work alone, but the patches conflict{_one_of(n, 'such runs')}."
        ),
    )


def _talked_and_conflicts(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """Return the conflict with the most messages."""
    conflicts = runs[(runs["merge_status"] == CONFLICTS) & (runs["messages_sent"] > 0)]
    return (
        _sorted(conflicts, messages_sent=False),
        lambda row, n: (
            f"{_messages(row['messages_sent'])}, and still a merge conflict"
            f"{_one_of(n, 'conflicts after messages')}."
        ),
    )


def _silent_run(runs: pd.DataFrame, messaging: frozenset[str]) -> Choice:
    """Return a run without messages although they were possible; fails first, then the longest."""
    evaluated = runs["outcome"].isin(judgement.GRADED)
    silent = runs[evaluated & runs["setting"].isin(messaging) & (runs["messages_sent"] == 0)]
    silent = silent.assign(_passed=silent["outcome"] == judgement.PASS)
    return (
        _sorted(silent, _passed=True, steps=False),
        lambda row, n: (
            f"No message at all, although the agents could write{_one_of(n, 'such runs')}."
        ),
    )


def _doubtful_pass(runs: pd.DataFrame, _: frozenset[str]) -> Choice:
    """Return a pass with a caveat that puts it in doubt."""
    passed = runs[runs["outcome"] == judgement.PASS]
    doubtful = passed[~passed["caveat"].map(judgement.is_strict).astype(bool)]
    return (
        doubtful,
        lambda row, n: (
            f"A pass with the caveat {row['caveat'].replace(';', ', ')}{_one_of(n, 'such passes')}."
        ),
    )


def _sorted(table: pd.DataFrame, **columns: bool) -> pd.DataFrame:
    """Sort by columns (True: ascending); ties keep their order."""
    return table.sort_values(list(columns), ascending=list(columns.values()), kind="stable")


def _one_of(count: int, noun: str) -> str:
    return f" (1 of {count} {noun})" if count > 1 else ""


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
