"""The small tables, repeats, headline tables and plots."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import made_runs
import pandas as pd
import pytest
from pypdf import PdfReader

from cooperflow import formats, layout
from cooperflow.errors import UserError
from cooperflow.experiment import config as configuration
from cooperflow.experiment import pairs
from cooperflow.experiment import plan as planning
from cooperflow.plots import specifications, vega
from cooperflow.tables import (
    breakdowns,
    communication_tables,
    comparison,
    derived_tables,
    paper_tables,
    run_table,
)
from cooperflow.upstream import published

PAIRS = [("a_task", 1, "1,2"), ("a_task", 1, "1,3"), ("b_task", 2, "1,2"), ("b_task", 2, "2,3")]
EMPTY = made_runs.experiment(PAIRS, ["pass"] * 4).iloc[:0]


def small(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return breakdowns.tables(runs)


def test_names_are_those_of_the_files() -> None:
    assert tuple(small(EMPTY)) == layout.BREAKDOWNS
    assert tuple(specifications.SPECS) == tuple(layout.PLOTS)


def test_every_column_is_documented() -> None:
    manual = (layout.REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    tables = [run_table.runs_table([]), run_table.summary_table(EMPTY), comparison.table(EMPTY)]
    for table in [*tables, *small(CASES["plain"]).values()]:
        for column in table.columns:
            assert re.search(rf"\b{column}\b", manual), column


def test_every_published_repo_has_a_language() -> None:
    repos = {repo for repo, _ in pairs.known_features()}
    assert repos == set(published.LANGUAGES)
    assert len(set(published.LANGUAGES.values())) == 4
    assert published.language_of("mine_task") == "unknown"
    assert published.language_of("mine_task", {"mine_task": "Zig"}) == "Zig"


def test_rates_count_and_leave_infra_errors_out() -> None:
    runs = made_runs.experiment(PAIRS, ["pass", "infra_error", "fail", "pass"])
    table = small(runs)["by_repo"]
    assert table[["repo", "runs", "pass", "fail", "infra_error"]].to_numpy().tolist() == [
        ["a_task", 2, 1, 0, 1],
        ["b_task", 2, 1, 1, 0],
    ]
    assert table["pass_rate"].tolist() == [1.0, 0.5]
    lost = small(made_runs.experiment(PAIRS, ["infra_error"] * 4))["by_task"]
    assert lost[["pass_rate", "ci_low", "ci_high"]].isna().all(axis=None)


def test_sums_agree_with_the_summary() -> None:
    runs = made_runs.random(2)
    summary = run_table.summary_table(runs).set_index("run_name")
    for name, table in small(runs).items():
        if name.startswith("by_") and name not in ("by_difficulty", "by_reason"):
            sums = table.groupby("run_name")[["pass", "fail", "infra_error"]].sum()
            assert sums.equals(summary.loc[sums.index, ["pass", "fail", "infra_error"]]), name
    costs = small(runs)["cost"].set_index("run_name")
    assert costs["cost_usd"].to_numpy() == pytest.approx(summary["cost_usd"].to_numpy())
    assert (costs["work_s"] + costs["waited_s"]).to_numpy() == pytest.approx(
        costs["duration_s"].to_numpy()
    )


def test_bins() -> None:
    values = pd.Series([0, 1, 5, 6, 10, 11, 50, 51, 999])
    assert breakdowns.binned(values, breakdowns.MESSAGE_EDGES).tolist() == [
        "0", "1-5", "1-5", "6-10", "6-10", "11-20", "21-50", "51+", "51+",
    ]  # fmt: skip


def test_by_solo_outcome() -> None:
    runs = made_runs.joined(
        made_runs.experiment(PAIRS, ["pass", "pass", "fail", "infra_error"]),
        made_runs.experiment(PAIRS, ["pass", "fail", "pass", "pass"], setting="coop-comm"),
    )
    table = small(runs)["by_solo_outcome"].set_index("solo_outcome")
    assert table["pass"].to_dict() == {"fail": 1, "infra_error": 1, "pass": 1}
    assert table.loc["pass", "pass_rate"] == 0.5


def test_difficulty_and_areas_by_hand() -> None:
    # Task a: solo 1 of 2, so 0.5 and bucket 5; task b: 2 of 2, so 0 and bucket 0.
    runs = made_runs.joined(
        made_runs.experiment(PAIRS, ["pass", "fail", "pass", "pass"]),
        made_runs.experiment(PAIRS, ["fail", "fail", "pass", "fail"], setting="coop-comm"),
    )
    curves = paper_tables.buckets(runs)
    task = curves[curves["scale"] == "task"]
    assert task[["setting", "bucket", "graded", "pass"]].to_numpy().tolist() == [
        ["solo", 0, 2, 2],
        ["solo", 5, 2, 1],
        ["coop-comm", 0, 2, 1],
        ["coop-comm", 5, 2, 0],
    ]
    gap = paper_tables.gaps(curves).set_index("scale").loc["task"]
    # Middles at 0.05 and 0.55: solo 0.05 * 1 + 0.5 * 0.75 + 0.45 * 0.5; coop half a step lower.
    assert gap["auc_solo"] == pytest.approx(0.65)
    assert gap["auc"] == pytest.approx(0.05 * 0.5 + 0.5 * 0.25)
    assert gap["gap"] == pytest.approx(0.5)
    assert gap["retention"] == pytest.approx(0.15 / 0.65, abs=1e-6)
    # By pair, with one model: what solo passed, and what it did not.
    assert curves.loc[curves["scale"] == "pair", "bucket"].tolist() == [0, 9, 0, 9]


def test_difficulty_is_the_mean_over_models() -> None:
    runs = made_runs.joined(
        *(
            made_runs.experiment(PAIRS, [outcome] * 4, f"m{number}")
            for number, outcome in enumerate(["pass", "fail", "fail", "fail", "infra_error"])
        )
    )
    assert paper_tables.scores(runs, "pair").tolist() == [0.75] * 4
    # 1 - 0.7 is a little less than 0.3 in a computer; it is of the bucket from 0.3 on.
    ten = made_runs.joined(
        *(
            made_runs.experiment(PAIRS, ["pass" if n < 7 else "fail"] * 4, f"m{n}")
            for n in range(10)
        )
    )
    assert set(paper_tables.buckets(ten)["bucket"]) == {3}


def test_without_solo_there_is_no_difficulty() -> None:
    tables = small(made_runs.experiment(PAIRS, ["pass"] * 4, setting="coop-comm"))
    for name in ("by_solo_outcome", "by_difficulty", "coordination_gap"):
        assert tables[name].empty


def test_repeats_by_hand() -> None:
    # Shares of passes: 1, 1/2, 0, 1/2 over tasks a, a, b, b.
    runs = made_runs.joined(
        made_runs.experiment(PAIRS, ["pass", "pass", "fail", "fail"]),
        made_runs.experiment(PAIRS, ["pass", "fail", "fail", "pass"], repeat=2),
    )
    row = breakdowns.repeats(runs).iloc[0]
    assert [row["repeats"], row["pairs"], row["graded"]] == [2, 4, 8]
    assert row["pass_at_1"] == 0.5
    # Deviations 0.5, 0, -0.5, 0: task sums 0.5 and -0.5.
    assert row["se"] == pytest.approx(math.sqrt(0.5) / 4, abs=1e-6)
    assert row["se_pairs"] == pytest.approx(math.sqrt(0.5) / 4, abs=1e-6)
    # Two pairs that changed: variance of a run 1/2 each, of the pair's share 1/4.
    assert row["se_repeats"] == pytest.approx(math.sqrt(2 * 0.25) / 4, abs=1e-6)
    assert [row["always_pass"], row["always_fail"], row["changed"]] == [1, 1, 2]
    assert [row["repeated_pairs"], row["changed_share"], row["disagreement"]] == [4, 0.5, 0.5]


def test_repeats_with_an_infra_error_use_the_evaluated_runs() -> None:
    runs = made_runs.joined(
        made_runs.experiment(PAIRS, ["pass", "pass", "fail", "infra_error"]),
        made_runs.experiment(PAIRS, ["infra_error", "fail", "fail", "infra_error"], repeat=2),
    )
    row = breakdowns.repeats(runs).iloc[0]
    assert [row["pairs"], row["graded"], row["repeated_pairs"], row["changed"]] == [3, 5, 2, 1]
    assert row["pass_at_1"] == pytest.approx(0.5)


# --- the config key ---------------------------------------------------------------------------


def make_plan(**keys: object) -> planning.Plan:
    raw: dict[str, object] = {
        "dataset": {"dir": "demo/dataset", "subset": "flash"},
        "models": {"m": {"model": "x"}},
        "settings": {"solo": ["--setting", "solo"], "coop-comm": ["--setting", "coop"]},
    }
    return planning.make(configuration.parse({**raw, **keys}))


def test_each_repeat_has_a_separate_name() -> None:
    assert [e.run_name for e in make_plan().experiments] == ["m-solo", "m-coop-comm"]
    plan = make_plan(repeats=3)
    assert [e.run_name for e in plan.experiments] == [
        "m-solo", "m-solo-r2", "m-solo-r3", "m-coop-comm", "m-coop-comm-r2", "m-coop-comm-r3",
    ]  # fmt: skip
    assert [e.repeat for e in plan.experiments] == [1, 2, 3, 1, 2, 3]
    assert len(plan.runs) == 300
    assert plan.experiment("m-solo-r3").repeat == 3


@pytest.mark.parametrize("value", [0, -1, 100, "two", 1.5])
def test_repeats_are_checked(value: object) -> None:
    with pytest.raises(UserError, match="repeats"):
        make_plan(repeats=value)


def test_a_repeat_cannot_take_the_name_of_a_setting() -> None:
    named = {"solo": ["--setting", "solo"], "solo-r2": ["--setting", "solo"]}
    assert len(make_plan(settings=named).experiments) == 2
    with pytest.raises(UserError, match="both be called m-solo-r2"):
        make_plan(settings=named, repeats=2)


# --- files ------------------------------------------------------------------------------------


def test_runs_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    runs = made_runs.random(1).assign(caveat="", model="null", features="1,2")
    runs.loc[0, "outcome"] = "infra_error"
    runs["feature1_passed"] = runs["feature1_passed"].astype(object)
    runs.loc[0, "feature1_passed"] = None
    runs.to_csv(tmp_path / "runs.csv", index=False)
    back = run_table.read_runs(tmp_path / "runs.csv")
    assert back["caveat"].eq("").all()
    assert back["model"].eq("null").all()
    assert comparison.table(back).equals(comparison.table(runs))
    assert back["task_id"].tolist() == runs["task_id"].tolist()


def test_an_older_runs_csv_is_reported(tmp_path: Path) -> None:
    made_runs.random(1).drop(columns="repeat").to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(UserError, match="repeat is missing"):
        run_table.read_runs(tmp_path / "runs.csv")


def write_tables(runs: pd.DataFrame, root: Path) -> layout.Results:
    results = layout.Results(root)
    (root / "tables").mkdir(parents=True)
    runs.to_csv(results.runs_csv, index=False)
    run_table.summary_table(runs).to_csv(results.summary_csv, index=False)
    comparison.table(runs).to_csv(results.comparison_csv, index=False)
    talk = communication_tables.small(made_runs.communication(runs))
    for name, table in {**small(runs), **talk}.items():
        table.to_csv(results.table(f"{name}.csv"), index=False)
    return results


HARD = "x_&%$#{}~^|*<b>"


def test_headlines_are_inert() -> None:
    runs = made_runs.joined(
        made_runs.experiment(PAIRS, ["pass"] * 4, HARD),
        made_runs.experiment(PAIRS, ["fail"] * 4, HARD, "coop-comm"),
    )
    summary = derived_tables.headline_summary(run_table.summary_table(runs))
    latex = summary.latex()
    assert (
        r"x\_\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}|*\textless{}b\textgreater{}" in latex
    )
    assert latex.count(r"\\") == 3
    assert r"Pass rate (95 \% CI)" in latex
    lines = [line for line in summary.markdown().splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert r"x\_&%$#{}~^\|\*\<b\>-solo" in lines[2]


def test_headline_figures() -> None:
    runs = made_runs.joined(
        made_runs.experiment(PAIRS, ["pass"] * 3 + ["fail"], cost_complete=False),
        made_runs.experiment(PAIRS, ["fail"] * 4, setting="coop-comm", replay=True),
    )
    summary = derived_tables.headline_summary(run_table.summary_table(runs))
    assert summary.rows[0] == (
        "m-solo", "4", "3", "1", "0", "75.0 % (30.1 to 95.4)", "3", "≥ 0.40",
    )  # fmt: skip
    assert "Replay" in summary.caption
    row = derived_tables.headline_comparison(comparison.table(runs)).rows[0]
    assert row[:8] == ("m-solo", "m-coop-comm", "4", "0", "3", "0", "1", row[7])
    assert row[7].startswith("+75.0 (")
    assert row[9] == "0.250"
    nothing = derived_tables.headline_comparison(
        comparison.table(runs.assign(outcome="infra_error"))
    )
    assert nothing.rows[0][7:] == (formats.MISSING,) * 4


CASES = {
    "plain": made_runs.random(1),
    "repeats": made_runs.random(1, "flash", repeats=2),
    "one run": made_runs.experiment(PAIRS[:1], ["pass"]),
    "all infra": made_runs.experiment(PAIRS, ["infra_error"] * 4),
    "no times": made_runs.experiment(PAIRS, ["fail"] * 4, started="", ended=""),
    "no cost": made_runs.experiment(PAIRS, ["fail"] * 4, cost_usd=0.0),
    "hard names": made_runs.experiment(PAIRS, ["pass"] * 4, "$a_{b}$ <i>%s"),
    "empty": EMPTY,
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
    tables = specifications.load(write_tables(made_runs.random(1).assign(replay=True), tmp_path))
    for name, spec in specifications.SPECS.items():
        assert "replay" in spec(tables)["title"], name
    plain = specifications.load(write_tables(CASES["plain"], tmp_path / "plain"))
    assert "replay" not in specifications.pass_rates(plain)["title"]


def test_the_snakefile_imports_no_statistics() -> None:
    code = (
        "import sys; from cooperflow import layout, processes;"
        "from cooperflow.experiment import config, plan;"
        "print([m for m in ('scipy', 'statsmodels', 'vl_convert') if m in sys.modules])"
    )
    scripts = str(layout.REPOSITORY / "scripts")
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": scripts},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "[]"
