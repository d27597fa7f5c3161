"""Tables of the analyses on the first page: the figures of the tables as text, and empty states."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import synthetic
import synthetic_tables

from cooperflow import formats, layout
from cooperflow.plots import specifications
from cooperflow.report import analysis_tables, front_page
from cooperflow.report.analysis_tables import ShownTable
from cooperflow.tables import breakdowns, communication_tables, symptoms


def shown(runs: pd.DataFrame) -> dict[str, ShownTable]:
    talk = communication_tables.tables_by_experiment(synthetic_tables.communication(runs))
    tables = analysis_tables.build_analysis_tables({**breakdowns.tables(runs), **talk})
    return {table.name: table for table in tables}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    table = synthetic_tables.random(2)
    coop = table["mode"] == "coop"
    failed = coop & (table["outcome"] == "fail")
    done = coop & (table["outcome"] != "infra_error")
    table.loc[failed, "loss"] = ["merge", "agent"] * (int(failed.sum()) // 2) + ["merge"] * (
        int(failed.sum()) % 2
    )
    table.loc[done, "merge_status"] = "clean"
    table.loc[table["loss"] == "merge", "merge_status"] = "conflicts"
    for column in ("own1_passed", "own2_passed"):
        table[column] = table[column].astype(object)
        table.loc[done, column] = True
    return table


def test_the_cells_are_the_figures_of_the_tables(runs: pd.DataFrame) -> None:
    tables = shown(runs)
    losses = breakdowns.tables(runs)["losses"]
    merge = losses[losses["loss"] == "merge"].iloc[0]
    first = tables["losses"].rows[0]
    assert first[0] == merge["run_name"]
    assert first[4] == (
        f"{merge['runs']} ({100 * merge['share']:.0f} %; {100 * merge['ci_low']:.0f} to "
        f"{100 * merge['ci_high']:.0f} %)"
    )
    row = breakdowns.tables(runs)["conflict_comparison"].iloc[0]
    cells = tables["conflict-comparison"].rows[0]
    assert cells[:3] == (row["a"], row["b"], str(row["pairs"]))
    assert cells[7] == f"{100 * row['diff']:+.1f}".replace("-", "\u2212")
    for table in tables.values():
        assert table.rows, table.name
        assert {len(cells) for cells in table.rows} == {len(table.columns)}
        assert not any("nan" in cell for cells in table.rows for cell in cells), table.name


def test_published_rows_are_beside_the_experiments_with_source(runs: pd.DataFrame) -> None:
    published = shown(runs)["published"]
    assert published.columns[-1] == "Source"
    assert [cells for cells in published.rows if cells[-1] == "this experiment"]
    outside = [cells for cells in published.rows if cells[-1] != "this experiment"]
    assert len(outside) >= 20
    # One line below names each source once, by the letters in the rows.
    sources = dict(re.findall(r"\[(\w)\] (.+?)(?:; (?=\[)|$)", published.sources))
    assert {mark for cells in outside for mark in cells[-1].split(", ")} == set(sources)
    assert len(set(sources.values())) == len(sources) >= 3
    assert all(name.startswith(("arXiv:2601.13295v2, ", "website, ")) for name in sources.values())
    assert {cells[4] for cells in outside} == {"yes", "no"}
    # Only solo rows and naive merges compare.
    assert all((cells[4] == "yes") == (cells[3] in ("", "naive")) for cells in published.rows)
    assert "not verified" in published.note and "Not comparable" in published.note


def test_tables_without_rows_say_why() -> None:
    solo = synthetic_tables.random(1)
    solo = solo[solo["mode"] == "solo"]
    tables = shown(solo)
    for name in ("losses", "own", "conflicts", "conflict-comparison", "messages", "associations"):
        assert tables[name].rows == ()
        assert tables[name].empty


def test_every_table_and_figure_has_one_part_of_the_page(runs: pd.DataFrame) -> None:
    tables = list(shown(runs).values())
    figures = [front_page.Figure(name, name, "", {}) for name in layout.PLOTS]
    parts = front_page.parts(tables, figures)
    placed = [entry.name for part in parts.values() for entry in (*part.tables, *part.figures)]
    assert sorted(placed) == sorted([*(t.name for t in tables), *layout.PLOTS])
    # Those that answer the question are open, each figure with the table that it belongs to.
    assert [f.name for f in parts["Losses"].figures] == ["losses", "reasons"]
    assert [t.name for t in parts["Losses"].tables if not t.is_folded] == ["losses"]
    assert parts["Published results"].content == "1 table, 1 figure"
    assert "Symptoms" not in parts
    assert set(front_page.parts((), ())) == set(front_page.MAIN_PARTS)


def test_every_figure_has_a_caption_for_both_reports() -> None:
    """Snakemake's report and the HTML report read the same file."""
    assert {path.stem for path in layout.CAPTIONS.glob("*")} == set(specifications.SPECS)
    for name in specifications.SPECS:
        caption = front_page.caption(name)
        assert caption.endswith("."), name
        assert "\n" not in caption


