"""Messages of the agents: rules on their text, measures of a run, tables, and known truth."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import synthetic
import synthetic_tables

from cooperflow.analysis import communication
from cooperflow.analysis.history import Command, Event, History
from cooperflow.analysis.run_files import RunFiles
from cooperflow.tables import communication_tables, run_table, stats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I will add reserve() to store.py.", True),
        ("I'll take report.py.", True),
        ("I'm adding a keyword to summary().", True),
        ("My plan: first the parser, then the tests.", True),
        ("Plan:\n1. parser\n2. tests", True),
        ("We should talk. I propose that you go first.", True),
        ("I only touch textkit/tables.py.", True),
        ("Are you in Store too?", False),
        ("Should I change store.py?", False),
        ("Good, we do not overlap: slug.py is yours.", False),
        ("It is mine, import it.", False),
        ("Done. All tests pass.", False),
        ("```\nI will add this\n```", False),
    ],
)
def test_plans(text: str, expected: bool) -> None:
    assert communication.is_plan(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which files are you taking?", 1),
        ("Are you in Store? And does anything call add()?", 2),
        ("Is it yours (the README, I mean)? Tell me.", 1),
        ("Really???", 1),
        ("See https://example.org/a?b=c and `x ? y : z`.", 0),
        ("The pattern a?b matches.", 0),
        ("", 0),
    ],
)
def test_questions(text: str, expected: int) -> None:
    assert communication.count_questions(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I edit store.py and inventory/report.py, then store.py again.",
         ("store.py", "inventory/report.py")),
        ("`src/a-b/__init__.py:12` and (mux.go)", ("src/a-b/__init__.py", "mux.go")),
        ("e.g. version 1.2.3, Store.__init__, self._items, ends here.", ()),
        ("https://example.org/index.html", ()),
        ("/workspace/repo/setup.cfg", ("/workspace/repo/setup.cfg",)),
    ],
)  # fmt: skip
def test_files(text: str, expected: tuple[str, ...]) -> None:
    names = communication.mentioned_files(text)
    assert tuple(path.removeprefix("/") for path in names) == tuple(
        path.removeprefix("/") for path in expected
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("around line 120", True),
        ("lines 10-20", True),
        ("store.py:44", True),
        ("L12 is mine", True),
        ("the line below self._items", False),
        ("two lines", False),
    ],
)
def test_lines(text: str, expected: bool) -> None:
    assert communication.names_lines(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I only touch textkit/tables.py.", ("textkit/tables.py",)),
        ("Then we do not overlap: a.py is yours, store.py is mine.", ("store.py",)),
        ("cut.py, __init__.py and the README are yours; I will not commit any.", ()),
        ("I take model.py, store.py, and util.py.", ("model.py", "store.py", "util.py")),
        ("I leave tables.py alone.", ()),
        ("Do I need store.py?", ()),
        ("I build it. All of it stays in cut.py.", ("cut.py",)),
        ("You own a.py.\nMine: b.py", ("b.py",)),
        ("I own a.py, b.py", ("a.py", "b.py")),
    ],
)
def test_announced_files(text: str, expected: tuple[str, ...]) -> None:
    assert communication.announced_files(text) == expected


def test_names_refer_to_paths() -> None:
    paths = ["inventory/store.py", "inventory/__init__.py", "store.py"]
    assert communication.match_path("store.py", paths) == "store.py"
    assert communication.match_path("./inventory/store.py", paths) == "inventory/store.py"
    assert communication.match_path("/workspace/repo/inventory/store.py", paths[:1]) == paths[0]
    assert communication.match_path("restore.py", paths) is None


def test_files_of_a_patch() -> None:
    patch = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n"
    patch += 'diff --git "a/s p.py" "b/s p.py"\ndiff --git a/old.py b/new.py\n'
    assert communication.changed_paths(patch) == ("x.py", "s p.py", "new.py")


# --- a run ------------------------------------------------------------------------------------


def step(agent: str, number: int, time: float, *commands: Command) -> Event:
    return Event(agent, time, "step", number, commands=commands or (Command("ls"),))


def message(agent: str, to: str, time: float, text: str) -> Event:
    return Event(agent, time, "message", text=text, to=to)


def received(agent: str, time: float, text: str) -> Event:
    return Event(agent, time, "received", text=text)


ASK = "I take a.py. Which files do you take?"
REPLY = "I take b.py and c.py."
LATE = "Is it done?"


def history() -> History:
    """Twelve seconds: a asks, b answers after reading it, a asks again after b's last turn."""
    return History(
        ("a", "b"),
        (
            step("a", 1, 100.0, Command("ls"), Command("cat a.py")),
            step("b", 1, 101.0),
            step("a", 2, 103.0, Command(f"send_message b <<'M'\n{ASK}\nM")),
            message("a", "b", 103.0, ASK),
            received("b", 105.0, f"[Message from a]: {ASK}"),
            step("b", 2, 105.0, Command(f"send_message a '{REPLY}'")),
            message("b", "a", 105.0, REPLY),
            received("a", 107.0, f"[Message from b]: {REPLY}"),
            step("a", 3, 107.0),
            step("b", 3, 108.0),
            step("a", 4, 110.0, Command(f'send_message b "{LATE}"', seconds=2.0)),
            message("a", "b", 110.0, LATE),
        ),
    )


