"""The release of cooperbench that made a run, and the consequences for its results."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime

import pytest

from cooperflow import layout
from cooperflow.experiment import pairs
from cooperflow.upstream import releases
from cooperflow.upstream.releases import Span


def day(text: str) -> float:
    return datetime.fromisoformat(f"{text}T12:00:00+00:00").timestamp()


PATCH_FILE = "write your diff to patch.txt"
PULL_REQUEST = 'gh pr create --title "..." --body "..."'
FROM_STDIN = "gh pr create --title x --body-file - <<'EOF'"


@pytest.mark.parametrize(
    ("started", "prompts", "version", "caveats"),
    [
        (day("2026-07-01"), [], "before 0.0.22", ["history_leaked", "not_evaluable"]),
        (day("2026-11-01"), [PATCH_FILE], "before 0.0.23", ["history_leaked", "not_evaluable"]),
        (day("2026-11-01"), [PULL_REQUEST], "0.0.23 or newer", []),
        (day("2026-08-07"), [PULL_REQUEST], "0.0.23 to 0.0.24", ["not_evaluable"]),
        (day("2026-08-07"), [FROM_STDIN], "0.0.24", ["not_evaluable"]),
        (day("2026-11-01"), [], "unknown", []),
        (None, [], "unknown", []),
        # An agent that reads a file patch.txt under a newer release.
        (day("2026-11-01"), [PULL_REQUEST + PATCH_FILE], "0.0.23 or newer", []),
    ],
)
def test_a_release_is_derived_from_documents(
    started: float | None, prompts: list[str], version: str, caveats: list[str]
) -> None:
    span = releases.detect(started, prompts)
    assert str(span) == version
    assert releases.caveats(span, "typst_task", 6554, (2, 7)) == caveats


def test_only_the_named_features_could_not_be_evaluated() -> None:
    old = Span(before="0.0.28")
    assert releases.caveats(old, "typst_task", 6554, (1, 7)) == []
    assert releases.caveats(old, "typst_task", 6554, (1, 8)) == ["not_evaluable"]
    assert releases.caveats(old, "pallets_jinja_task", 1621, (5, 6)) == ["not_evaluable"]
    assert releases.caveats(old, "dspy_task", 8394, (1, 2)) == []


def test_the_amended_features_are_as_many_as_upstream_counts() -> None:
    """23 descriptions and the tests of two features (dataset/SPEC_AUDIT.md), and jinja 1559 f3."""
    amended = releases.amendments()
    assert sum(len(a.descriptions) for a in amended) == 23
    assert sum(len(a.tests) for a in amended) == 2 + 1
    all_features = {f"{repo}/{n}": ids for (repo, n), ids in pairs.known_features().items()}
    for amendment in amended:
        assert all_features[amendment.task] >= {*amendment.descriptions, *amendment.tests}
    for task, (features, _) in releases.not_evaluable_features().items():
        assert all_features[task] >= features
        assert task in [amendment.task for amendment in amended]
    features = [features for features, _ in releases.not_evaluable_features().values()]
    assert sum(map(len, features)) == 24 - 5  # as docs/upstream-versions.md states
    # make upgrade prints them too.
    (release,) = releases.between("0.0.28", releases.AMENDED_IN)
    lines = releases.describe(release)
    assert lines[-1].startswith("0.0.29, tasks that changed: dottxt_ai_outlines_task/1706, ")
    assert not any("changed:" in line for line in releases.describe(releases.all_releases()[0]))


def test_releases_in_between() -> None:
    assert [r.version for r in releases.between("0.0.27", "0.0.29")] == ["0.0.28", "0.0.29"]
    assert [r.version for r in releases.between("0.0.29", "0.0.28")] == ["0.0.29"]
    assert releases.between("0.0.29", "0.0.29") == []


def test_the_page_has_the_tables_of_the_facts() -> None:
    page = (layout.REPOSITORY / "docs" / "upstream-versions.md").read_text(encoding="utf-8")
    assert page == releases.insert_tables(page), "run python -m cooperflow.upstream.releases"
    for entry in (*releases.all_releases(), *releases.amendments()):
        assert getattr(entry, "version", getattr(entry, "task", "")) in page
    assert "The other 5 are unknown" in page


def test_an_upgrade_needs_the_standard_library_only() -> None:
    """The project's packages are replaced meanwhile."""
    scripts = str(layout.REPOSITORY / "scripts")
    command = [sys.executable, "-S", "-c", "import commands.upgrade"]
    environment = {**os.environ, "PYTHONPATH": scripts}
    subprocess.run(command, env=environment, check=True)
