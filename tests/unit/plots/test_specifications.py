"""Plots: their values are those of the tables, and each can be drawn from any of them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import synthetic_tables
from pypdf import PdfReader

from cooperflow import layout
from cooperflow.plots import specifications, vega
from cooperflow.tables import breakdowns, communication_tables, comparison, run_table

PAIRS = [("a_task", 1, "1,2"), ("a_task", 1, "1,3"), ("b_task", 2, "1,2"), ("b_task", 2, "2,3")]


def write_tables(runs: pd.DataFrame, root: Path) -> layout.Results:
    results = layout.Results(root)
    (root / "tables").mkdir(parents=True)
    runs.to_csv(results.runs_csv, index=False)
    run_table.summary_table(runs).to_csv(results.summary_csv, index=False)
    comparison.table(runs).to_csv(results.comparison_csv, index=False)
    talk = communication_tables.tables_by_experiment(synthetic_tables.communication(runs))
    for name, table in {**breakdowns.tables(runs), **talk}.items():
        table.to_csv(results.table(f"{name}.csv"), index=False)
    return results


CASES = {
    "plain": synthetic_tables.random(1),
    "repeats": synthetic_tables.random(1, "flash", repeats=2),
    "one run": synthetic_tables.experiment(PAIRS[:1], ["pass"]),
    "all infra": synthetic_tables.experiment(PAIRS, ["infra_error"] * 4),
    "no times": synthetic_tables.experiment(PAIRS, ["fail"] * 4, started="", ended=""),
    "no cost": synthetic_tables.experiment(PAIRS, ["fail"] * 4, cost_usd=0.0),
    "hard names": synthetic_tables.experiment(PAIRS, ["pass"] * 4, "$a_{b}$ <i>%s"),
    "empty": synthetic_tables.experiment(PAIRS, ["pass"] * 4).iloc[:0],
}


def titles(spec: vega.Spec) -> list[tuple[str, str]]:
    """The axes of numbers of a specification, each with its title, which states the unit.

    Lanes of a timeline have names instead of numbers.
    """
    encodings = [
        (axis, encoding)
        for view in vega.views(spec)
        for layer in view["layer"]
        for axis, encoding in layer["encoding"].items()
        if axis in ("x", "y") and encoding.get("type") == "quantitative" and "title" in encoding
    ]
    return [
        (axis, encoding["title"])
        for axis, encoding in encodings
        if "labelExpr" not in encoding.get("axis", {})
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_plot_can_be_drawn(case: str, tmp_path: Path) -> None:
    tables = specifications.load(write_tables(CASES[case], tmp_path))
    for name in layout.PLOTS:
        spec = specifications.SPECS[name](tables)
        assert spec["title"]
        for axis, title in titles(spec):
            assert title, (name, axis)
        json.dumps(spec, allow_nan=False)
        svg = specifications.render(name, tables, ("svg",))["svg"]
        assert svg.startswith(b"<svg")
        size = re.search(rb'width="([^"]+)" height="([^"]+)"', svg)
        assert size
        assert all(0 < float(pixels) < 5000 for pixels in size.groups()), (name, size[0])


@pytest.mark.parametrize("name", ["paired_outcomes", "repo_outcomes"])
def test_plots_are_rendered_in_every_kind_and_reproducibly(name: str, tmp_path: Path) -> None:
    tables = specifications.load(write_tables(CASES["plain"], tmp_path))
    images = specifications.render(name, tables, layout.PLOT_KINDS)
    assert images["png"].startswith(b"\x89PNG")
    assert images["pdf"].startswith(b"%PDF")
    assert images == specifications.render(name, tables, layout.PLOT_KINDS)


def test_text_needs_no_system_fonts(tmp_path: Path) -> None:
    """The font is bundled with vl-convert: a PDF holds it, and its text can be read."""
    tables = specifications.load(write_tables(CASES["plain"], tmp_path))
    pdf = specifications.render("pass_rates", tables, ("pdf",))["pdf"]
    (page,) = PdfReader(io.BytesIO(pdf)).pages
    assert "model0-solo (n=100)" in page.extract_text()
    fonts = [font.get_object()["/BaseFont"] for font in page["/Resources"]["/Font"].values()]
    assert fonts
    assert all(vega.FONT.replace(" ", "") in font for font in fonts)


def test_figures_show_the_values_of_the_tables(tmp_path: Path) -> None:
    tables = specifications.load(write_tables(CASES["plain"], tmp_path))
    rows = {name: spec(tables) for name, spec in specifications.SPECS.items()}
    values = {row["label"]: row["value"] for row in rows["pass_rates"]["data"]["values"]}
    rates = tables.summary.set_index("run_name")["pass_rate"]
    assert values == pytest.approx(rates.to_dict())
    bars = pd.DataFrame(rows["paired_outcomes"]["data"]["values"])
    for key, word in specifications.PAIRED_WORDS.items():
        counts = bars.loc[bars["kind"] == word, "count"].tolist()
        assert counts == tables.comparison[key].tolist()
    assert bars.groupby("name", sort=False)["end"].max().tolist() == pytest.approx([1.0] * 3)
    cell = rows["repo_outcomes"]["data"]["values"][0]
    by_repo = tables.breakdowns["by_repo"].set_index(["repo", "run_name"])["pass_rate"]
    assert cell["value"] == by_repo[f"{cell['repo']}_task", cell["name"]]
    assert len(rows["timeline"]["data"]["values"]) == len(tables.runs)


def test_lanes_do_not_overlap(tmp_path: Path) -> None:
    spec = specifications.timeline(specifications.load(write_tables(CASES["plain"], tmp_path)))
    ends: dict[float, float] = {}
    for bar in sorted(spec["data"]["values"], key=lambda bar: bar["start"]):
        assert bar["start"] >= ends.get(bar["top"], 0.0)
        ends[bar["top"]] = bar["end"]
    assert len(ends) == 3 * 4


def test_replay_is_in_every_title(tmp_path: Path) -> None:
    tables = specifications.load(
        write_tables(synthetic_tables.random(1).assign(replay=True), tmp_path)
    )
    for name, spec in specifications.SPECS.items():
        assert "replay" in spec(tables)["title"], name
    plain = specifications.load(write_tables(CASES["plain"], tmp_path / "plain"))
    assert "replay" not in specifications.pass_rates(plain)["title"]


def test_names_are_those_of_the_files() -> None:
    assert tuple(specifications.SPECS) == tuple(layout.PLOTS)
