"""Paths of all files and formats of all names. The functions do not open any file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow.upstream import published, result_files

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG_FILE = REPOSITORY / "config" / "config.yaml"
PAIR_TABLES = REPOSITORY / "config" / "pairs"
CAPTIONS = REPOSITORY / "report" / "plots"

RESULT = result_files.RESULT
EVAL = result_files.EVAL
OWN = "own.json"
CALLS = "calls.jsonl"
EVENTS = "events.jsonl"
UNREAD = "patch_unread.log"
ATTEMPT = "attempt.json"
UPSTREAM = "upstream"
RETIRED = "result.retired.json"
EXPORT_CONTENTS = "contents.json"

# The small tables and the plots, by name.
BREAKDOWNS = (
    *("by_repo", "by_language", "by_task", "by_solo_outcome", "by_difficulty", "coordination_gap"),
    *("by_messages", "by_patch_size", "by_reason", "cost", "repeats"),
    *("losses", "own_features", "conflicts", "conflict_comparison", "published"),
)
# The tables of the agents' messages, which also need the runs' files.
COMMUNICATION = ("communication_by_setting", "communication_and_conflicts")
# The plots, each with the part of the report that shows it.
PLOTS: Mapping[str, str] = {
    "pass_rates": "Results",
    "paired_outcomes": "Comparison",
    "coordination_gap": "Difficulty",
    "paper_difficulty": "Difficulty",
    "published": "Published results",
    "cost_success": "Cost and time",
    "losses": "Losses",
    "reasons": "Losses",
    "repo_outcomes": "Difficulty",
    "timeline": "Cost and time",
    "message_share": "Messages",
    "turns": "Messages",
    "message_times": "Messages",
    "communication_and_conflicts": "Messages",
}
PLOT_KINDS = ("png", "svg", "pdf")

# A name that is valid as a folder, as part of a run name and in a container label.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, order=True)
class Pair:
    """Two features of one task, in the order of the subset."""

    repo: str
    task_id: int
    features: tuple[int, int]

    @property
    def sorted_features(self) -> tuple[int, int]:
        a, b = self.features
        return (a, b) if a < b else (b, a)

    @property
    def identity(self) -> dict[str, Any]:
        """The entries that identify the pair in upstream's documents."""
        return {"repo": self.repo, "task_id": self.task_id, "features": list(self.sorted_features)}

    def is_named_in(self, document: Mapping[str, Any]) -> bool:
        """Return whether one of upstream's documents belongs to this pair."""
        named = (
            document.get("repo"),
            document.get("task_id"),
            sorted(document.get("features") or []),
        )
        return named == (self.repo, self.task_id, list(self.sorted_features))

    @property
    def folder(self) -> str:
        """The pair's path below an experiment's setting folder, as upstream writes it."""
        a, b = self.sorted_features
        return f"{self.repo}/{self.task_id}/f{a}_f{b}"

    @property
    def image(self) -> str:
        return published.image_name(self.repo, self.task_id)

    def __str__(self) -> str:
        a, b = self.sorted_features
        return f"{self.repo}/{self.task_id} features {a},{b}"


def recordings(root: Path, pair: Pair) -> Path:
    """Return the folder of a pair's recordings, with one folder per setting."""
    a, b = pair.sorted_features
    return root / pair.repo / f"task{pair.task_id}" / f"f{a}_f{b}"


def flatten_path(path: str) -> str:
    """Return a path as a single file name."""
    return path.replace("/", "--")


def own_marker(dashed_key: str) -> str:
    """Return the name of the redo marker of a run's evaluation of own features."""
    return f"own--{dashed_key}"


def oracle_marker(pair: str, repeat: int | str) -> str:
    """Return the name of the redo marker of a repetition of a pair's oracle."""
    return flatten_path(f"oracle--{pair}--{repeat}")


def image_key(image: str) -> str:
    """Return an image's name without its owner, as a file name; it names the image's sentinel."""
    return image.rsplit("/", 1)[-1].replace(":", "_")


def run_name(model: str, setting: str, repeat: int = 1) -> str:
    """Return the name of an experiment, which is its run name upstream."""
    return f"{model}-{setting}{repeat_suffix(repeat)}"


def repeat_suffix(repeat: int) -> str:
    """Return the suffix of a repeat's run name: none for the first, then -r2, -r3, ..."""
    return "" if repeat == 1 else f"-r{repeat}"


