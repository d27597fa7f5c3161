"""The package cooperbench: flags and agent configs of the installed release, and all releases.

`RELEASES` lists what changed from 0.0.22 on; docs/upstream-versions.md is generated from it
(`python -m cooperflow.upstream.releases`).
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# The repository that `cooperbench prepare` fetches (cooperbench.dataset.REPO_ID); importing that
# costs seconds. Published pins name CooperBench/cooperbench-dataset: config/dataset.known.json.
DATASET = "CodeConflict/cooperbench-dataset"


def _package() -> Path | None:
    spec = importlib.util.find_spec("cooperbench")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def agent_defaults(agent: str, mode: str) -> Any:
    """Return upstream's config of an agent in a setting, None without such a file."""
    package = _package()
    if package is None:
        return None
    name = "solo.yaml" if mode == "solo" else "coop.yaml"
    path = package / "agents" / agent / "config" / name
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def run_flags() -> frozenset[str]:
    """Return the long flags of `cooperbench run`; none if its source does not show them."""
    package = _package()
    try:
        source = (package / "cli.py").read_text(encoding="utf-8") if package else ""
        nodes = list(ast.walk(ast.parse(source)))
    except (OSError, SyntaxError):
        return frozenset()
    return frozenset(
        str(word.value)
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_parser.add_argument"
        for word in node.args
        if isinstance(word, ast.Constant) and str(word.value).startswith("--")
    )


UNKNOWN = "unknown"

# Caveats of an adopted run.
HISTORY_LEAKED = "history_leaked"
NOT_EVALUABLE = "not_evaluable"


@dataclass(frozen=True)
class Release:
    """One release; texts are empty where nothing changed."""

    version: str
    date: str  # ISO, as in upstream's changelog
    evaluation: str = ""
    messaging: str = ""
    data_and_images: str = ""
    agents: str = ""
    compares: str = ""  # whether its results compare with those of the release before

    @property
    def number(self) -> tuple[int, ...]:
        return number(self.version)


RELEASES = (
    Release(
        "0.0.22",
        "2026-08-04",
        messaging="A message to an agent that has ended is refused; before, it was lost (31 % of"
        " the messages in upstream's sample). `--wait` waits.",
        agents="An agent's patch is pushed to the shared remote when it ends.",
        compares="coop: no. solo: yes.",
    ),
    Release(
        "0.0.23",
        "2026-08-05",
        data_and_images="The history after the task's commit is removed from the agents'"
        " repositories; before, it could show the solution.",
        agents="mini_swe_agent_v2 submits a pull request instead of patch.txt. The shared remote is"
        " `origin`, and the prompt asks agents to push.",
        compares="no",
    ),
    Release(
        "0.0.24",
        "2026-08-06",
        agents="A pushed branch counts without a pull request. An agent that ends without"
        " submitting is reminded twice. Not on PyPI.",
        compares="coop and solo: no, fewer empty patches.",
    ),
    Release(
        "0.0.25",
        "2026-08-09",
        agents="Commands read an empty stdin, and end after 300 s.",
        compares="nearly: fewer time-outs",
    ),
    Release(
        "0.0.26",
        "2026-08-09",
        messaging="The prompt states that a message may need an answer.",
        compares="coop with messages: another prompt. Others: yes.",
    ),
    Release(
        "0.0.27",
        "2026-08-09",
        messaging="A malformed send_message is reported. A message states that its sender waits.",
        compares="coop with messages: no. Others: yes.",
    ),
    Release(
        "0.0.28",
        "2026-08-10",
        evaluation="Tests that an agent wrote are stripped from its patch in every language;"
        " before, in Python only.",
        agents="On Modal, language tools are on PATH.",
        compares="Go, Rust, TypeScript: no. Python: yes.",
    ),
    Release(
        "0.0.29",
        "2026-08-14",
        evaluation="The build output of an image is kept between evaluations.",
        data_and_images="All 199 features can be evaluated; before, 24 could not. 23 feature"
        " descriptions, several tests, runners and images are amended.",
        compares="no for the tasks that changed; also evaluate older runs again",
    ),
)

# Features that no evaluation before 0.0.29 could judge, with the reason. Upstream counts 24 and
# names 18 of them. That the tests of jinja 1559 feature 3 pass without it was measured, with the
# data of commit 44b4a7a.
NOT_EVALUABLE_FEATURES: Mapping[tuple[str, int], tuple[frozenset[int], str]] = {
    ("go_chi_task", 26): (frozenset({1}), "its tests were excluded from the build"),
    ("typst_task", 6554): (
        frozenset({2, 3, 4, 5, 6, 8, 9, 10}),
        "the runner never selected its tests",
    ),
    ("dspy_task", 8563): (
        frozenset(range(1, 7)),
        "a newer litellm in its image broke tests of the repository",
    ),
    ("huggingface_datasets_task", 7309): (
        frozenset({1, 2}),
        "a test of the repository fails without any patch",
    ),
    ("pallets_jinja_task", 1559): (frozenset({3}), "its tests pass without the feature"),
    ("pallets_jinja_task", 1621): (frozenset({5}), "its tests pass without the feature"),
}


