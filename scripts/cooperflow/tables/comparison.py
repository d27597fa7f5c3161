"""Paired comparisons of two experiments, of one results folder (comparison.csv) or of two.

Of two folders, an experiment of B is compared with the experiment of A that has its run name; if
each folder has one model, with the experiment of its setting and repeat. Pure, but for the reader
of a folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cooperflow import atomic_io
from cooperflow.errors import UserError, listed
from cooperflow.layout import Results
from cooperflow.outcomes import judgement
from cooperflow.tables import run_table, stats

SETTINGS = "settings"
MODELS = "models"
FOLDERS = "folders"
COLUMNS = (
    *("compared", "a", "b", "model", "setting", "repeat"),
    *("pairs", "tasks", "both", "only_a", "only_b", "neither"),
    *("pass_rate_a", "pass_rate_b", "diff", "ci_low", "ci_high", "cluster_low", "cluster_high"),
    *("p", "p_holm", "min_detectable"),
    *("infra_excluded", "diff_low_bound", "diff_high_bound", "unfinished"),
    *("replay", "adopted"),
)
SIGNIFICANT = 0.05
TASK = ["repo", "task_id"]
PAIR = [*TASK, "features"]
_KEY = ("setting", "repeat")
# Keys of experiment.json that may differ between two folders, in the words of a mark.
REQUESTED = {
    "model": "model",
    "api_base": "provider",
    "flags": "flags",
    "agent": "agent",
    "agent_config": "agent config",
    "backend": "backend",
    "containers": "limits of containers",
    "run_seconds": "time limit of a run",
}
RESOLVED = {
    "cooperbench": "cooperbench (agents and evaluation)",
    "litellm": "litellm",
    "agent_config": "upstream's agent config",
}


@dataclass(frozen=True)
class Contrast:
    """Two run names to compare: two settings of a model, or two models in a setting.

    The difference is that of the minuend (column a) less that of the subtrahend (column b).
    """

    compared: str
    minuend: str
    subtrahend: str
    model: str  # of both; empty where models are compared
    setting: str  # of both; empty where settings are compared
    repeat: int


def contrasts(runs: pd.DataFrame) -> list[Contrast]:
    """Return the comparisons: experiments in the order of the table, the earlier as minuend.

    Each repeat is compared with the same repeat of the other.
    """
    columns = ["run_name", "model", "setting", "repeat"]
    experiments = runs[columns].drop_duplicates("run_name").to_dict("records")
    pairs = []
    for a, b in combinations(experiments, 2):
        if a["repeat"] != b["repeat"]:
            continue
        names = str(a["run_name"]), str(b["run_name"])
        if a["model"] == b["model"]:
            pairs.append(Contrast(SETTINGS, *names, str(a["model"]), "", int(a["repeat"])))
        elif a["setting"] == b["setting"]:
            pairs.append(Contrast(MODELS, *names, "", str(a["setting"]), int(a["repeat"])))
    return sorted(pairs, key=lambda contrast: contrast.compared != SETTINGS)


def table(runs: pd.DataFrame, chosen: Sequence[Contrast] | None = None) -> pd.DataFrame:
    """Return one row per contrast, from the table of runs.

    Only pairs with an evaluation in both experiments are compared; the others are counted, and
    pairs excluded by an infra_error also bound the difference.

    Args:
        chosen: the contrasts; by default those of settings and of models.
    """
    outcomes = runs.pivot_table(
        index=PAIR, columns="run_name", values="outcome", aggfunc="first", sort=False
    )
    replayed = set(runs.loc[runs["replay"].astype(bool), "run_name"])
    adopted = set(runs.loc[runs["adopted"].astype(bool), "run_name"])
    rows = [
        {
            **_row(contrast, outcomes),
            "replay": bool(replayed & {contrast.minuend, contrast.subtrahend}),
            "adopted": bool(adopted & {contrast.minuend, contrast.subtrahend}),
        }
        for contrast in (contrasts(runs) if chosen is None else chosen)
    ]
    adjusted = stats.holm([row["p"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["p_holm"] = _round_p(p)
        row["p"] = _round_p(row["p"])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(contrast: Contrast, outcomes: pd.DataFrame) -> dict[str, Any]:
    sides = outcomes[[contrast.minuend, contrast.subtrahend]]
    a, b = sides[contrast.minuend], sides[contrast.subtrahend]
    graded = a.isin(judgement.GRADED) & b.isin(judgement.GRADED)
    infra = ((a == judgement.INFRA_ERROR) | (b == judgement.INFRA_ERROR)) & ~graded
    infra &= a.isin(judgement.OUTCOMES) & b.isin(judgement.OUTCOMES)
    passed_a = (a[graded] == judgement.PASS).to_numpy()
    passed_b = (b[graded] == judgement.PASS).to_numpy()
    both, neither = int((passed_a & passed_b).sum()), int((~passed_a & ~passed_b).sum())
    only_a, only_b = int((passed_a & ~passed_b).sum()), int((~passed_a & passed_b).sum())
    pairs = both + only_a + only_b + neither
    low, high = stats.paired_interval(both, only_a, only_b, neither)
    sums, sizes = _by_task(sides[graded].index, passed_a.astype(float) - passed_b.astype(float))
    cluster_low, cluster_high = stats.cluster_interval(sums, sizes)
    bound_low, bound_high = _bounds(a[infra], b[infra], only_a - only_b, pairs)
    return {
        "compared": contrast.compared,
        "a": contrast.minuend,
        "b": contrast.subtrahend,
        "model": contrast.model,
        "setting": contrast.setting,
        "repeat": contrast.repeat,
        "pairs": pairs,
        "tasks": len(sums),
        "both": both,
        "only_a": only_a,
        "only_b": only_b,
        "neither": neither,
        "pass_rate_a": stats.rate(both + only_a, pairs),
        "pass_rate_b": stats.rate(both + only_b, pairs),
        "diff": stats.rate(only_a - only_b, pairs),
        "ci_low": low,
        "ci_high": high,
        "cluster_low": cluster_low,
        "cluster_high": cluster_high,
        "p": stats.mcnemar(only_a, only_b) if pairs else math.nan,
        "min_detectable": stats.min_detectable(pairs, only_a + only_b),
        "infra_excluded": int(infra.sum()),
        "diff_low_bound": bound_low,
        "diff_high_bound": bound_high,
        "unfinished": int((~graded & ~infra).sum()),
    }


def _by_task(index: pd.Index, differences: np.ndarray) -> tuple[stats.Floats, stats.Floats]:
    """Return the sum of the differences and the number of pairs of each task."""
    if not len(index):
        return np.empty(0), np.empty(0)
    grouped = pd.Series(differences).groupby(
        [index.get_level_values(level) for level in TASK], sort=True
    )
    return np.asarray(grouped.sum(), dtype=float), np.asarray(grouped.count(), dtype=float)


def _bounds(a: pd.Series, b: pd.Series, difference: int, pairs: int) -> tuple[float, float]:
    """Return the difference if each unknown side had gone against a, and in its favour.

    Source: C. F. Manski, "Partial identification of probability distributions" (2003), ch. 1.
    """
    total = pairs + len(a)
    passed_a, passed_b = a == judgement.PASS, b == judgement.PASS
    lost_a, lost_b = a == judgement.INFRA_ERROR, b == judgement.INFRA_ERROR
    low = difference + int(passed_a.sum()) - int((passed_b | lost_b).sum())
    high = difference + int((passed_a | lost_a).sum()) - int(passed_b.sum())
    return stats.rate(low, total), stats.rate(high, total)


def _round_p(p: float) -> float:
    """Return a p value with six significant figures: a tiny value does not become zero."""
    return float(f"{p:.6g}")


@dataclass(frozen=True)
class Difference:
    """A paired difference of two rates, the second less the first; shares from -1 to 1."""

    pairs: int
    value: float
    low: float
    high: float
    p: float
    detectable: float
    cluster_low: float = math.nan
    cluster_high: float = math.nan
    excluded: int = 0  # pairs left out because of an infrastructure error
    bound_low: float = math.nan
    bound_high: float = math.nan

    @classmethod
    def of_row(cls, row: Mapping[Any, Any]) -> Difference:
        """Return the difference of a row of comparison.csv or conflict_comparison.csv."""
        excluded = row["infra_excluded" if "infra_excluded" in row else "excluded"]
        return cls(
            pairs=int(row["pairs"]),
            value=float(row["diff"]),
            low=float(row["ci_low"]),
            high=float(row["ci_high"]),
            p=float(row["p"]),
            detectable=float(row["min_detectable"]),
            cluster_low=float(row["cluster_low"]),
            cluster_high=float(row["cluster_high"]),
            excluded=int(excluded),
            bound_low=float(row["diff_low_bound"]),
            bound_high=float(row["diff_high_bound"]),
        )

    def reversed(self) -> Difference:
        """Return the first less the second."""
        return replace(
            self,
            value=-self.value,
            low=-self.high,
            high=-self.low,
            cluster_low=-self.cluster_high,
            cluster_high=-self.cluster_low,
            bound_low=-self.bound_high,
            bound_high=-self.bound_low,
        )

    @property
    def is_established(self) -> bool:
        """True if the evidence supports a direction."""
        intervals = [(self.low, self.high)]
        if not math.isnan(self.cluster_low):
            intervals.append((self.cluster_low, self.cluster_high))
        return self.p < SIGNIFICANT and all(low > 0 or high < 0 for low, high in intervals)


@dataclass(frozen=True)
class Folder:
    """The documents of a results folder that a comparison needs."""

    name: str
    runs: pd.DataFrame
    experiments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, str]:
        """The hash of each task's contents in the data set."""
        tasks: dict[str, str] = {}
        for document in self.experiments.values():
            tasks |= (document.get("resolved") or {}).get("tasks") or {}
        return tasks


