"""Every figure of the analyses on 100 pairs by three settings by two models, from the facts.

The files of 600 runs are written from facts (tests/constructed.py). The package reads the files;
the expected figures are computed here from the facts, in plain Python.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import constructed
import pandas as pd
import plain_statistics as plain
import pytest
from constructed import Truth

from cooperflow.analysis import communication
from cooperflow.tables import breakdowns, communication_tables, comparison, findings, run_table

Task = tuple[str, int]
COOP = ("coop-comm", "coop-nocomm")
MODELS = ("command-a", "model-2")


@dataclass(frozen=True)
class Experiment:
    """The facts and the tables."""

    truths: list[Truth]
    runs: pd.DataFrame
    talk: communication_tables.Tables
    small: dict[str, pd.DataFrame]
    comparison: pd.DataFrame
    findings: list[findings.Figures]

    def of(self, model: str, setting: str) -> list[Truth]:
        return [t for t in self.truths if (t.model, t.setting) == (model, setting)]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    plan, truths = constructed.make(tmp_path_factory.mktemp("constructed") / "results", models=2)
    runs, _ = run_table.collect(plan)
    talk = communication_tables.collect(plan, runs)
    small = {**breakdowns.tables(runs), **communication_tables.tables_by_experiment(talk.runs)}
    figures = findings.figures(runs, findings.roles(plan))
    return Experiment(truths, runs, talk, small, comparison.table(runs), figures)


def test_the_experiment_is_large_and_has_every_kind_of_run(experiment: Experiment) -> None:
    assert len(experiment.truths) == len(experiment.runs) == 2 * 3 * 100
    for model, setting in itertools.product(MODELS, COOP):
        assert {t.kind for t in experiment.of(model, setting)} == set(constructed.KINDS)
    notes = [turn.note for truth in experiment.truths for turn in truth.notes]
    assert len(notes) > 200
    assert {bool(n and n.asks) for n in notes} == {True, False}


def test_columns_of_every_run(experiment: Experiment) -> None:
    for truth, row in zip(experiment.truths, experiment.runs.to_dict("records"), strict=True):
        assert (row["model"], row["setting"]) == (truth.model, truth.setting)
        assert (row["outcome"], row["caveat"]) == (truth.outcome, truth.caveat)
        assert (row["loss"], row["merge_status"]) == (truth.loss, truth.merge)
        assert row["messages_sent"] == len(truth.notes)
        for number, passed in enumerate(truth.own, start=1):
            assert row[f"own{number}_passed"] is passed
        overlap = [row[c] for c in ("hunks_overlapping", "hunks_near")]
        if truth.overlapping is None:
            assert all(pd.isna(value) for value in overlap)
            continue
        assert overlap == [truth.overlapping, truth.near]
        assert (row["changed1_lines"], row["changed2_lines"]) == truth.lines
        assert row["files_both"] == len(truth.touched[0] & truth.touched[1])


# --- losses, own features, conflicts ----------------------------------------------------------


def by_task(
    truths: Iterable[Truth], above: Callable[[Truth], float], below: Callable[[Truth], float]
) -> dict[Task, list[tuple[float, float]]]:
    pairs: dict[Task, list[tuple[float, float]]] = defaultdict(list)
    for truth in truths:
        pairs[truth.repo, truth.task].append((float(above(truth)), float(below(truth))))
    return {task: values for task, values in pairs.items() if sum(v[1] for v in values)}


def check_share(
    row: Any, names: Sequence[str], truths: Sequence[Truth], marks: Callable[[Truth], bool]
) -> None:
    """Check a share with its Wilson and clustered interval: columns share, then four ends."""
    count = sum(marks(truth) for truth in truths)
    cluster = plain.clustered(by_task(truths, marks, lambda _: 1))
    expected = [count / len(truths), *plain.wilson(count, len(truths)), *cluster]
    for name, value in zip(names, expected, strict=True):
        assert plain.same(row[name], value), (name, row[name], value)


ENDS = ("ci_low", "ci_high", "cluster_low", "cluster_high")


def test_losses(experiment: Experiment) -> None:
    table = experiment.small["losses"].set_index(["model", "setting", "loss"])
    assert len(table) == 2 * 2 * 5
    for model, setting in itertools.product(MODELS, COOP):
        truths = experiment.of(model, setting)
        graded = [t for t in truths if t.graded]
        failed = [t for t in graded if t.outcome == "fail"]
        for loss in ("passed", "agent", "merge", "integration", "unknown"):
            row = table.loc[(model, setting, loss)]
            matches = [t for t in graded if (t.loss or "passed") == loss]
            assert (row["runs"], row["graded"]) == (len(matches), len(graded))
            assert row["infra_error"] == sum(t.kind == "infra" for t in truths)
            check_share(row, ("share", *ENDS), graded, lambda t, x=loss: (t.loss or "passed") == x)
            assert row["failed"] == len(failed)
            if loss == "passed":
                assert math.isnan(row["share_of_failed"])
                continue
            assert plain.same(row["share_of_failed"], len(matches) / len(failed))
            for name, value in zip(
                ("failed_low", "failed_high"), plain.wilson(len(matches), len(failed)), strict=True
            ):
                assert plain.same(row[name], value)


def test_own_features(experiment: Experiment) -> None:
    table = experiment.small["own_features"].set_index(["model", "setting"])
    for model, setting in itertools.product(MODELS, COOP):
        row = table.loc[(model, setting)]
        graded = [t for t in experiment.of(model, setting) if t.graded]
        known = [t for t in graded if None not in t.own]
        assert (row["graded"], row["known"]) == (len(graded), len(known))
        assert row["both_passed"] == sum(t.own == (True, True) for t in known)
        check_share(row, ("both_rate", *ENDS), known, lambda t: t.own == (True, True))
        passed = sum(t.own.count(True) for t in known)
        assert (row["agents"], row["agents_passed"]) == (2 * len(known), passed)
        assert plain.same(row["agent_rate"], passed / (2 * len(known)))
        for name, value in zip(
            ("agent_low", "agent_high"), plain.wilson(passed, 2 * len(known)), strict=True
        ):
            assert plain.same(row[name], value)
        assert row["passes_needing_both"] == sum(t.kind == "needs_both" for t in known)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def test_conflicts_and_overlap(experiment: Experiment) -> None:
    table = experiment.small["conflicts"].set_index(["model", "setting"])
    for model, setting in itertools.product(MODELS, COOP):
        row = table.loc[(model, setting)]
        merged = [t for t in experiment.of(model, setting) if t.merge]
        known = [t for t in merged if t.overlapping is not None]
        assert (row["merged"], row["overlap_known"]) == (len(merged), len(known))
        assert row["conflicts"] == sum(t.merge == "conflicts" for t in merged)
        check_share(row, ("conflict_rate", *ENDS), merged, lambda t: t.merge == "conflicts")
        assert row["overlapping"] == sum(bool(t.overlapping) for t in known)
        assert row["near"] == sum(bool(t.near) for t in known)
        conflicts = [t for t in known if t.merge == "conflicts"]
        assert row["conflicts_overlapping"] == sum(bool(t.overlapping) for t in conflicts)
        assert row["conflicts_apart"] == sum(not t.overlapping for t in conflicts)
        shared = mean([len(t.touched[0] & t.touched[1]) for t in known])
        assert row["files_both_mean"] == pytest.approx(shared, abs=5.01e-4)
        lines = mean([sum(t.lines) for t in known])
        assert row["changed_lines_mean"] == pytest.approx(lines, abs=5.01e-4)


# --- paired comparisons -----------------------------------------------------------------------


def verdict(truth: Truth) -> bool | None:
    return truth.outcome == "pass" if truth.graded else None


def conflict(truth: Truth) -> bool | None:
    return truth.merge == "conflicts" if truth.merge else None


def check_comparison(
    rows: Sequence[Any],
    experiment: Experiment,
    mark: Callable[[Truth], bool | None],
    names: Sequence[str],
) -> None:
    """Check every figure of paired comparisons.

    Args:
        names: the columns of the four cells, the two rates and the excluded pairs.
    """
    p_values = []
    for row in rows:
        sides = [
            experiment.of(*next(
                (model, setting)
                for model in MODELS
                for setting in constructed.SETTINGS
                if f"{model}-{setting}" == row[side]
            ))
            for side in ("a", "b")
        ]  # fmt: skip
        pairs = [(mark(a), mark(b), a) for a, b in zip(*sides, strict=True)]
        both = [(a, b, t) for a, b, t in pairs if a is not None and b is not None]
        lost = [(a, b) for a, b, _ in pairs if a is None or b is None]
        cells = Counter((bool(a), bool(b)) for a, b, _ in both)
        ordered = [cells[True, True], cells[True, False], cells[False, True], cells[False, False]]
        assert [row[name] for name in names[:4]] == ordered
        n = len(both)
        assert (row["pairs"], row[names[6]], row["unfinished"]) == (n, len(lost), 0)
        assert row["tasks"] == len({(t.repo, t.task) for _, _, t in both})
        assert plain.same(row[names[4]], (ordered[0] + ordered[1]) / n)
        assert plain.same(row[names[5]], (ordered[0] + ordered[2]) / n)
        difference = ordered[1] - ordered[2]
        assert plain.same(row["diff"], difference / n)
        interval = plain.newcombe_paired(*ordered)
        tasks: dict[Task, list[tuple[float, float]]] = defaultdict(list)
        for a, b, truth in both:
            tasks[truth.repo, truth.task].append((float(bool(a)) - float(bool(b)), 1.0))
        ends = [*interval, *plain.clustered(tasks)]
        for name, value in zip(ENDS, ends, strict=True):
            assert plain.same(row[name], value), (name, row[name], value)
        p_values.append(plain.mcnemar(ordered[1], ordered[2]))
        assert row["p"] == pytest.approx(p_values[-1], rel=5e-6)
        smallest = plain.detectable(n, ordered[1] + ordered[2])
        assert plain.same(row["min_detectable"], smallest)
        # Every unknown side against a, and for a.
        low = difference + sum(bool(a) - (b is None or b) for a, b in lost)
        high = difference + sum((a is None or a) - bool(b) for a, b in lost)
        assert plain.same(row["diff_low_bound"], low / (n + len(lost)))
        assert plain.same(row["diff_high_bound"], high / (n + len(lost)))
    for row, adjusted in zip(rows, plain.holm(p_values), strict=True):
        assert row["p_holm"] == pytest.approx(adjusted, rel=5e-6)


def test_comparison_of_pass_rates(experiment: Experiment) -> None:
    rows = experiment.comparison.to_dict("records")
    assert [row["compared"] for row in rows] == ["settings"] * 6 + ["models"] * 3
    cells = ("both", "only_a", "only_b", "neither")
    check_comparison(
        rows, experiment, verdict, (*cells, "pass_rate_a", "pass_rate_b", "infra_excluded")
    )


def test_comparison_of_conflict_rates(experiment: Experiment) -> None:
    """McNemar, Newcombe and the clustered interval, as for the pass rate."""
    rows = experiment.small["conflict_comparison"].to_dict("records")
    assert len(rows) == 4
    cells = ("both_conflict", "only_a_conflicts", "only_b_conflicts", "neither_conflicts")
    names = (*cells, "conflict_rate_a", "conflict_rate_b", "excluded")
    check_comparison(rows, experiment, conflict, names)


# --- communication ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Talk:
    """The measures of a run's messages, from its facts."""

    truth: Truth
    measures: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.measures[name]

    @property
    def conflict(self) -> bool | None:
        return conflict(self.truth)