def test_measures_of_a_run() -> None:
    result = communication.measure(history(), {"a": ["a.py", "x.py"], "b": ["pkg/b.py"]})
    columns = dict(result.measures)
    assert [m.labels for m in result.messages] == [
        ("plan", "question, answered", "files: a.py"),
        ("plan", "files: b.py, c.py"),
        ("question without an answer", "after the receiver's end"),
    ]
    assert [(m.step, m.time, m.sixth, m.answered, m.late) for m in result.messages] == [
        (2, 3.0, 2, True, False),
        (2, 5.0, 3, False, False),
        (4, 10.0, 6, False, True),
    ]
    assert [columns.pop(column) for column in communication.SIXTH_COLUMNS] == [0, 1, 1, 0, 0, 1]
    assert columns == {
        "turns": 7,
        # Two commands and four single ones, and three messages.
        "events": 8,
        "messages": 3,
        "message_share": 0.375,
        "first_message_s": 3.0,
        "first_message_plan": True,
        "plans": 2,
        "questions": 2,
        "unanswered": 1,
        "late": 1,
        "with_files": 2,
        "with_lines": 0,
        "files_announced": 3,
        "files_touched": 3,
        "files_announced_touched": 2,
    }
    assert set(result.measures) == set(communication.MEASURES)


def test_a_message_that_crosses_a_question_is_not_an_answer() -> None:
    """It is sent later, but before its sender could read the question."""
    events = (
        step("a", 1, 1.0),
        message("a", "b", 1.0, ASK),
        step("b", 1, 2.0),
        message("b", "a", 2.0, REPLY),
        received("b", 3.0, f"[Message from a — a is BLOCKED]: {ASK}"),
        step("b", 2, 3.0),
        step("b", 3, 4.0),
    )
    result = communication.measure(History(("a", "b"), events), {})
    assert result.measures["unanswered"] == 1
    reply = message("b", "a", 3.0, "Yes.")
    result = communication.measure(History(("a", "b"), (*events[:6], reply, *events[6:])), {})
    assert result.measures["unanswered"] == 0


def test_a_reply_in_the_output_of_a_waiting_command_was_read() -> None:
    waiting = Command(f"send_message --wait b '{ASK}'", output=f"[Reply from b]: {REPLY}")
    events = (
        step("b", 1, 1.0),
        step("a", 1, 2.0, waiting),
        message("a", "b", 2.0, ASK),
        step("b", 2, 3.0, Command(f"send_message a '{REPLY}'")),
        message("b", "a", 3.0, REPLY),
        step("a", 2, 4.0),
    )
    result = communication.measure(History(("a", "b"), events), {})
    assert [(m.read_before, m.late) for m in result.messages] == [(None, True), (2, False)]


def test_a_run_without_events_has_no_measure() -> None:
    measures = communication.measure(History(), {}).measures
    assert measures["turns"] == measures["messages"] == 0
    assert measures["message_share"] is None
    assert measures["first_message_plan"] is None


# --- tables -----------------------------------------------------------------------------------


def test_tables_of_a_finished_experiment(tmp_path: Path) -> None:
    """Messages are those of runs.csv, and a table has no text of a message."""
    words = synthetic.Words(message="I take store.py; is report.py yours? <b>secret</b>")
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    synthetic.finish(plan, words, steps=3)
    runs = run_table.read_runs(plan.results.runs_csv)
    tables = communication_tables.collect(plan, runs)
    coop = runs[runs["mode"] != "solo"]
    assert len(tables.runs) == len(coop)
    joined = tables.runs.merge(coop, on=list(communication_tables.PAIR))
    evaluated = joined["outcome_x"] != "infra_error"
    assert (joined["messages"] == joined["messages_sent"])[evaluated].all()
    assert len(tables.messages) == tables.runs["messages"].sum()
    for path, table in communication_tables.tables_by_path(tables, plan.results).items():
        assert "secret" not in table.to_csv(), path
    last = plan.runs[-1]
    measures = RunFiles(last, last.folder(plan.results)).communication.measures
    assert measures["messages"] == 0


def rate(count: float, of: float) -> float:
    return round(count / of, 6)


