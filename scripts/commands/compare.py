"""Compare two results folders pair by pair.

Experiments of A and B with the same run name are compared; if each folder has one model, those with
the same setting and repeat.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from rich.console import Console
from rich.table import Table

from cooperflow import atomic_io, formats
from cooperflow.errors import UserError, listed
from cooperflow.formats import fit_table
from cooperflow.jobs import entry_points
from cooperflow.layout import Results
from cooperflow.outcomes import judgement
from cooperflow.tables import comparison, findings, run_table, stats
from cooperflow.tables.comparison import Contrast, Difference

FOLDERS = "folders"
_KEY = ("setting", "repeat")
# Keys of experiment.json that are compared between two folders, with their descriptions.
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("a", type=Path, help="a results folder")
    parser.add_argument("b", type=Path, help="the other results folder")
    parser.add_argument(
        "--anyway", action="store_true", help="compare tasks with different contents, and mark them"
    )
    arguments = parser.parse_args()
    if arguments.a.resolve() == arguments.b.resolve():
        raise UserError(f"A and B are the same folder: {arguments.a}. Name two folders.")
    a = read_folder("A", arguments.a)
    b = read_folder("B", arguments.b)
    result = compare_folders(a, b, arguments.anyway)
    print_result(a.name, b.name, result, Console())
    return 0


@dataclass(frozen=True)
class Folder:
    """The contents of a results folder that a comparison needs."""

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
    """Outcomes of an experiment over all of its pairs."""

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
    """The comparison of an experiment in B with one in A; the difference is B less A."""

    a: Side
    b: Side
    difference: Difference
    p_holm: float  # adjusted for the number of rows


@dataclass(frozen=True)
class Result:
    """Rows of a comparison, experiments without a counterpart, and remarks on comparability."""

    rows: Sequence[Row]
    alone: Sequence[str]
    marks: Sequence[str]


def print_result(a: str, b: str, result: Result, console: Console) -> None:
    """Print the rows of a comparison, then its limits."""
    table = Table(title=f"A: {a}\nB: {b}", title_justify="left", box=None, pad_edge=False)
    heads = ("experiment", "A", "B", "pairs", "B - A", "95 %", "by task", "p", "p (Holm)", "")
    for head in heads:
        table.add_column(head, justify="left" if head in ("experiment", "") else "right")
    for row in result.rows:
        difference = row.difference
        same = row.a.run_name == row.b.run_name
        table.add_row(
            row.a.run_name if same else f"{row.a.run_name} | {row.b.run_name}",
            *(
                f"{side.passed}/{side.evaluated} {formats.percent(side.rate, digits=0)}"
                for side in (row.a, row.b)
            ),
            str(difference.pairs),
            formats.points(difference.value),
            formats.point_range(difference.low, difference.high),
            formats.point_range(difference.cluster_low, difference.cluster_high),
            formats.probability(difference.p),
            formats.probability(row.p_holm),
            verdict(difference),
        )
    console.print(fit_table(table, console.width, ["p", "by task", "95 %", "p (Holm)"]))
    console.print(
        "\nPercentage points over the pairs that both evaluated: Newcombe's interval and the"
        " interval clustered by task; McNemar's exact test, adjusted over the rows by Holm's"
        " method.",
        highlight=False,
    )
    for row in result.rows:
        difference = row.difference
        if difference.pairs and not difference.is_established:
            text = f"{row.a.run_name}: inconclusive; {findings.detectable(difference)}."
            console.print(text, highlight=False, markup=False)
    if result.alone:
        console.print(f"Not compared: {', '.join(result.alone)}.", highlight=False, markup=False)
    for mark in result.marks:
        console.print(f"! {mark}", style="yellow", highlight=False, markup=False)


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
        accept_tasks: mark tasks with different contents instead of refusing them.

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
            f"The data sets differ: {listed(changed, 6)} {verb} different contents in {b.name} and "
            f"{a.name}, "
            "so their pairs are not the same. Add ANYWAY=1 to compare and mark them."
        )
    both = pd.concat([_labelled(b.runs, "B"), _labelled(a.runs, "A")], ignore_index=True)
    chosen = [_contrast(run_a, run_b, both) for run_a, run_b in names]
    compared = comparison.table(both, chosen)
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
    """Return the pairs of run names to compare, in the order of A."""
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
    """Return the differences that limit the comparison, each as a sentence."""
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
    """Return whether two sentinels differ in the best identity that both have."""
    for key in ("content", "digest", "id"):
        if a.get(key) and b.get(key):
            return bool(a[key] != b[key])
    return False


def _config_marks(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """Return sentences on the keys that differ between the experiments' documents."""
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
    """Return the direction that the evidence supports, by the rules of the findings."""
    if not difference.pairs:
        return "no common pair"
    if not difference.is_established:
        return "inconclusive"
    return "B passes more" if difference.value > 0 else "B passes fewer"


if __name__ == "__main__":
    entry_points.run_command(main)