def sixth(truth: Truth, second: int) -> int:
    start = min(t.second for t in truth.turns)
    # A command takes a second.
    end = max(t.second + (1 if t.commands or t.note else 0) for t in truth.turns)
    return min(6 * (second - start) // (end - start), 5) + 1


def is_answered(truth: Truth, question: constructed.Turn) -> bool:
    read = constructed.find_reading_second(truth, question)
    earliest = question.second + 1 if read is None else read
    return any(t.agent != question.agent and t.second >= earliest for t in truth.notes)


def is_late(truth: Truth, sent: constructed.Turn) -> bool:
    return sum(t.agent != sent.agent and t.second > sent.second for t in truth.turns) < 2


def measures(truth: Truth) -> Talk:
    sent = [(turn, turn.note) for turn in truth.notes if turn.note]
    commands = sum(t.commands or (0 if t.note else 1) for t in truth.turns)
    claims = [
        {note.file for turn, note in sent if turn.agent == agent and note.claims}
        for agent in (0, 1)
    ]
    sixths = Counter(sixth(truth, turn.second) for turn, _ in sent)
    start = min((t.second for t in truth.turns), default=0)
    asking = [turn for turn, note in sent if note.asks]
    return Talk(
        truth,
        {
            "turns": len(truth.turns),
            "events": commands + len(sent),
            "messages": len(sent),
            "message_share": len(sent) / (commands + len(sent)) if truth.turns else None,
            **{f"messages_sixth{n}": sixths[n] for n in range(1, 7)},
            "first_message_s": float(sent[0][0].second - start) if sent else None,
            "first_message_plan": sent[0][1].plan if sent else None,
            "plans": sum(note.plan for _, note in sent),
            "questions": len(asking),
            "unanswered": sum(not is_answered(truth, turn) for turn in asking),
            "late": sum(is_late(truth, turn) for turn, _ in sent),
            "with_files": sum(bool(note.file) for _, note in sent),
            "with_lines": sum(note.line for _, note in sent),
            "files_announced": sum(map(len, claims)),
            "files_touched": sum(map(len, truth.touched)),
            "files_announced_touched": sum(
                len(claim & touched) for claim, touched in zip(claims, truth.touched, strict=True)
            ),
        },
    )


def coop(experiment: Experiment) -> list[Truth]:
    return [truth for truth in experiment.truths if truth.setting != "solo"]


def test_measures_of_every_run(experiment: Experiment) -> None:
    rows = experiment.talk.runs.to_dict("records")
    for truth, row in zip(coop(experiment), rows, strict=True):
        expected = measures(truth)
        assert set(expected.measures) == set(communication.MEASURES)
        for name, value in expected.measures.items():
            if value is None:
                assert pd.isna(row[name]), name
            else:
                assert row[name] == pytest.approx(value, abs=5.01e-7), (name, truth)
        assert row["conflict"] is expected.conflict or pd.isna(row["conflict"])


def test_time_and_step_of_every_message(experiment: Experiment) -> None:
    expected = []
    for truth in coop(experiment):
        for number, turn in enumerate(truth.notes, start=1):
            note = turn.note
            assert note
            start = min(t.second for t in truth.turns)
            sides = constructed.AGENTS[turn.agent], constructed.AGENTS[1 - turn.agent]
            answered = is_answered(truth, turn) if note.asks else None
            position = (turn.second - start, turn.number, sixth(truth, turn.second))
            flags = (note.plan, note.asks, answered, is_late(truth, turn), note.line)
            expected.append((number, *sides, *position, *flags, bool(note.file)))
    table = experiment.talk.messages.astype(object).where(experiment.talk.messages.notna(), None)
    columns = ["number", "sender", "receiver", "time_s", "step", "sixth"]
    flags = ["plan", "question", "answered", "late", "lines"]
    rows = [
        (*row[:-1], bool(row[-1]))
        for row in table[[*columns, *flags, "files"]].itertuples(index=False, name=None)
    ]
    assert rows == expected


def ratio(talks: Sequence[Talk], above: str, below: str) -> list[float]:
    """Return runs, tasks, value and clustered interval of a ratio of two sums."""

    def count(talk: Talk, name: str) -> float:
        if name == "timed":
            return float(sum(talk[f"messages_sixth{n}"] for n in range(1, 7)))
        return 1.0 if name == "runs" else float(talk[name])

    tasks: dict[Task, list[tuple[float, float]]] = defaultdict(list)
    for talk in talks:
        tasks[talk.truth.repo, talk.truth.task].append((count(talk, above), count(talk, below)))
    counted = {task: v for task, v in tasks.items() if sum(each[1] for each in v)}
    total = [sum(each[side] for v in counted.values() for each in v) for side in (0, 1)]
    runs = sum(count(talk, below) > 0 for talk in talks)
    value = total[0] / total[1] if total[1] else math.nan
    return [runs, len(counted), value, *plain.clustered(counted)]


RATIOS = {
    "messages_per_run": ("messages", "runs"),
    "turns_per_run": ("turns", "runs"),
    "message_share": ("messages", "events"),
    **{f"share_sixth{n}": (f"messages_sixth{n}", "timed") for n in range(1, 7)},
    "plans_per_message": ("plans", "messages"),
    "questions_per_message": ("questions", "messages"),
    "plans_per_question": ("plans", "questions"),
    "unanswered_share": ("unanswered", "questions"),
    "late_share": ("late", "messages"),
    "with_files_share": ("with_files", "messages"),
    "with_lines_share": ("with_lines", "messages"),
    "announced_touched_share": ("files_announced_touched", "files_announced"),
    "touched_announced_share": ("files_announced_touched", "files_touched"),
}


def test_measures_by_setting(experiment: Experiment) -> None:
    table = experiment.small["communication_by_setting"].set_index(
        ["model", "setting", "merge", "measure"]
    )
    checked = 0
    for model, setting in itertools.product(MODELS, COOP):
        talks = [measures(t) for t in experiment.of(model, setting) if t.graded]
        parts = {
            "all": talks,
            "conflict": [t for t in talks if t.conflict is True],
            "clean": [t for t in talks if t.conflict is False],
        }
        names = list(RATIOS) if setting == "coop-comm" else list(RATIOS)[:3]
        for merge, part in parts.items():
            for name in names:
                row = table.loc[(model, setting, merge, name)]
                checked += 1
                expected = ratio(part, *RATIOS[name])
                assert [row["runs"], row["tasks"]] == expected[:2], name
                for column, value in zip(("value", "ci_low", "ci_high"), expected[2:], strict=True):
                    assert plain.same(row[column], value), (name, column, row[column], value)
            if setting != "coop-comm":
                continue
            shares = {
                "silent_share": [t["messages"] == 0 for t in part],
                "first_message_plan_share": [
                    t["first_message_plan"] for t in part if t["messages"]
                ],
            }
            for name, marks in shares.items():
                row = table.loc[(model, setting, merge, name)]
                checked += 1
                assert row["runs"] == len(marks)
                assert plain.same(row["value"], sum(marks) / len(marks))
                low, high = plain.wilson(sum(marks), len(marks))
                assert plain.same(row["ci_low"], low) and plain.same(row["ci_high"], high)
    assert checked == len(table)


def test_messages_and_the_conflict_rate(experiment: Experiment) -> None:
    table = experiment.small["communication_and_conflicts"].set_index(["model", "property"])
    assert len(table) == 2 * 10
    assert set(table["setting"]) == {"coop-comm"}
    for model in MODELS:
        talks = [measures(t) for t in experiment.of(model, "coop-comm") if conflict(t) is not None]
        talking = [t for t in talks if t["messages"]]
        middle = {
            name: plain.median([t[name] for t in talks])
            for name in ("messages", "message_share", "turns")
        }
        marks: dict[str, tuple[list[Talk], Callable[[Talk], bool]]] = {
            "any_message": (talks, lambda t: t["messages"] > 0),
            "many_messages": (talks, lambda t, x=middle: t["messages"] > x["messages"]),
            "high_message_share": (
                talks,
                lambda t, x=middle: t["message_share"] > x["message_share"] + 1e-9,
            ),
            "many_turns": (talks, lambda t, x=middle: t["turns"] > x["turns"]),
            "first_message_plan": (talking, lambda t: t["first_message_plan"]),
            "unanswered_question": (talking, lambda t: t["unanswered"] > 0),
            "late_message": (talking, lambda t: t["late"] > 0),
            "names_files": (talking, lambda t: t["with_files"] > 0),
            "names_lines": (talking, lambda t: t["with_lines"] > 0),
            "all_files_announced": (
                [t for t in talking if t["files_touched"]],
                lambda t: t["files_announced_touched"] == t["files_touched"],
            ),
        }
        for name, (part, holds) in marks.items():
            row = table.loc[(model, name)]
            sides = [[t for t in part if holds(t) is mark] for mark in (True, False)]
            cells = []
            for side, label in zip(sides, ("with", "without"), strict=True):
                count, of = sum(bool(t.conflict) for t in side), len(side)
                cells += [count, of]
                assert (row[f"conflicts_{label}"], row[f"runs_{label}"]) == (count, of), name
                expected = [count / of if of else math.nan, *plain.wilson(count, of)]
                columns = (f"rate_{label}", f"ci_low_{label}", f"ci_high_{label}")
                for column, value in zip(columns, expected, strict=True):
                    assert plain.same(row[column], value), (name, column)
            a, m, b, n = cells
            difference = a / m - b / n if m and n else math.nan
            ends = [difference, *plain.newcombe(a, m, b, n)]
            for column, value in zip(("diff", "ci_low", "ci_high"), ends, strict=True):
                assert plain.same(row[column], value), (name, column)


# --- difficulty -------------------------------------------------------------------------------


def test_difficulty_and_area_under_the_curve(experiment: Experiment) -> None:
    """The paper's scale: three levels of difficulty with two models, and the pooled row."""
    alone: dict[tuple[Any, ...], list[bool]] = defaultdict(list)
    for t in experiment.truths:
        if t.setting == "solo" and t.graded:
            alone[t.repo, t.task, t.features].append(t.outcome == "pass")
    hard = {pair: 1 - sum(wins) / len(wins) for pair, wins in alone.items()}
    low, high = min(hard.values()), max(hard.values())
    cells: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(
        lambda: defaultdict(lambda: [0, 0])
    )
    for t in experiment.truths:
        if t.graded and (t.repo, t.task, t.features) in hard:
            bucket = min(int(10 * (hard[t.repo, t.task, t.features] - low) / (high - low)), 9)
            for model in (t.model, "(pooled)"):
                cells[model, t.setting][bucket][0] += 1
                cells[model, t.setting][bucket][1] += t.outcome == "pass"
    curves = experiment.small["by_difficulty"].query("scale == 'paper'")
    assert len(curves) == 3 * 3 * 3
    for row in curves.to_dict("records"):
        n, k = cells[row["model"], row["setting"]][row["bucket"]]
        assert (row["graded"], row["pass"]) == (n, k)
        assert plain.same(row["pass_rate"], k / n)
        ends = plain.wilson(k, n)
        assert plain.same(row["ci_low"], ends[0]) and plain.same(row["ci_high"], ends[1])
    gaps = experiment.small["coordination_gap"].query("scale == 'paper'").to_dict("records")
    assert len(gaps) == 3 * 2
    for row in gaps:
        areas = []
        for setting in ("solo", row["setting"]):
            part = cells[row["model"], setting]
            points = [((b + 0.5) / 10, k / n) for b, (n, k) in sorted(part.items())]
            steps = itertools.pairwise(points)
            areas.append(math.fsum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in steps))
        assert plain.same(row["auc_solo"], areas[0]) and plain.same(row["auc"], areas[1])
        assert plain.same(row["gap"], areas[0] - areas[1])
        assert plain.same(row["retention"], areas[1] / areas[0])