@dataclass(frozen=True)
class Side:
    """Outcomes of an experiment over all its pairs."""

    run_name: str
    passed: int
    evaluated: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return stats.rate(self.passed, self.evaluated)


@dataclass(frozen=True)
class Row:
    """An experiment of B against an experiment of A; the difference is B less A."""

    a: Side
    b: Side
    difference: Difference
    p_holm: float  # adjusted for the number of rows


@dataclass(frozen=True)
class Result:
    """The rows, the experiments without a counterpart, and limits of the comparison."""

    rows: Sequence[Row]
    alone: Sequence[str]
    marks: Sequence[str]


def read_folder(name: str, path: Path) -> Folder:
    """Read a results folder.

    Raises:
        UserError: it is not a results folder, or has no tables.
    """
    results = Results(path)
    if not path.is_dir():
        raise UserError(f"{name}={path}: no such folder. Name a results folder.")
    if not results.runs_csv.is_file():
        partial = results.partial.runs_csv.is_file()
        raise UserError(
            f"{name}={path}: has no runs.csv. "
            + (
                f"The experiment is unfinished; compare its tables so far: {name}={path}/partial."
                if partial
                else "Name a results folder of a finished experiment, such as `results`."
            )
        )
    try:
        runs = run_table.read_runs(results.runs_csv)
    except (ValueError, OSError) as error:
        raise UserError(f"{results.runs_csv}: is not a table of runs ({error}).") from error
    if runs.empty:
        raise UserError(f"{results.runs_csv}: has no run. Name another results folder.")
    # The tables of an unfinished experiment are below its results folder.
    home = results if results.runs.is_dir() or path.name != "partial" else Results(path.parent)
    provenance = atomic_io.read_object(home.provenance)
    names = list(runs["run_name"].unique())
    experiments = {
        run_name: atomic_io.read_object(home.experiment(run_name))
        or _mapping(_mapping(provenance.get("experiments")).get(run_name))
        for run_name in names
    }
    images = dict(_mapping(provenance.get("images")))
    for sentinel in sorted((home.root / "images").glob("*.json")):
        document = atomic_io.read_object(sentinel)
        if document.get("name"):
            images[str(document["name"])] = document
    return Folder(str(path), runs, experiments, {k: v for k, v in images.items() if v})


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def compare_folders(a: Folder, b: Folder, accept_tasks: bool = False) -> Result:
    """Return the comparison of two folders.

    Args:
        accept_tasks: mark tasks with different contents, where they are refused otherwise.

    Raises:
        UserError: the folders share no experiment or no pair, or their data sets differ.
    """
    names = _counterparts(a.runs, b.runs)
    if not names:
        raise UserError(
            f"{a.name} and {b.name} have no experiment in common. A has "
            f"{listed(a.runs['run_name'].unique())}; B has {listed(b.runs['run_name'].unique())}. "
            "Compare folders with the same run names, or with one model each and the same settings."
        )
    changed = sorted(t for t, value in b.tasks.items() if a.tasks.get(t, value) != value)
    if changed and not accept_tasks:
        verb = "has" if len(changed) == 1 else "have"
        raise UserError(
            f"The data sets differ: {listed(changed, 6)} {verb} other contents in {b.name} than "
            f"in {a.name}, "
            "so their pairs are other tasks. Add ANYWAY=1 to compare and mark them."
        )
    both = pd.concat([_labelled(b.runs, "B"), _labelled(a.runs, "A")], ignore_index=True)
    chosen = [_contrast(run_a, run_b, both) for run_a, run_b in names]
    compared = table(both, chosen)
    rows = [
        Row(
            _side(a.runs, run_a),
            _side(b.runs, run_b),
            Difference.of_row(figures),
            float(figures["p_holm"]),
        )
        for (run_a, run_b), figures in zip(names, compared.to_dict("records"), strict=True)
    ]
    if not any(row.difference.pairs for row in rows):
        raise UserError(
            f"{a.name} and {b.name} have no pair that both evaluated: nothing can be compared. "
            "Use folders with pairs of the same subset."
        )
    used_a, used_b = {x for x, _ in names}, {y for _, y in names}
    alone = [
        *(f"{n} (A)" for n in a.runs["run_name"].unique() if n not in used_a),
        *(f"{n} (B)" for n in b.runs["run_name"].unique() if n not in used_b),
    ]
    return Result(rows, alone, _marks(a, b, names, changed))


