"""The paper's measures on constructed experiments, and the published figures."""

from __future__ import annotations

import csv
import itertools
import math
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import synthetic_tables
from scipy.stats import norm

from cooperflow.plots import specifications
from cooperflow.plots.specifications import Tables
from cooperflow.tables import breakdowns, comparison, paper_tables, run_table
from cooperflow.upstream import published

MODELS = ("m1", "m2", "m3", "m4")
SETTINGS = ("solo", "coop-comm", "coop-nocomm")


def constructed() -> pd.DataFrame:
    """Four models by three settings by 100 pairs; alone m1 always passes and m4 never does.

    So the difficulty before it is rescaled is neither 0 nor 1.
    """
    chosen = synthetic_tables.pairs("lite")
    generator = np.random.default_rng(11)
    ease = generator.random(100)
    parts = []
    for number, model in enumerate(MODELS):
        for shift, setting in zip((0.1, -0.15, -0.25), SETTINGS, strict=True):
            passed = generator.random(100) < np.clip(ease + shift - 0.1 * number, 0, 1)
            if setting == "solo" and model in ("m1", "m4"):
                passed[:] = model == "m1"
            broken = (generator.random(100) < 0.02) & (number in (1, 2))
            outcome = np.where(broken, "infra_error", np.where(passed, "pass", "fail"))
            caveat = np.where(
                (np.arange(100) % 9 == 0) & (outcome == "pass") & (setting != "solo"),
                "lead_alone",
                "",
            )
            parts.append(
                synthetic_tables.experiment(chosen, outcome.tolist(), model, setting, caveat=caveat)
            )
    return synthetic_tables.joined(*parts)


def by_hand(runs: pd.DataFrame) -> dict[tuple[str, str], dict[int, list[int]]]:
    """Return graded runs and passes of each model, setting and bucket, without pandas' tools."""
    rows = [row for row in runs.to_dict("records") if row["outcome"] != "infra_error"]
    solo: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row in rows:
        if row["setting"] == "solo":
            solo[row["repo"], row["task_id"], row["features"]].append(row["outcome"] == "pass")
    hard = {pair: 1 - sum(wins) / len(wins) for pair, wins in solo.items()}
    low, high = min(hard.values()), max(hard.values())
    cells: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(
        lambda: defaultdict(lambda: [0, 0])
    )
    for row in rows:
        pair = row["repo"], row["task_id"], row["features"]
        if pair not in hard:
            continue
        bucket = min(int(10 * (hard[pair] - low) / (high - low) + 1e-9), 9)
        for model in (row["model"], "(pooled)"):
            cell = cells[model, row["setting"]][bucket]
            cell[0] += 1
            cell[1] += row["outcome"] == "pass"
    return cells


def test_the_papers_measures_by_hand() -> None:
    runs = constructed()
    curves = paper_tables.buckets(runs)
    paper = curves[curves["scale"] == "paper"]
    expected = by_hand(runs)
    assert len(paper) == sum(len(buckets) for buckets in expected.values())
    z = norm.ppf(0.975)
    for row in paper.to_dict("records"):
        n, k = expected[row["model"], row["setting"]][row["bucket"]]
        assert (row["graded"], row["pass"]) == (n, k)
        p = k / n
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert row["ci_low"] == pytest.approx(max(center - half, 0), abs=2e-6)
        assert row["ci_high"] == pytest.approx(center + half, abs=2e-6)
    gaps = paper_tables.gaps(curves)
    gaps = gaps[gaps["scale"] == "paper"]
    assert list(dict.fromkeys(gaps["model"])) == [*MODELS, "(pooled)"]
    for row in gaps.to_dict("records"):
        areas = []
        shared = set(expected[row["model"], "solo"]) & set(expected[row["model"], row["setting"]])
        for setting in ("solo", row["setting"]):
            cells = expected[row["model"], setting]
            points = [((b + 0.5) / 10, cells[b][1] / cells[b][0]) for b in sorted(shared)]
            steps = itertools.pairwise(points)
            areas.append(sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in steps))
        assert row["auc_solo"] == pytest.approx(areas[0], abs=1e-6)
        assert row["auc"] == pytest.approx(areas[1], abs=1e-6)
        retention = areas[1] / areas[0] if areas[0] else math.nan
        assert row["retention"] == pytest.approx(retention, abs=1e-5, nan_ok=True)


def test_the_websites_pooled_points_give_the_published_areas() -> None:
    rows = published.read_curve()
    x = np.array([float(row["difficulty"]) for row in rows])
    areas = [
        paper_tables.trapezoids(x, np.array([float(row[column]) for row in rows]))
        for column in ("solo", "coop")
    ]
    assert [round(area, 2) for area in areas] == [0.34, 0.20]
    assert round(areas[1] / areas[0], 2) == pytest.approx(0.58)  # printed: 0.59, from 0.200 / 0.338