# --- findings ---------------------------------------------------------------------------------


def points(value: float) -> str:
    """Return whole percentage points with a sign, as a writer would; no value here is below 1."""
    return f"{100 * value:+.0f}".replace("-", "\u2212")


def sentence_of_effect(rate: str, pairs: Sequence[tuple[bool, bool, Task]]) -> str:
    """Return the sentence on a rate with messages and without, for a pair of flags each."""
    n = len(pairs)
    only = sum(a and not b for a, b, _ in pairs), sum(b and not a for a, b, _ in pairs)
    both = sum(a and b for a, b, _ in pairs)
    low, high = plain.newcombe_paired(both, *only, n - both - sum(only))
    tasks: dict[Task, list[tuple[float, float]]] = defaultdict(list)
    for a, b, task in pairs:
        tasks[task].append((float(a) - float(b), 1.0))
    p = plain.mcnemar(*only)
    cluster = plain.clustered(tasks)
    inside = [first <= 0 <= last for first, last in ((low, high), cluster)]
    interval = f"95 % interval {points(low)} to {points(high)}"
    if inside == [False, True]:
        interval += f", clustered by task {points(cluster[0])} to {points(cluster[1])}"
    interval += ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
    difference = (only[0] - only[1]) / n
    if p < 0.05 and not any(inside):
        word = "raise" if difference > 0 else "lower"
        size = points(abs(difference)).removeprefix("+")
        return f"Messages {word} the {rate} by {size} points ({interval})."
    smallest = points(plain.detectable(n, sum(only))).removeprefix("+")
    return (
        f"The effect of messages on the {rate} is inconclusive: {points(difference)} points "
        f"({interval}; {n} pairs are enough to detect {smallest} points or more)."
    )