@dataclass(frozen=True)
class Amendment:
    """What 0.0.29 changed in a task, by upstream's dataset/SPEC_AUDIT.md."""

    descriptions: tuple[int, ...] = ()  # features whose feature.md says more
    tests: tuple[int, ...] = ()  # features with other tests
    environment: str = ""  # runner and image


AMENDED_IN = "0.0.29"
AMENDMENTS: Mapping[tuple[str, int], Amendment] = {
    ("dottxt_ai_outlines_task", 1706): Amendment(
        (4, 5), (), "skipped tests alone do not pass; the tests' models are in the image"
    ),
    ("dspy_task", 8394): Amendment((), (), "a missing test file does not pass; litellm pinned"),
    ("dspy_task", 8563): Amendment((), (), "litellm pinned"),
    ("dspy_task", 8587): Amendment((), (), "litellm pinned"),
    ("dspy_task", 8635): Amendment((), (), "litellm pinned"),
    ("go_chi_task", 26): Amendment((2, 3, 4), (), "a run without tests does not pass; Go 1.22"),
    ("go_chi_task", 27): Amendment((3,), (), "a run without tests does not pass"),
    ("go_chi_task", 56): Amendment((), (), "a run without tests does not pass"),
    ("huggingface_datasets_task", 3997): Amendment((2, 3)),
    ("huggingface_datasets_task", 6252): Amendment((), (), "scipy pinned"),
    ("huggingface_datasets_task", 7309): Amendment(
        (), (), "a failing test of the repository is left out"
    ),
    ("llama_index_task", 18813): Amendment((2,)),
    ("pallets_click_task", 2068): Amendment((2, 3, 8)),
    ("pallets_jinja_task", 1559): Amendment((8,), (3,)),
    ("pallets_jinja_task", 1621): Amendment((), (5,)),
    ("pillow_task", 290): Amendment((5,), (4,)),
    ("samuelcolvin_dirty_equals_task", 43): Amendment((5, 6)),
    ("typst_task", 6554): Amendment(
        (2, 4, 5, 6, 7, 8, 10), (), "each feature's tests are selected"
    ),
}

# How many features could not be evaluated before 0.0.29 by upstream's count, and are not named.
UNNAMED = 24 - sum(len(features) for features, _ in NOT_EVALUABLE_FEATURES.values())

# Marks in the prompts of mini_swe_agent_v2: the first release that has them.
_SINCE = (
    (re.compile(r"gh pr create"), "0.0.23"),
    (re.compile(r"--body-file - <<"), "0.0.24"),
    (re.compile(r"may be waiting on your\s+reply before continuing"), "0.0.26"),
)
# The last mark of a way of submitting that ended with a release.
_UNTIL = ((re.compile(r"patch\.txt"), "0.0.23"),)


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers, for comparisons."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


@dataclass(frozen=True)
class Span:
    """The releases that can have made a run: from `since` on, before `before`."""

    since: str | None = None
    before: str | None = None

    def is_before(self, version: str) -> bool:
        """Return whether every possible release is older than ``version``."""
        return self.before is not None and number(self.before) <= number(version)

    def __str__(self) -> str:
        versions = [release.version for release in RELEASES if self._holds(release.version)]
        if self.since is not None and len(versions) == 1:
            return versions[0]
        if self.since is not None and self.before is not None:
            return f"{versions[0]} to {versions[-1]}" if versions else UNKNOWN
        if self.before is not None:
            return f"before {self.before}"
        return UNKNOWN if self.since is None else f"{self.since} or newer"

    def _holds(self, version: str) -> bool:
        return (self.since is None or number(version) >= number(self.since)) and not (
            self.before is not None and number(version) >= number(self.before)
        )


def detect(started: float | None, prompts: Iterable[str]) -> Span:
    """Return the releases that can have made a run.

    Upstream's documents name no version. A run cannot be older than its prompts, nor newer than
    the day it started.

    Args:
        started: start of the run, seconds since the epoch.
        prompts: the texts that its agents of mini_swe_agent_v2 were given first.
    """
    text = "\n".join(prompts)
    since = [version for mark, version in _SINCE if mark.search(text)]
    before = []
    if text and not since:
        before += [version for mark, version in _UNTIL if mark.search(text)]
    if started is not None:
        # Upstream's times name no zone: elsewhere a day starts up to 14 hours earlier.
        day = (datetime.fromtimestamp(started, UTC) + timedelta(hours=14)).date().isoformat()
        before += [release.version for release in RELEASES if day < release.date]
    return Span(max(since, key=number, default=None), min(before, key=number, default=None))


def caveats(span: Span, repo: str, task_id: int, features: Iterable[int]) -> list[str]:
    """Return the caveats of a run that such a release made: only what is certain."""
    words = [HISTORY_LEAKED] if span.is_before("0.0.23") else []
    if not_evaluable(span, repo, task_id, features):
        words.append(NOT_EVALUABLE)
    return words