class _Below:
    """Descriptor of an attribute of `Results`: a path below the results folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, results: Results, owner: type[Results]) -> Path:
        return results.root / self._name


@dataclass(frozen=True)
class Results:
    """The results folder and the paths in it."""

    root: Path

    runs = _Below("runs")
    runs_csv = _Below("runs.csv")
    summary_csv = _Below("summary.csv")
    comparison_csv = _Below("comparison.csv")
    communication_csv = _Below("communication.csv")
    messages_csv = _Below("messages.csv")
    team_tasks_csv = _Below("team_tasks.csv")
    oracle_csv = _Below("oracle.csv")
    # Record that the data set is complete for the requested pairs, with its hashes.
    dataset_json = _Below("dataset.json")
    # The gate: a record that every image is verified, for which runs wait.
    gate = _Below("images/verified.json")
    provenance = _Below("provenance.json")
    report = _Below("report")
    # The judge's answers, its calls and its tables.
    judge = _Below("judge")
    # The results in the formats of other tools, and the list of its files with their hashes.
    export = _Below("export")
    export_contents = _Below(f"export/{EXPORT_CONTENTS}")

    # State of the workflow.
    state = _Below(".state")
    identity = _Below(".state/id")
    lock = _Below(".state/lock")
    claims = _Below(".state/claims")
    halt = _Below(".state/halt.json")
    # Log of ended attempts, the newest last, for the circuit breaker.
    breaker = _Below(".state/breaker.jsonl")
    # Time of the next call to each limited provider.
    rate_limits = _Below(".state/pace")
    # Folder with one file for each event of which the notify command was informed.
    notifications = _Below(".state/notified")
    # Cache of `make status`: states of finished runs, and findings.
    progress = _Below(".state/progress.json")
    # In rolling mode: the files of this session that still need each image.
    pending_images = _Below(".state/rolling.json")
    # Folder of the redo markers, one for each evaluation that broke.
    redo_markers = _Below(".state/broken-evals")
    # Redo marker of the tables, written when the oracle has new results.
    tables_marker = _Below(".state/oracle")
    # Record of the plan that the tables were last made for.
    tables_plan = _Below(".state/tables")

    @property
    def partial(self) -> Results:
        """Folder of the tables of an unfinished experiment, which Snakemake does not track."""
        return Results(self.root / "partial")

    def table(self, name: str) -> Path:
        """Return the path of a small table, such as by_repo.csv or summary.tex."""
        return self.root / "tables" / name

    def plot(self, name: str, kind: str) -> Path:
        return self.root / "plots" / f"{name}.{kind}"

    def oracle(self, pair: Pair) -> Path:
        """Results of the gold patches of a pair: one document per repetition."""
        return self.root / "oracle" / pair.folder

    def oracle_repeat(self, pair: Pair, number: int) -> Path:
        return self.oracle(pair) / f"repeat-{number}.json"

    def sentinel(self, image: str) -> Path:
        return self.root / "images" / f"{image_key(image)}.json"

    def manifest(self, image: str) -> Path:
        """A registry's answer about an image: its digest, layers and their sizes."""
        return self.state / "manifests" / f"{image_key(image)}.json"

    def fetch_record(self, image: str) -> Path:
        """Record that this workflow pulled the image and may remove it."""
        return self.state / "fetched" / f"{image_key(image)}.json"

    def experiment(self, name: str) -> Path:
        return self.runs / name / "experiment.json"

    def mode(self, name: str, mode: str) -> Path:
        """Return the folder of an experiment's runs, which contains the pairs' paths."""
        return Path(self.runs, name, mode)

    def run(self, name: str, mode: str, pair: Pair) -> RunFolder:
        # Built once per process: thousands of runs need it several times.
        return RunFolder(Path(self.runs, name, mode, pair.folder))


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, at upstream's path."""

    path: Path

    @property
    def result(self) -> Path:
        return self.path / RESULT

    @property
    def eval(self) -> Path:
        return self.path / EVAL

    @property
    def own(self) -> Path:
        """Verdicts on each agent's patch alone, by the tests of its own feature."""
        return self.path / OWN

    @property
    def documents(self) -> tuple[Path, Path]:
        """The targets that Snakemake tracks."""
        return self.result, self.eval

    @property
    def document_names(self) -> tuple[str, str]:
        """The targets as strings, because joining by pathlib would take as long as reading."""
        return f"{self.path}/{RESULT}", f"{self.path}/{EVAL}"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    def attempt(self, number: int) -> Path:
        return self.attempts / str(number)

    def attempt_numbers(self) -> list[int]:
        """Return the numbers of all attempts with a folder, in order."""
        try:
            return sorted(int(p.name) for p in self.attempts.iterdir() if p.name.isdigit())
        except FileNotFoundError:
            return []

    @property
    def evals(self) -> Path:
        """Logs of each evaluation, also of broken ones."""
        return self.path / "evals"

    def own_evals(self, agent: str) -> Path:
        """Logs of the evaluations of one agent's patch alone."""
        return self.path / "own" / agent