def test_a_replay_leads_to_the_guide(tmp_path: Path) -> None:
    """A relative address, and none that holds the paths of this machine."""
    link = front_page.guide_link(layout.REPOSITORY / "results" / "demo" / "report")
    assert link == "../../../README.md#run-the-benchmark"
    assert f"## {front_page.GUIDE_SECTION}\n" in (layout.REPOSITORY / "README.md").read_text()
    assert front_page.guide_link(tmp_path / "report") == ""


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("points (95 % interval −70 to +28, p = 1.000; 4 pairs are",
         ("95 %", "−70 to +28", "p = 1.000", "4 pairs")),
        ("(difference −23 points, 95 % interval −0.4 to 0.4, p < 0.001)",
         ("−23 points", "95 %", "−0.4 to 0.4", "p < 0.001")),
        ("61 of 100, 5 of them. 1 pair is, 1 point to go", ("61 of 100", "1 pair", "1 point")),
        ("waiting 0.5 s, 3 steps", ("0.5 s",)),
        ("a step 1 pairing, group = 3", ()),
    ],
)  # fmt: skip
def test_no_line_ends_within_a_value(text: str, values: tuple[str, ...]) -> None:
    keep_together = formats.keep_together(text)
    assert keep_together.replace(formats.NO_BREAK, " ") == text
    joined = [value.replace(" ", formats.NO_BREAK) for value in values]
    assert all(value in keep_together for value in joined)
    assert keep_together.count(formats.NO_BREAK) == sum(value.count(" ") for value in values)


def test_the_judges_table() -> None:
    first = next(iter(symptoms.SYMPTOMS))
    reading = symptoms.Reading((symptoms.Label(first, ("a", "b")),))
    counts = symptoms.count_symptoms({"r": [reading], "s": [reading]}, True)
    table = analysis_tables.build_judge_table(counts)
    assert "replay" in table.title
    assert len(table.rows) == len(symptoms.SYMPTOMS)
    assert table.rows[0][:3] == (first.replace("_", " "), "2 of 2", "100.0 %")


def test_the_introduction_explains_every_setting(tmp_path_factory: pytest.TempPathFactory) -> None:
    plan = synthetic.make_plan(tmp_path_factory.mktemp("plan"), "flash")
    text = front_page.introduction(plan)
    for setting in plan.settings:
        assert f"{setting.name}: " in text
    assert text.count("two agents work at the same time") == 1
    assert "coop-nocomm: the same without messages." in text
    assert "one agent adds both features" in text
    assert "they can send each other messages" in text and "without messages" in text
    terms = " ".join(term for term, _ in front_page.TERMS)
    for word in ("pair", "run", "conflict", "caveat", "points", "interval", "oracle", "replay"):
        assert word in terms