def not_evaluable(span: Span, repo: str, task_id: int, features: Iterable[int]) -> list[int]:
    """Return the features of a run that the release that made it could not evaluate."""
    broken, _ = NOT_EVALUABLE_FEATURES.get((repo, task_id), (frozenset(), ""))
    return sorted(broken & set(features)) if span.is_before("0.0.29") else []


def between(old: str, new: str) -> list[Release]:
    """Return the releases after ``old`` up to ``new``, the other way round for a step back."""
    low, high = sorted((number(old), number(new)))
    return [release for release in RELEASES if low < release.number <= high]


def describe(release: Release) -> list[str]:
    """Return what changed in a release, a line each."""
    parts = {
        "evaluation": release.evaluation,
        "messaging": release.messaging,
        "data and images": release.data_and_images,
        "agents": release.agents,
        "results compare with the release before": release.compares,
    }
    if release.version == AMENDED_IN:
        parts["tasks that changed"] = ", ".join(f"{repo}/{task}" for repo, task in AMENDMENTS)
    return [f"{release.version}, {name}: {text}" for name, text in parts.items() if text]


def _joined(features: Iterable[int]) -> str:
    return ", ".join(map(str, features))


def page() -> str:
    """Return docs/upstream-versions.md."""
    rows = [
        f"| {r.version} ({r.date}) | {r.evaluation} | {r.messaging} | {r.data_and_images} |"
        f" {r.agents} | {r.compares} |"
        for r in RELEASES
    ]
    features = [
        f"| `{repo}/{task}` | {', '.join(map(str, sorted(ids)))} | {reason} |"
        for (repo, task), (ids, reason) in NOT_EVALUABLE_FEATURES.items()
    ]
    return "\n".join(
        [
            "# Releases of cooperbench",
            "",
            "Changes per release, and whether results compare. The facts are from upstream's",
            "changelog, its merged pull requests and the packages on PyPI. The page is generated:",
            "edit `scripts/cooperflow/upstream/releases.py`, then",
            "`PYTHONPATH=scripts .venv/bin/python -m cooperflow.upstream.releases`.",
            "",
            "| release | evaluation | messaging | data and images | agents"
            " | compares with the release before |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "## Features that could not be evaluated before 0.0.29",
            "",
            "Upstream counts 24 of 199: the runner never ran the tests (12), a dependency had"
            " changed (8),",
            "every test patch held another feature's expectations (5), the tests did not"
            " discriminate (2),",
            "overlapping hunks (1); some have two causes. These are known by name:",
            "",
            "| task | features | reason |",
            "| --- | --- | --- |",
            *features,
            "",
            f"The other {UNNAMED} are unknown: upstream's pull request 82 and"
            " `dataset/SPEC_AUDIT.md` count them and do",
            "not name them. Runs of these features get no caveat. Two tasks were broken only for"
            " images that were",
            "rebuilt during that work, and are not counted: `huggingface_datasets_task/6252` and",
            "`dottxt_ai_outlines_task/1706`.",
            "",
            "## Tasks that 0.0.29 changed",
            "",
            "By upstream's account, runs of other tasks compare with those of 0.0.28, runs of these"
            " do not.",
            "Source: `dataset/SPEC_AUDIT.md`, and the tests of jinja 1559 feature 3 in upstream's"
            " repository.",
            "Descriptions and tests are in the data set, runners and libraries in the images, so"
            " each takes effect",
            "when that part is fetched again.",
            "",
            "| task | amended descriptions | amended tests | runner and image |",
            "| --- | --- | --- | --- |",
            *(
                f"| `{repo}/{task}` | {_joined(a.descriptions)} | {_joined(a.tests)} |"
                f" {a.environment} |"
                for (repo, task), a in AMENDMENTS.items()
            ),
            "",
            "## Adopted runs",
            "",
            "Upstream's documents name no version. `snakemake adopt` derives it from the day a run"
            " started (a run",
            "cannot be newer) and from the prompt in the trajectories of mini_swe_agent_v2 (a run"
            " cannot be older",
            "than its prompts), writes it to result.json (`workflow.upstream_version`) and",
            "experiment.json, and `unknown` otherwise. A run that was certainly made by a"
            " release before",
            f"0.0.23 has the caveat `{HISTORY_LEAKED}`; one before 0.0.29 with a feature that"
            " could not be evaluated",
            f"has `{NOT_EVALUABLE}`, and result.json names the features"
            " (`workflow.not_evaluable`). Neither counts",
            "in `pass_strict`. `snakemake adopt` prints how many runs have a caveat, and the"
            " features.",
            "",
        ]
    )


def main() -> None:
    from cooperflow import atomic_io, layout

    atomic_io.write_text(layout.REPOSITORY / "docs" / "upstream-versions.md", page())


if __name__ == "__main__":
    main()
