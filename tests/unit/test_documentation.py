"""The manuals define every column, reason and caveat, and their links lead to files that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cooperflow.report import pages
from cooperflow.tables import (
    breakdowns,
    communication_tables,
    comparison,
    oracle,
    paper_tables,
    run_table,
    symptoms,
)

ROOT = Path(__file__).resolve().parents[2]
MANUALS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "config/*.md", "demo/*.md", "envs/*.md")
    for path in ROOT.glob(pattern)
)
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text below a heading of docs/results.md, its subsections included."""
    return RESULTS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _numbered(match: re.Match[str]) -> str:
    """Return the names of a range: messages_sixth1 to messages_sixth6."""
    return " ".join(f"{match[1]}{n}" for n in range(1, int(match[2]) + 1))


ORACLE_SUMMARY = (
    "oracle_ok",
    "oracle_failed",
    "oracle_flaky",
    "oracle_not_run",
    "pass_oracle_ok",
    "pass_rate_oracle_ok",
    "ci_low_oracle_ok",
    "ci_high_oracle_ok",
    "gold_ceiling",
)


SUMMARY = (*run_table.SUMMARY_COLUMNS, *ORACLE_SUMMARY)


@pytest.mark.parametrize(
    ("title", "columns"),
    [
        ("runs.csv", run_table.RUN_COLUMNS),
        ("summary.csv", SUMMARY),
        ("oracle.csv", oracle.COLUMNS),
        ("comparison.csv", comparison.COLUMNS),
        ("tables/cost.csv", breakdowns.COST_COLUMNS),
        (
            "communication.csv and messages.csv",
            (*communication_tables.RUN_COLUMNS, *communication_tables.MESSAGES_COLUMNS),
        ),
        ("team_tasks.csv", communication_tables.TEAM_TASKS_COLUMNS),
        (
            "tables/communication_by_setting.csv and communication_and_conflicts.csv",
            (*communication_tables.RATIOS, *communication_tables.SHARES),
        ),
        (
            "tables/communication_by_setting.csv and communication_and_conflicts.csv",
            tuple(communication_tables.PROPERTIES),
        ),
        ("judge", (*symptoms.SYMPTOM_COLUMNS, *symptoms.LABEL_COLUMNS)),
        ("tables/repeats.csv", breakdowns.REPEATS_COLUMNS),
        (
            "tables/by_difficulty.csv and coordination_gap.csv",
            (*paper_tables.BUCKET_COLUMNS, *paper_tables.GAP_COLUMNS),
        ),
    ],
)
def test_results_page_defines_every_column(title: str, columns: tuple[str, ...]) -> None:
    text = re.sub(r"(\w+\D)1 to \1(\d)", _numbered, section(title))
    words = set(re.findall(r"\w+", text))
    assert [column for column in columns if column not in words] == []


def test_results_page_explains_every_reason_and_caveat() -> None:
    assert [name for name in pages.MEANINGS if f"`{name}`" not in section("runs.csv")] == []


def test_readme_lists_every_reason_and_caveat() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = re.findall(
        r"`(\w+)`", section("runs.csv").split("### Reasons")[1].split("A wrong key")[0]
    )
    assert [name for name in names if f"`{name}`" not in readme and name != "max_tokens"] == []


@pytest.mark.parametrize("manual", MANUALS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_existing_files(manual: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", manual.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (manual.parent / link).exists()]
    assert missing == []


def test_index_lists_every_manual() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    assert [page for page in pages if f"({page})" not in index] == []


def test_measurements_index_lists_every_page() -> None:
    folder = ROOT / "docs" / "measurements"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in folder.glob("*.md") if path.name != "README.md"]
    assert [page for page in pages if f"({page})" not in index] == []


def test_a_room_imports_only_rooms_above_it() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:`(\w+)/`|\(top\)) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    package = ROOT / "scripts" / "cooperflow"
    ranks = {
        room or module: rank
        for rank, (room, modules) in enumerate(rows)
        for module in ([room] if room else re.findall(r"`(\w+)`", modules))
    }
    wrong = []
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).with_suffix("").parts
        if module == ("__init__",):
            continue
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.ImportFrom) and statement.module is not None:
                names = [f"{statement.module}.{alias.name}" for alias in statement.names]
                used = [name.split(".")[1] for name in names if name.startswith("cooperflow.")]
                wrong += [(path.name, room) for room in used if ranks[room] > ranks[module[0]]]
    assert not wrong