def test_pairs_that_are_equally_difficult_have_no_scale() -> None:
    chosen = synthetic_tables.pairs("lite")
    runs = synthetic_tables.joined(
        *(
            synthetic_tables.experiment(chosen, ["fail"] * 100, setting=setting)
            for setting in SETTINGS
        )
    )
    curves = paper_tables.buckets(runs)
    assert set(curves["scale"]) == {"pair", "task"}
    assert (
        breakdowns.tables(runs)["published"]
        .query("source == 'this experiment'")["auc"]
        .isna()
        .all()
    )
    small = breakdowns.tables(runs)
    tables = Tables(runs, run_table.summary_table(runs), comparison.table(runs), small)
    panels = specifications.paper_difficulty(tables)["concat"]
    assert [panel["title"] for panel in panels] == ["no curve: the solo runs do not differ"]
    assert len(panels[0]["data"]["values"]) == 18


def test_every_published_row_has_a_source_and_plausible_figures() -> None:
    rows = published.read_rows()
    assert len(
        {(r["model"], r["framework"], r["git"], r["setting"], r["merge"]) for r in rows}
    ) == len(rows)
    for row in rows:
        assert row["source"].startswith(("arXiv:2601.13295v2, ", "website, "))
        assert row["git"] in ("True", "False")
        assert int(row["pairs"]) in (652, 3260)
        assert row["pass"] or row["pass_rate"]
        if row["pass"] and row["pass_rate"]:
            # The printed counts and rates differ by at most 0.2 points.
            share = int(row["pass"]) / int(row["pairs"])
            assert share == pytest.approx(float(row["pass_rate"]), abs=0.0021)
    printed = {r["model"]: r for r in rows if r["retention"]}
    solo = {r["model"]: float(r["auc"]) for r in rows if r["setting"] == "solo" and r["auc"]}
    for model, row in printed.items():
        retention = float(row["auc"]) / solo[model]
        assert retention == pytest.approx(float(row["retention"]), abs=0.006)
    with published.ROWS.open() as stream:
        assert len(list(csv.DictReader(stream))) == len(rows)


def test_own_rows_are_beside_the_published_ones() -> None:
    runs = constructed()
    tables = breakdowns.tables(runs)
    table = tables["published"]
    own = table[table["source"] == paper_tables.THIS]
    assert len(own) == 4 * 5  # solo, and two rows for each coop setting
    assert len(table) == len(own) + len(published.read_rows())
    graded = runs[runs["outcome"] != "infra_error"]
    group = graded[(graded["model"] == "m2") & (graded["setting"] == "coop-comm")]
    rows = own[(own["model"] == "m2") & (own["setting"] == "coop-comm")].set_index("merge")
    passed = group["outcome"] == "pass"
    alone = passed & (group["caveat"] == "lead_alone")
    assert alone.any()
    assert rows.loc[paper_tables.LEAD_ALONE, "pass"] == passed.sum()
    assert rows.loc[paper_tables.NAIVE, "pass"] == passed.sum() - alone.sum()
    assert rows["pairs"].tolist() == [len(group)] * 2
    assert rows["comparable"].tolist() == [False, True]
    gaps = tables["coordination_gap"].query("scale == 'paper' and model == 'm2'")
    gap = gaps[gaps["setting"] == "coop-comm"].iloc[0]
    assert rows.loc[paper_tables.LEAD_ALONE, "auc"] == gap["auc"]
    assert rows.loc[paper_tables.LEAD_ALONE, "retention"] == gap["retention"]
    comparable = table[table["comparable"]]
    assert set(comparable["merge"]) == {"", "naive"}
    assert comparable[["ci_low", "ci_high"]].notna().all(axis=None)


def test_the_figures_show_the_tables_and_the_published_rows() -> None:
    runs = constructed()
    small = breakdowns.tables(runs)
    tables = Tables(runs, run_table.summary_table(runs), comparison.table(runs), small)
    panels = specifications.paper_difficulty(tables)["concat"]
    assert [panel["title"] for panel in panels] == [*MODELS, "(pooled)"]
    paper = small["by_difficulty"].query("scale == 'paper'")
    for panel in panels:
        rows = panel["data"]["values"]
        own = [row["value"] for row in rows if not row["curve"].startswith("published")]
        assert own == paper.loc[paper["model"] == panel["title"], "pass_rate"].tolist()
        values = [row["value"] for row in rows if row["curve"] == "published coop"]
        assert values == [float(row["coop"]) for row in published.read_curve()]
        assert not any("nan" in row["tip"] for row in rows)
    comparable = small["published"].query("comparable and model != '(pooled)'")
    points = specifications.published_rates(tables)["data"]["values"]
    assert [row["value"] for row in points] == comparable["pass_rate"].tolist()
    assert [row["low"] for row in points] == comparable["ci_low"].tolist()
    assert sum(row["group"] == "published" for row in points) == 18