def _counterparts(a: pd.DataFrame, b: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the run names to compare, in the order of A."""
    names_b = set(b["run_name"])
    same = [(str(name), str(name)) for name in a["run_name"].unique() if name in names_b]
    if same or a["model"].nunique() != 1 or b["model"].nunique() != 1:
        return same
    columns = ["run_name", *_KEY]
    by_setting = {
        tuple(row[key] for key in _KEY): str(row["run_name"])
        for row in b[columns].drop_duplicates().to_dict("records")
    }
    rows = a[columns].drop_duplicates().to_dict("records")
    keys_of_a = [(str(row["run_name"]), tuple(row[key] for key in _KEY)) for row in rows]
    return [(name, by_setting[key]) for name, key in keys_of_a if key in by_setting]


def _labelled(runs: pd.DataFrame, label: str) -> pd.DataFrame:
    return runs.assign(run_name=f"{label}:" + runs["run_name"].astype(str))


def _contrast(run_a: str, run_b: str, both: pd.DataFrame) -> Contrast:
    """Return the contrast of B less A."""
    row = both[both["run_name"] == f"A:{run_a}"].iloc[0]
    return Contrast(
        FOLDERS, f"B:{run_b}", f"A:{run_a}", "", str(row["setting"]), int(row["repeat"])
    )


def _side(runs: pd.DataFrame, run_name: str) -> Side:
    outcomes = runs.loc[runs["run_name"] == run_name, "outcome"]
    passed = int((outcomes == judgement.PASS).sum())
    evaluated = passed + int((outcomes == judgement.FAIL).sum())
    return Side(run_name, passed, evaluated, *stats.wilson(passed, evaluated))


def _marks(
    a: Folder, b: Folder, names: Sequence[tuple[str, str]], changed: Sequence[str]
) -> list[str]:
    """Return the differences that a reader must know, each as a sentence."""
    marks = []
    if changed:
        marks.append(f"Tasks with other contents: {listed(changed, 6)}.")
    if not a.tasks or not b.tasks:
        missing = " and ".join(f.name for f in (a, b) if not f.tasks)
        marks.append(f"The contents of the tasks are not recorded in {missing}.")
    images = [name for name in a.images if name in b.images]
    other = [name for name in images if _is_other_image(a.images[name], b.images[name])]
    if other:
        marks.append(f"Images with other contents: {listed(other, 4)}.")
    if not images:
        marks.append("No image is recorded in both folders: their equality is unknown.")
    pairs = [(a.experiments.get(x) or {}, b.experiments.get(y) or {}, x) for x, y in names]
    unknown = [name for left, right, name in pairs if not left or not right]
    if unknown:
        marks.append(f"No experiment.json on both sides: {listed(unknown, 4)}.")
    marks += _config_marks([(left, right) for left, right, _ in pairs if left and right])
    for folder, label in ((a, "A"), (b, "B")):
        if folder.runs["replay"].any():
            marks.append(f"{label} has replayed runs, which are not a model's.")
        if folder.runs["adopted"].any():
            marks.append(f"{label} has adopted runs, made by plain cooperbench.")
    return marks


def _is_other_image(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Compare two sentinels by the best identity that both have."""
    for key in ("content", "digest", "id"):
        if a.get(key) and b.get(key):
            return bool(a[key] != b[key])
    return False


def _config_marks(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """Return the differing keys of the experiments' documents, with short values."""
    marks: dict[str, None] = {}
    for a, b in pairs:
        for part, words in (("asked", REQUESTED), ("resolved", RESOLVED)):
            for key, word in words.items():
                left, right = (_mapping(side.get(part)).get(key) for side in (a, b))
                if left != right:
                    marks[_change(word, left, right)] = None
    return list(marks)


def _change(word: str, a: Any, b: Any) -> str:
    texts = [" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in (a, b)]
    if any(isinstance(v, dict) for v in (a, b)) or max(map(len, texts)) > 60:
        return f"The {word} differs."
    return f"The {word} differs: {texts[0]} in A, {texts[1]} in B."


def verdict(difference: Difference) -> str:
    """Return the direction that the evidence supports, by the rule of the findings."""
    if not difference.pairs:
        return "no common pair"
    if not difference.is_established:
        return "inconclusive"
    return "B passes more" if difference.value > 0 else "B passes fewer"
