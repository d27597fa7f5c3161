"""Report of `make upgrade`: a new lock, and a demo with different results."""

from __future__ import annotations

import pytest

from commands import upgrade

LOCK = """\
cooperbench==0.0.29 \\
    --hash=sha256:aa
litellm==1.80.0 ; python_full_version < '3.14' \\
    --hash=sha256:bb
    # via cooperbench
"""


def test_versions_of_a_lock() -> None:
    assert upgrade.parse_lock(LOCK) == {"cooperbench": "0.0.29", "litellm": "1.80.0"}


def test_the_lock_lists_every_watched_package() -> None:
    assert set(upgrade.WATCHED) <= set(upgrade.parse_lock(upgrade.LOCK.read_text("utf-8")))


def test_cooperbench_is_pinned_to_the_new_version() -> None:
    text = upgrade.PROJECT.read_text("utf-8")
    changed = upgrade.pin_version(text, "0.0.30")
    assert '"cooperbench==0.0.30",' in changed
    assert len(changed.splitlines()) == len(text.splitlines())
    with pytest.raises(SystemExit):
        upgrade.pin_version("dependencies = []", "0.0.30")


def run(**changes: str) -> dict[tuple[str, ...], dict[str, str]]:
    row = {"outcome": "pass", "reason": "", "caveat": "", "steps": "8"}
    row |= {"messages_sent": "0", "input_tokens": "100", "cost_usd": "0.1"}
    return {("m-solo", "r", "1", "1,2"): {**row, "duration_s": "5", **changes}}


def test_a_different_outcome_is_reported() -> None:
    differences = upgrade.compare_runs(run(), run(outcome="fail", reason="tests_failed"))
    assert differences == ["m-solo r 1 1,2: outcome pass -> fail, reason  -> tests_failed"]


def test_only_times_may_differ() -> None:
    assert upgrade.compare_runs(run(), run(duration_s="9")) == []
    assert upgrade.compare_runs(run(), run(input_tokens="101"))


def test_tokens_may_differ_where_agents_send_messages() -> None:
    talking = run(messages_sent="2")
    assert (
        upgrade.compare_runs(talking, run(messages_sent="2", input_tokens="101", cost_usd="0.2"))
        == []
    )
    assert upgrade.compare_runs(talking, run(messages_sent="2", steps="9"))
    assert upgrade.compare_runs(talking, run(input_tokens="101"))


def test_a_missing_run_is_reported() -> None:
    (line,) = upgrade.compare_runs(run(), {})
    assert "outcome pass -> (none)" in line


def test_the_report_lists_changes_of_cooperbench() -> None:
    text = upgrade.summarize(
        {"cooperbench": "0.0.22"}, {"cooperbench": "0.0.23"}, ["cooperbench"], [], []
    )
    assert "0.0.23, data and images: The history after the task's commit is removed" in text
    assert "0.0.22, messaging" not in text
    same = upgrade.summarize(
        {"cooperbench": "0.0.29"}, {"cooperbench": "0.0.30"}, ["cooperbench"], [], []
    )
    assert "(docs/upstream-versions.md)\n  none\n" in same


def test_the_report_names_packages_facts_and_runs() -> None:
    text = upgrade.summarize(
        {"litellm": "1", "numpy": "2"},
        {"litellm": "2", "numpy": "2"},
        ["litellm"],
        ["test_litellm: test_class_of_a_failed_call[html]"],
        [],
    )
    assert "  litellm: 1 -> 2\n" in text
    assert "  test_litellm: test_class_of_a_failed_call[html]\n" in text
    assert "with a different result\n  none\n" in text
    assert "git checkout pyproject.toml envs" in text
