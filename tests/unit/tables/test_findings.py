"""The sentences at the top of the report: wording, and independently calculated figures."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
import synthetic_tables
from rich.console import Console
from scipy.stats import binomtest

from commands.table import print_tables
from cooperflow import formats
from cooperflow.report import build
from cooperflow.session import progress
from cooperflow.tables import breakdowns, comparison, findings, run_table
from cooperflow.tables.comparison import Difference
from cooperflow.tables.findings import Count, Figures, Losses, Roles

ROLES = Roles("solo", "coop-comm", "coop-nocomm", 100)
LOWER = Difference(100, -0.23, -0.33, -0.13, 0.0004, 0.12, -0.35, -0.11)
UNCLEAR = Difference(100, -0.09, -0.19, 0.01, 0.093, 0.14, -0.2, 0.02)
WHOLE = Figures(
    "m",
    Count(61, 100),
    Count(38, 100),
    Count(40, 100),
    LOWER,
    replace(LOWER, value=-0.21),
    replace(UNCLEAR, value=-0.02, low=-0.1, high=0.06, p=0.7),
    UNCLEAR,
    Losses(62, {"merge": 21, "integration": 9, "agent": 30, "unknown": 2}),
)


def text(figures: Figures) -> str:
    return " ".join(findings.sentences(figures))


def test_the_complete_text() -> None:
    assert text(WHOLE) == (
        "Solo solves 61 of 100 pairs. "
        "With messages two agents solve 38 of 100: fewer than one agent (difference −23 points, "
        "95 % interval −33 to −13, p < 0.001). "
        "Without messages they solve 40 of 100: fewer than one agent (difference −21 points, "
        "95 % interval −33 to −13, p < 0.001). "
        "The effect of messages on the pass rate is inconclusive: −2 points (95 % interval −10 "
        "to +6, p = 0.700; 100 pairs are enough to detect 14 points or more). "
        "Of the 62 failures with messages, 21 are lost in the merge although both features work "
        "alone; 9 merge cleanly but fail together; in 30 an agent's own feature fails; for 2 the "
        "loss is unknown. "
        "The effect of messages on the conflict rate is inconclusive: −9 points (95 % interval "
        "−19 to +1, p = 0.093; 100 pairs are enough to detect 14 points or more)."
    )


@pytest.mark.parametrize(
    ("gap", "expected", "unexpected"),
    [
        (LOWER, "fewer than one agent", "inconclusive"),
        (replace(LOWER, value=0.23, low=0.13, high=0.33, cluster_low=0.1, cluster_high=0.3),
         "more than one agent (difference +23 points", "inconclusive"),
        (UNCLEAR, "inconclusive: −9 points", "fewer"),
        # The interval excludes 0, the interval clustered by task does not.
        (replace(LOWER, cluster_high=0.02), "clustered by task −35 to +2", "fewer"),
        (replace(LOWER, cluster_low=math.nan, cluster_high=math.nan),
         "−33 to −13, all pairs of one task", "inconclusive"),
        (replace(LOWER, p=0.06), "inconclusive", "fewer"),
        (replace(LOWER, high=0.0), "inconclusive", "fewer"),
        (Difference(3, -1.0, -1.0, 0.1, 0.25, math.nan), "3 pairs are too few", "fewer"),
        # No outcome of five pairs has p < 0.05.
        (Difference(5, -1.0, -1.0, 0.1, 0.0625, 1.0), "5 pairs are too few", "fewer"),
        (Difference(1, -1.0, -1.0, 0.1, 1.0, math.nan), "1 pair is too few", "fewer"),
        (replace(UNCLEAR, value=0.0, low=-0.004, high=0.004), "0 points (95 % interval −0.4 to",
         "+0 "),
        (Difference(0, math.nan, math.nan, math.nan, math.nan, math.nan),
         "no pair is evaluated in both settings yet", "nan"),
        (None, "two agents solve 38 of 100.", "difference"),
    ],
)  # fmt: skip
def test_the_wording_follows_the_evidence(
    gap: Difference | None, expected: str, unexpected: str
) -> None:
    wording = text(Figures("m", Count(61, 100), Count(38, 100), messages_gap=gap))
    assert expected in wording
    assert unexpected not in wording
    assert "nan" not in wording
    assert "better" not in wording


@pytest.mark.parametrize(
    ("lead_alone", "expected"),
    [
        (0, "With messages two agents solve 38 of 100: fewer than one agent"),
        (1, "solve 38 of 100, 1 of them only by agent 1's patch (lead_alone): fewer than"),
        (38, "solve 38 of 100, 38 of them only by agent 1's patch (lead_alone): fewer than"),
    ],
)
def test_passes_of_one_patch_alone_are_counted(lead_alone: int, expected: str) -> None:
    count = Count(38, 100, lead_alone=lead_alone)
    assert expected in text(Figures("m", Count(61, 100), count, messages_gap=LOWER))
    unclear = text(Figures("m", Count(61, 100), count, messages_gap=UNCLEAR))
    assert expected.removesuffix(": fewer than").removesuffix(": fewer than one agent") in unclear
    alone = text(Figures("m", messages=count))
    assert alone.endswith(".")
    assert ("lead_alone" in alone) == bool(lead_alone)


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (replace(UNCLEAR, low=-0.19, high=-0.01, cluster_high=-0.01, p=0.03),
         "Messages lower the conflict rate by 9 points (95 % interval −19 to −1, p = 0.030)."),
        (replace(LOWER, value=0.09, low=0.02, high=0.16, cluster_low=0.01, cluster_high=0.2),
         "Messages raise the conflict rate by 9 points (95 % interval +2 to +16, p < 0.001)."),
        (UNCLEAR, "The effect of messages on the conflict rate is inconclusive: −9 points"),
        (None, ""),
    ],
)  # fmt: skip
def test_the_effect_of_messages(effect: Difference | None, expected: str) -> None:
    wording = text(Figures("m", conflict_effect=effect))
    assert wording.startswith(expected)
    assert bool(wording) == bool(expected)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (Losses(62, {"merge": 21, "agent": 41}),
         "Of the 62 failures with messages, 21 are lost in the merge although both features work "
         "alone; in 41 an agent's own feature fails."),
        (Losses(1, {"merge": 1}),
         "Of 1 failure with messages, 1 is lost in the merge although both features work "
         "alone."),
        (Losses(5, {"integration": 5}),
         "Of the 5 failures with messages, none are lost in the merge although both features work "
         "alone; 5 merge cleanly but fail together."),
        (None, ""),
    ],
)  # fmt: skip
def test_where_failures_are_lost(losses: Losses | None, expected: str) -> None:
    assert text(Figures("m", losses=losses)) == expected
    assert text(Figures("m", silent_losses=losses)) == expected.replace("with m", "without m")


def test_replay_and_missing_data_are_stated() -> None:
    gap = replace(LOWER, excluded=3, bound_low=-0.26, bound_high=-0.2)
    figures = Figures(
        "m",
        Count(58, 97, infra=3),
        Count(30, 80, unfinished=20),
        messages_gap=replace(gap, pairs=78),
        repeats=3,
        replay=True,
        adopted=True,
    )
    lines = findings.report([figures])
    assert lines[:2] == [findings.REPLAY, findings.ADOPTED]
    rest = " ".join(lines[2:])
    assert "difference over 78 pairs evaluated in both −23 points" in rest
    assert "Left out: 3 infrastructure errors and 20 runs without an outcome." in rest
    assert "Whatever the outcomes of the 3 pairs with infrastructure errors" in rest
    assert "between −26 and −20 points" in rest
    assert "the first of 3 repeats" in rest
    assert "No solo run has been evaluated yet." in text(Figures("m", Count(0, 0, infra=2)))
    assert "With messages two agents have no evaluated run yet." in text(
        Figures("m", Count(1, 2), Count(0, 0))
    )


def test_several_models_are_named() -> None:
    first, second = (Figures(name, Count(1, 2)) for name in ("a", "b"))
    assert findings.report([first, second]) == [
        "a: Solo solves 1 of 2 pairs.",
        "b: Solo solves 1 of 2 pairs.",
    ]
    assert findings.report([first]) == ["Solo solves 1 of 2 pairs."]
    assert findings.report([]) == []


def constructed() -> pd.DataFrame:
    """100 pairs in three settings with outcomes, conflicts and losses that are known."""
    chosen = synthetic_tables.pairs("lite")
    n = np.random.default_rng(5).permutation(100)  # pairs of a task differ
    solo = np.where(n < 61, "pass", "fail")
    # 30 pass both, 8 pass only together: 38.
    comm = np.where((n < 30) | (n >= 92), "pass", "fail")
    silent = np.where((n >= 10) & (n < 45), "pass", "fail")
    lost = np.where(comm == "pass", "", np.where(n < 51, "merge", "agent"))
    return synthetic_tables.joined(
        synthetic_tables.experiment(chosen, solo.tolist()),
        synthetic_tables.experiment(
            chosen,
            comm.tolist(),
            setting="coop-comm",
            merge_status=np.where(n % 10 < 4, "conflicts", "clean"),
        ).assign(loss=lost),
        synthetic_tables.experiment(
            chosen,
            silent.tolist(),
            setting="coop-nocomm",
            merge_status=np.where(n % 10 < 7, "conflicts", "clean"),
        ),
    )


def test_the_figures_of_a_constructed_experiment() -> None:
    figures = findings.figures(constructed(), ROLES)[0]
    assert figures.solo == Count(61, 100)
    assert figures.messages == Count(38, 100)
    assert figures.silent == Count(35, 100)
    assert figures.losses == Losses(62, {"merge": 21, "agent": 41})
    assert figures.silent_losses is None
    gap, conflicts = figures.messages_gap, figures.conflict_effect
    assert gap is not None
    assert conflicts is not None
    # 31 pass alone only, 8 together only; 30 conflict without messages only.
    assert gap.value == pytest.approx(-0.23)
    assert gap.p == pytest.approx(binomtest(8, 39).pvalue, rel=1e-5)
    assert conflicts.value == pytest.approx(-0.3)
    assert conflicts.p == pytest.approx(2 * 0.5**30, rel=1e-5)
    wording = text(figures)
    assert "Solo solves 61 of 100 pairs. With messages two agents solve 38 of 100: fewer" in wording
    assert "Of the 62 failures with messages, 21 are lost in the merge" in wording
    assert "Messages lower the conflict rate by 30 points" in wording


def test_passes_of_one_patch_alone_are_counted_from_the_caveats() -> None:
    runs = constructed()
    comm = runs["setting"] == "coop-comm"
    passed, failed = (runs.index[comm & (runs["outcome"] == end)] for end in ("pass", "fail"))
    runs.loc[passed[:2], "caveat"] = ["lead_alone", "no_tests_run;lead_alone"]
    runs.loc[passed[2], "caveat"] = "no_tests_run"
    runs.loc[failed[0], "caveat"] = "lead_alone"
    figures = findings.figures(runs, ROLES)[0]
    assert figures.messages == Count(38, 100, lead_alone=2)


def test_the_sentences_read_the_tables_of_comparisons() -> None:
    """In either order of the settings; the tables are computed only where they are missing."""
    runs = constructed()
    passes, conflicts = comparison.table(runs), breakdowns.conflict_comparison(runs)
    assert findings.figures(runs, ROLES, passes, conflicts) == findings.figures(runs, ROLES)
    order = ["coop-nocomm", "coop-comm", "solo"]
    reordered = runs.sort_values("setting", key=lambda names: names.map(order.index), kind="stable")
    assert list(comparison.table(reordered)["a"]) != list(passes["a"])
    figures, others = (findings.figures(table, ROLES)[0] for table in (runs, reordered))
    for name in ("messages_gap", "silent_gap", "messages_effect", "conflict_effect"):
        assert vars(getattr(others, name)) == pytest.approx(vars(getattr(figures, name))), name
    changed = passes.assign(diff=0.5)
    changed_figures = findings.figures(runs, ROLES, changed, conflicts)[0]
    assert changed_figures.messages_gap is not None
    assert changed_figures.messages_gap.value == -0.5


def test_figures_of_an_unfinished_experiment() -> None:
    runs = constructed()
    dropped = (runs["setting"] == "coop-comm") & (runs.index % 2 == 0)
    passed = (runs["setting"] == "solo") & (runs["outcome"] == "pass")
    broken = runs.index[passed][:3]
    runs.loc[broken, "outcome"] = "infra_error"
    figures = findings.figures(runs[~dropped].drop(columns="loss"), ROLES)[0]
    assert figures.solo == Count(58, 97, infra=3)
    assert figures.messages is not None
    assert (figures.messages.evaluated, figures.messages.unfinished) == (50, 50)
    assert figures.losses is None
    assert figures.messages_gap is not None
    excluded = sum(n % 2 for n in broken)
    assert (figures.messages_gap.pairs, figures.messages_gap.excluded) == (50 - excluded, excluded)
    only_solo = runs[runs["setting"] == "solo"]
    assert findings.figures(only_solo, ROLES)[0].messages is None


def test_the_sentences_reach_the_report_the_status_and_the_terminal(tmp_path: Path) -> None:
    """One text in all three places, and status reads it again when the table changes."""
    plan = synthetic.make_plan(tmp_path / "results", "flash", first=12)
    reader = progress.Reader(plan)
    assert reader.status().findings == []
    synthetic.finish(plan)
    runs = run_table.read_runs(plan.results.runs_csv)
    lines = findings.describe_plan(plan, runs)
    assert lines[0].startswith("Solo solves ")
    assert reader.status().findings == lines
    page = build.build(plan).index.read_text()
    console = Console(width=500, record=True, file=io.StringIO())
    summary = run_table.read_table(plan.results.summary_csv)
    print_tables(plan.results, runs, summary, console, (), lines)
    printed = console.export_text()
    for line in lines:
        assert formats.keep_together(line) in page
        assert line in printed
    plan.results.runs_csv.write_text("run_name\n")
    assert reader.status().findings == []
