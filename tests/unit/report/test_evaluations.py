"""The evaluation part of a run's page: counts, failing tests first, runs without an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import synthetic
from runner_outputs import GO, PYTEST

from cooperflow.analysis.run_files import RunFiles
from cooperflow.report import build, pages


def _page(root: Path, output: str, kind: str = "fail", **verdict: Any) -> str:
    plan = synthetic.make_plan(root, "flash")
    run = plan.runs[0]
    synthetic.write_run(plan, run, kind, synthetic.BEGAN, synthetic.Words(tests=output))
    path = run.folder(plan.results).eval
    document = json.loads(path.read_text())
    document["workflow"] |= verdict
    if kind == "infra_error":
        document["error"] = "infra_error: rate_limited"
    path.write_text(json.dumps(document))
    assert pages.run_path(run)
    return pages.run_page(RunFiles(run, run.folder(plan.results)), [], plan.results.report)


def test_a_failed_feature_opens_at_its_first_failure() -> None:
    (feature, other) = pages.features({"feature1": {"test_output": PYTEST}}, (3, 7))
    assert feature.summary == "failed (1 of 3 tests passed)"
    assert feature.failing == ("tests/test_a.py::test_two[a b]", "tests/test_b.py::test_three")
    assert feature.output.startswith("====")
    assert "ERRORS" in feature.output.splitlines()[0]
    assert feature.preamble.startswith("HEAD is now at")
    assert (other.number, other.summary) == (7, "not tested")


def test_a_passed_feature_is_shown_whole_and_packages_are_named() -> None:
    document = {"feature1": {"passed": True, "test_output": GO, "tests_passed": 2}}
    (feature, _) = pages.features(document, (1, 2))
    assert feature.summary == "passed (1 of 1 Go package passed)"
    assert (feature.preamble, feature.output) == ("", GO)
    none = {"feature1": {"passed": True, "test_output": GO.replace("0.004s", "[no tests to run]")}}
    assert pages.features(none, (1, 2))[0].summary == "passed (no test ran)"


def test_the_page_lists_failing_tests_before_the_output(tmp_path: Path) -> None:
    page = _page(tmp_path, PYTEST)
    failing = page.index("Failing tests of feature")
    # The head of the page names the first failing test too.
    assert failing < page.index("tests/test_a.py::test_two[a b]", failing)
    assert page.index("tests/test_a.py::test_two[a b]", failing) < page.index(
        "from the first failure"
    )
    assert "1 of 3 tests passed" in page


def test_the_page_names_the_feature_that_ran_no_test(tmp_path: Path) -> None:
    output = GO.replace("0.004s", "[no tests to run]")
    page = _page(tmp_path, output, "pass", caveat="lead_alone;no_tests_run")
    assert "no_tests_run: no test was run for feature" in page
    assert "lead_alone: " in page


def test_a_run_without_an_evaluation_shows_none(tmp_path: Path) -> None:
    page = _page(tmp_path, "", "infra_error", seconds=0.0)
    assert "Not evaluated: the run ended before" in page
    assert "Evaluated in" not in page
    assert "failed with this error" not in page
    broken = _page(tmp_path, "", "infra_error", reason="eval_error")
    assert "The evaluation failed with this error" in broken


def test_the_first_page_shows_the_oracle(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash", first=6)
    probe = {"tests_passed": [3, 4], "merge_strategy": "", "applied": True, "seconds": 1.0}
    probes = {
        "solo": {**probe, "passed": [True, True], "merge_status": ""},
        "coop": {**probe, "passed": [False, True], "merge_status": "clean"},
        "control": {**probe, "passed": [False, False], "merge_status": ""},
    }
    path = plan.results.oracle_repeat(plan.pairs[0], 1)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"repeat": 1, "probes": probes}))
    synthetic.finish(plan)
    index = build.build(plan).index.read_text()
    assert '<section id="oracle">' in index
    assert 'data-key="gold_ceiling" data-value="1.0">100.0 %' in index  # solo
    assert 'data-key="gold_ceiling" data-value="0.0">0.0 %' in index  # coop
    data = (plan.results.report / "data" / "runs.js").read_text()
    assert '"key":"oracle"' in data


def test_the_first_page_has_no_empty_oracle(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash", first=6)
    synthetic.finish(plan)
    assert '<section id="oracle">' not in build.build(plan).index.read_text()