def test_known_truth_of_a_hundred_pairs() -> None:
    """Every ratio is computed independently, from the rows as plain Python values."""
    runs = synthetic_tables.communication(synthetic_tables.random(1))
    table = communication_tables.measures_by_setting(runs).set_index(
        ["run_name", "merge", "measure"]
    )
    rows = [
        row
        for row in runs.to_dict("records")
        if row["setting"] == "coop-comm" and row["outcome"] != "infra_error"
    ]
    assert len(rows) >= 90
    for merge, part in {
        "all": rows,
        "conflict": [r for r in rows if r["conflict"] is True],
        "clean": [r for r in rows if r["conflict"] is False],
    }.items():
        actual = table.loc["model0-coop-comm"].loc[merge]["value"]
        total = {key: sum(r[key] for r in part) for key in communication.MEASURES[:3]}
        assert actual["messages_per_run"] == rate(total["messages"], len(part))
        assert actual["turns_per_run"] == rate(total["turns"], len(part))
        assert actual["message_share"] == rate(total["messages"], total["events"])
        timed = sum(r[c] for r in part for c in communication.SIXTH_COLUMNS)
        for n, column in enumerate(communication.SIXTH_COLUMNS, start=1):
            assert actual[f"share_sixth{n}"] == rate(sum(r[column] for r in part), timed)
        for name, above, below in (
            ("plans_per_question", "plans", "questions"),
            ("plans_per_message", "plans", "messages"),
            ("questions_per_message", "questions", "messages"),
            ("unanswered_share", "unanswered", "questions"),
            ("late_share", "late", "messages"),
            ("with_files_share", "with_files", "messages"),
            ("with_lines_share", "with_lines", "messages"),
            ("announced_touched_share", "files_announced_touched", "files_announced"),
            ("touched_announced_share", "files_announced_touched", "files_touched"),
        ):
            expected = rate(sum(r[above] for r in part), sum(r[below] for r in part))
            assert actual[name] == expected, name
        first = [r["first_message_plan"] for r in part if r["messages"]]
        assert actual["first_message_plan_share"] == rate(sum(first), len(first))
        assert actual["silent_share"] == rate(sum(not r["messages"] for r in part), len(part))
    interval = table.loc[("model0-coop-comm", "all", "message_share")]
    assert interval["ci_low"] < interval["value"] < interval["ci_high"]
    silent = table.loc["model0-coop-nocomm"].loc["all"]
    assert set(silent.index) == {"messages_per_run", "turns_per_run", "message_share"}


def test_known_truth_of_the_conflict_rates() -> None:
    runs = synthetic_tables.communication(synthetic_tables.random(1))
    # Evaluated without a merge: an empty patch, for example.
    talking = runs.index[runs["setting"] == "coop-comm"]
    runs.loc[talking[:5], "conflict"] = None
    table = communication_tables.conflicts_by_property(runs).set_index("property")
    assert set(table["run_name"]) == {"model0-coop-comm"}
    assert set(table.index) == set(communication_tables.PROPERTIES)
    rows = [
        row
        for row in runs.to_dict("records")
        if row["setting"] == "coop-comm" and row["conflict"] is not None
    ]
    median = pd.Series([row["messages"] for row in rows]).median()
    truth = {
        "any_message": [(r["messages"] > 0, r["conflict"]) for r in rows],
        "many_messages": [(r["messages"] > median, r["conflict"]) for r in rows],
        "first_message_plan": [
            (r["first_message_plan"], r["conflict"]) for r in rows if r["messages"]
        ],
        "all_files_announced": [
            (r["files_touched"] == r["files_announced_touched"], r["conflict"])
            for r in rows
            if r["messages"]
        ],
        "late_message": [(r["late"] > 0, r["conflict"]) for r in rows if r["messages"]],
    }
    for name, marks in truth.items():
        with_it = [conflict for mark, conflict in marks if mark]
        without = [conflict for mark, conflict in marks if not mark]
        row = table.loc[name]
        assert (row["runs_with"], row["conflicts_with"]) == (len(with_it), sum(with_it)), name
        assert (row["runs_without"], row["conflicts_without"]) == (len(without), sum(without))
        expected = sum(with_it) / len(with_it) - sum(without) / len(without)
        assert row["diff"] == pytest.approx(expected, abs=1e-6)
        assert row["ci_low"] < row["diff"] < row["ci_high"]


def test_tables_without_runs_are_empty() -> None:
    nothing = synthetic_tables.communication(synthetic_tables.random(1)).iloc[:0]
    for table in communication_tables.tables_by_experiment(nothing).values():
        assert table.empty


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        # Newcombe (1998), table II, method 10.
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
    ],
)
def test_interval_of_a_difference(
    counts: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    assert stats.difference_interval(*counts) == pytest.approx(interval, abs=6e-5)


def test_interval_of_nothing_is_missing() -> None:
    assert all(math.isnan(value) for value in stats.difference_interval(0, 0, 1, 2))
