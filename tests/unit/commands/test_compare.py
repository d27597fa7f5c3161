"""`make compare`: two results folders, against independently calculated figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_tables
from scipy.stats import binomtest

from commands import compare
from commands.compare import Folder
from cooperflow.errors import UserError
from cooperflow.layout import REPOSITORY

IMAGE = "akhatua/cooperbench-x:task1"


def outcomes(seed: int, rate: float) -> list[str]:
    generator = np.random.default_rng(seed)
    return np.where(generator.random(100) < rate, "pass", "fail").tolist()


def runs(rates: tuple[float, float, float], seed: int, model: str = "m") -> pd.DataFrame:
    chosen = synthetic_tables.pairs("lite")
    settings = ("solo", "coop-comm", "coop-nocomm")
    return synthetic_tables.joined(
        *(
            synthetic_tables.experiment(chosen, outcomes(seed + n, rate), model, setting)
            for n, (setting, rate) in enumerate(zip(settings, rates, strict=True))
        )
    )


def document(**changes: object) -> dict[str, object]:
    requested = {"model": "command-a", "agent": "mini_swe_agent_v2", "flags": ["--setting", "solo"]}
    resolved = {"cooperbench": "0.0.29", "litellm": "1", "tasks": {"x_task/1": "h1"}}
    return {
        "asked": {k: changes.get(k, v) for k, v in requested.items()},
        "resolved": {k: changes.get(k, v) for k, v in resolved.items()},
    }


def folder(name: str, table: pd.DataFrame, content: str = "c1", **changes: object) -> Folder:
    names = table["run_name"].unique()
    return Folder(
        name,
        table,
        {str(n): document(**changes) for n in names},
        {IMAGE: {"name": IMAGE, "content": content}},
    )


def test_the_figures_of_three_settings_by_100_pairs() -> None:
    left, right = runs((0.6, 0.3, 0.3), 1), runs((0.6, 0.7, 0.35), 50)
    result = compare.compare_folders(folder("a", left), folder("b", right))
    assert [row.a.run_name for row in result.rows] == ["m-solo", "m-coop-comm", "m-coop-nocomm"]
    p_values = []
    for row in result.rows:
        a, b = (
            (t.loc[t["run_name"] == row.a.run_name, "outcome"] == "pass").to_numpy()
            for t in (left, right)
        )
        only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
        assert (row.a.passed, row.b.passed) == (a.sum(), b.sum())
        assert row.difference.value == pytest.approx((only_b - only_a) / 100)
        p = binomtest(only_a, only_a + only_b).pvalue
        assert row.difference.p == pytest.approx(p, rel=1e-5)
        p_values.append(p)
    smallest = int(np.argmin(p_values))
    assert result.rows[smallest].p_holm == pytest.approx(3 * min(p_values), rel=1e-5)
    verdicts = [compare.verdict(row.difference) for row in result.rows]
    assert verdicts[1] == "B passes more"
    assert verdicts[0] == "inconclusive"
    assert result.marks == []
    assert result.alone == []


def test_single_models_are_compared_by_setting() -> None:
    left, right = runs((0.6, 0.3, 0.3), 1), runs((0.6, 0.3, 0.3), 9, "other")
    result = compare.compare_folders(folder("a", left), folder("b", right))
    assert next((r.a.run_name, r.b.run_name) for r in result.rows) == ("m-solo", "other-solo")
    coop_runs = right[right["setting"] != "solo"]
    partial = compare.compare_folders(folder("a", left), folder("b", coop_runs))
    assert partial.alone == ["m-solo (A)"]


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        ({"cooperbench": "0.0.28"},
         "The cooperbench (agents and evaluation) differs: 0.0.29 in A, 0.0.28 in B."),
        ({"agent": "codex"}, "The agent differs: mini_swe_agent_v2 in A, codex in B."),
        ({"model": "x"}, "The model differs: command-a in A, x in B."),
        ({"content": "c2"}, f"Images with other contents: {IMAGE}."),
    ],
)  # fmt: skip
def test_each_difference_is_marked_once(changes: dict[str, str], mark: str) -> None:
    table = runs((0.5, 0.5, 0.5), 1)
    result = compare.compare_folders(folder("a", table), folder("b", table, **changes))
    assert result.marks == [mark]


def test_replay_and_missing_documents_are_marked() -> None:
    table = runs((0.5, 0.5, 0.5), 1)
    bare = Folder("b", table.assign(replay=True))
    text = " ".join(compare.compare_folders(folder("a", table), bare).marks)
    assert "The contents of the tasks are not recorded in b." in text
    assert "No image is recorded in both folders" in text
    assert "No experiment.json on both sides: m-solo" in text
    assert "B has replayed runs, which are not a model's." in text


def test_other_data_sets_are_refused_or_marked() -> None:
    table = runs((0.5, 0.5, 0.5), 1)
    other = folder("b", table, tasks={"x_task/1": "h2"})
    with pytest.raises(UserError, match=r"x_task/1 has different contents in b and a.*ANYWAY=1"):
        compare.compare_folders(folder("a", table), other)
    result = compare.compare_folders(folder("a", table), other, accept_tasks=True)
    assert result.marks == ["Tasks with other contents: x_task/1."]
    # A task that only one folder has is not a difference.
    larger = folder("b", table, tasks={"x_task/1": "h1", "y_task/2": "h3"})
    assert compare.compare_folders(folder("a", table), larger).marks == []


def test_nothing_in_common_is_one_message() -> None:
    left = runs((0.5, 0.5, 0.5), 1)
    both_models = synthetic_tables.joined(left, runs((0.5, 0.5, 0.5), 3, "n"))
    other = runs((0.5, 0.5, 0.5), 5, "z")
    with pytest.raises(UserError, match="no experiment in common"):
        compare.compare_folders(folder("a", both_models), folder("b", other))
    with pytest.raises(UserError, match="no pair that both evaluated"):
        compare.compare_folders(folder("a", left), folder("b", left.assign(repo="other_task")))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "scripts" / "commands" / "compare.py"
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"COLUMNS": "200", "PYTHONUTF8": "1", "PATH": ""},
    )


def test_the_command_and_its_messages(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for path, seed in ((a, 1), (b, 2)):
        path.mkdir()
        runs((0.5, 0.4, 0.4), seed).to_csv(path / "runs.csv", index=False)
        for name in ("m-solo", "m-coop-comm", "m-coop-nocomm"):
            (path / "runs" / name).mkdir(parents=True)
            (path / "runs" / name / "experiment.json").write_text(json.dumps(document()))
        (path / "images").mkdir()
        (path / "images" / "x.json").write_text(json.dumps({"name": IMAGE, "id": f"sha256:{seed}"}))
    process = command(str(a), str(b))
    assert process.returncode == 0, process.stderr
    assert "m-coop-comm" in process.stdout
    assert "inconclusive; 100 pairs are enough to detect" in process.stdout
    assert f"! Images with other contents: {IMAGE}." in process.stdout
    c.mkdir()
    (c / "runs.csv").write_text("nonsense\n1\n")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((str(a), str(a)), "same folder"),
        ((str(a), str(tmp_path / "missing")), "no such folder"),
        ((str(tmp_path / "empty"), str(a)), "has no runs.csv"),
        ((str(a), str(c)), "runs.csv"),
    ):
        failed = command(*arguments)
        assert failed.returncode == 1
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