def test_the_sentences_have_the_figures_of_the_facts(experiment: Experiment) -> None:
    assert [figures.model for figures in experiment.findings] == list(MODELS)
    for model, figures in zip(MODELS, experiment.findings, strict=True):
        text = " ".join(findings.sentences(figures))
        counts = {}
        for setting in constructed.SETTINGS:
            graded = [t for t in experiment.of(model, setting) if t.graded]
            counts[setting] = sum(t.outcome == "pass" for t in graded), len(graded)
        assert "Solo solves {} of {} pairs.".format(*counts["solo"]) in text
        assert "With messages two agents solve {} of {}".format(*counts["coop-comm"]) in text
        assert "Without messages they solve {} of {}".format(*counts["coop-nocomm"]) in text
        for setting, words in (("coop-comm", "with messages"), ("coop-nocomm", "without messages")):
            losses = Counter(t.loss for t in experiment.of(model, setting) if t.outcome == "fail")
            expected = (
                f"Of the {sum(losses.values())} failures {words}, {losses['merge']} are lost in "
                f"the merge although both features work alone; {losses['integration']} merge "
                f"cleanly but fail together; in {losses['agent']} an agent's own feature fails; "
                f"for {losses['unknown']} the loss is unknown."
            )
            assert expected in text
        for rate, mark in (("pass rate", verdict), ("conflict rate", conflict)):
            pairs = []
            for a, b in zip(*(experiment.of(model, setting) for setting in COOP), strict=True):
                first, second = mark(a), mark(b)
                if first is not None and second is not None:
                    pairs.append((first, second, (a.repo, a.task)))
            assert sentence_of_effect(rate, pairs) in text
        infra = sum(t.outcome == "infra_error" for t in experiment.truths if t.model == model)
        assert f"Left out: {infra} infrastructure errors." in text
