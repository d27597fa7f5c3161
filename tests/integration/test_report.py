"""The report in a real browser: it shows what the tables say, and nothing in it can act."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pandas as pd
import pytest
import synthetic
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from cooperflow import formats
from cooperflow.experiment.plan import Plan
from cooperflow.layout import Results
from cooperflow.outcomes import judgement
from cooperflow.report import build, pages
from cooperflow.tables import run_table

pytestmark = pytest.mark.browser

ACTS = (
    "<script>window.__pwned=1</script>"
    "</script><script>window.__pwned=2</script>"
    "</pre></details><img src=x onerror=window.__pwned=3>"
    "<svg onload=window.__pwned=4></svg>"
    '<a href="javascript:window.__pwned=5">here</a>'
    "'\" autofocus onfocus=window.__pwned=6 x='"
    "<style>body{display:none}</style><meta http-equiv=refresh content='0;url=data:text/html,x'>"
    "<base href=https://example.invalid/>"
    "<iframe srcdoc='<script>parent.__pwned=7</script>'></iframe>"
    "{{ 7 * 7 }} ]]> --> \u2028 \u2029 \x00 \x1b[31mred\x1b[0m\x1b]0;title\x07"
    " \u202egnp.exe\u2066 \u200b \ud800 \U000e0041"
)
LONG = "A" * 5_000_000
HOSTILE = synthetic.Words(
    statement=ACTS,
    command=f"echo '{ACTS}' # {ACTS}",
    output=ACTS + "\n" + LONG,
    message=ACTS,
    patch=f"diff --git a/{ACTS} b/{ACTS}\n--- a/x\n+++ b/{ACTS}\n@@ -1 +1 @@\n-{ACTS}\n+{LONG}\n",
    tests=f"{ACTS}\n{'z ' * 40_000}\n{LONG}",
    error=ACTS,
    files={"<img src=x onerror=window.__pwned=8>.txt": "x", "a\u202eb #?%41'\".log": "x"},
)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    if browser.programs() is None:
        pytest.fail("no Chromium here: call envs/setup.sh chromium")
    with browser.open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Three hundred finished runs and their report."""
    plan = synthetic.make_plan(tmp_path_factory.mktemp("lite"))
    synthetic.finish(plan)
    build.build(plan)
    return plan


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Three runs of a pair, each text of which tries to act."""
    root = tmp_path_factory.mktemp("hostile")
    subset = root / "one.json"
    tasks = [{"repo": "go_chi_task", "task_id": 26, "pairs": [[1, 2]]}]
    subset.write_text(json.dumps({"tasks": tasks}))
    plan = synthetic.make_plan(root / "results", str(subset))
    for run, kind in zip(plan.runs, ("pass", "fail", "infra_error"), strict=True):
        synthetic.write_run(plan, run, kind, synthetic.BEGAN, HOSTILE)
    for run in plan.runs[:2]:
        path = run.folder(plan.results).eval
        document = json.loads(path.read_text())
        document["workflow"] |= {"reason": ACTS, "caveat": ACTS, "outcome": "fail"}
        document["merge"] = {"status": ACTS, "strategy": ACTS, "diff": HOSTILE.patch}
        path.write_text(json.dumps(document))
    from cooperflow.tables import run_table

    run_table.make(plan)
    build.build(plan)
    return plan


def show(driver: Any, path: Path) -> None:
    browser.read_console(driver)
    driver.get(browser.url(path))


def ready(driver: Any) -> None:
    script = "return document.documentElement.dataset.ready === 'yes'"
    WebDriverWait(driver, 20).until(lambda d: d.execute_script(script))


def index(plan: Plan) -> Path:
    return plan.results.report / "index.html"


def shown_rows(driver: Any) -> list[list[str]]:
    script = (
        "return [...document.querySelectorAll('#table tbody tr')]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    rows: list[list[str]] = driver.execute_script(script)
    return rows


def info(driver: Any) -> str:
    return str(driver.find_element(By.CSS_SELECTOR, ".dt-info").text)


def choose(driver: Any, name: str, value: str) -> None:
    Select(driver.find_element(By.NAME, name)).select_by_visible_text(value)


def test_the_headline_is_the_summary(driver: Any, lite: Plan) -> None:
    show(driver, index(lite))
    ready(driver)
    summary = pd.read_csv(lite.results.summary_csv)
    script = (
        "return [...document.querySelectorAll('#results tbody')].map(r => "
        "Object.fromEntries([...r.querySelectorAll('[data-key]')]"
        ".map(c => [c.dataset.key, [c.dataset.value, c.textContent]])))"
    )
    rows = driver.execute_script(script)
    assert len(rows) == len(summary)
    for row, (_, want) in zip(rows, summary.iterrows(), strict=True):
        assert len(row) == 15
        for key, (value, _) in row.items():
            assert float(value) == pytest.approx(want[key], abs=0), key
        assert row["pass_rate"][1] == formats.percent(want["pass_rate"])


def test_the_table_is_runs_csv(driver: Any, lite: Plan) -> None:
    runs = pd.read_csv(lite.results.runs_csv, keep_default_na=False)
    show(driver, index(lite))
    ready(driver)
    data = driver.execute_script("return window.cooperflowRuns")
    keys = [column["key"] for column in data["columns"]]
    for key in keys:
        got = [row[keys.index(key)] for row in data["rows"]]
        assert got == runs[key].tolist(), key


def test_figures_are_the_tables(driver: Any, lite: Plan) -> None:
    show(driver, index(lite))
    figures = {f["name"]: f for f in driver.execute_script("return window.cooperflowFigures")}
    summary = pd.read_csv(lite.results.summary_csv)
    runs = pd.read_csv(lite.results.runs_csv, keep_default_na=False)
    rows = {name: f["spec"]["data"]["values"] for name, f in figures.items() if "data" in f["spec"]}
    intervals = {r["label"]: [r["value"], r["low"], r["high"]] for r in rows["pass_rates"]}
    for _, row in summary.iterrows():
        assert intervals[row["run_name"]] == [row["pass_rate"], row["ci_low"], row["ci_high"]]
    bad = runs[runs["outcome"].isin(["fail", "infra_error"])]
    assert sum(row["runs"] for row in rows["reasons"]) == len(bad)
    key = ["repo", "task_id", "features"]
    evaluated = runs[runs["outcome"] != judgement.INFRA_ERROR].set_index(key)
    solo = evaluated[evaluated["setting"] == "solo"]["outcome"]
    comm = evaluated[evaluated["setting"] == "coop-comm"]["outcome"]
    both = pd.concat([solo, comm], axis=1, join="inner", keys=["a", "b"])
    want = [
        ((both.a == a) & (both.b == b)).sum()
        for a, b in (("pass", "pass"), ("pass", "fail"), ("fail", "pass"), ("fail", "fail"))
    ]
    first = rows["paired_outcomes"][0]["name"]
    assert [r["count"] for r in rows["paired_outcomes"] if r["name"] == first] == want


def test_filter_open_a_run_go_back(driver: Any, lite: Plan) -> None:
    runs = pd.read_csv(lite.results.runs_csv, keep_default_na=False)
    show(driver, index(lite))
    ready(driver)
    assert info(driver) == "300 runs"
    choose(driver, "outcome", "fail")
    choose(driver, "setting", "coop-comm")
    want = runs[(runs["outcome"] == "fail") & (runs["setting"] == "coop-comm")]
    assert info(driver).startswith(f"{len(want)} runs")
    rows = shown_rows(driver)
    assert {(row[0], row[2]) for row in rows} == {("fail", "coop-comm")}
    field = driver.find_element(By.NAME, "q")
    field.send_keys("go_chi")
    want = want[want["repo"] == "go_chi_task"]
    assert info(driver).startswith(f"{len(want)} runs")
    link = driver.find_element(By.CSS_SELECTOR, "#table tbody a")
    link.click()
    assert "go_chi_task" in driver.find_element(By.TAG_NAME, "h1").text
    assert driver.find_element(By.CSS_SELECTOR, ".verdict").text.startswith("fail")
    driver.find_element(By.CSS_SELECTOR, ".command summary").click()
    block = driver.find_element(By.CSS_SELECTOR, ".command[open] .block")
    assert "print('hello')" in block.text
    driver.back()
    ready(driver)
    assert info(driver).startswith(f"{len(want)} runs")
    driver.find_element(By.CSS_SELECTOR, "#filters button").click()
    WebDriverWait(driver, 5).until(lambda d: info(d) == "300 runs")
    assert browser.read_console(driver) == []


@pytest.mark.parametrize("width", [1280, 1440])
def test_tables_fit_the_window(driver: Any, lite: Plan, width: int) -> None:
    browser.resize(driver, width, 900)
    try:
        show(driver, index(lite))
        ready(driver)
        tables = "[...document.querySelectorAll('.scroll')]"
        script = f"return {tables}.map(e => e.scrollWidth > e.clientWidth)"
        driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        fits = driver.execute_script(script)
        assert len(fits) > 5
        assert not any(fits)
    finally:
        browser.resize(driver, 1280, 900)


def test_every_column_at_once_fits_the_window(driver: Any, lite: Plan, tmp_path: Path) -> None:
    """The oracle, replayed and adopted runs, and the longest names of repos and reasons."""
    at = Results(tmp_path / "results")
    runs, summary = (
        pd.read_csv(path, keep_default_na=False)
        for path in (lite.results.runs_csv, lite.results.summary_csv)
    )
    runs["oracle"], runs["adopted"], runs["replay"] = "failed", runs.index % 2 == 0, True
    runs.loc[runs.index % 3 == 0, "reason"] = "docker_unavailable"
    run_table.write(at, runs, summary.assign(replay=True))
    build.build(lite, at)
    show(driver, at.report / "index.html")
    ready(driver)
    heads = [each.text for each in driver.find_elements(By.CSS_SELECTOR, "#table thead th")]
    assert {"Oracle", "Adopted"} < set(heads)
    script = (
        "return [...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
    )
    assert max(driver.execute_script(script)) <= 0
    assert browser.overflow_width(driver) <= 0


def test_folded_columns_are_shown_on_demand(driver: Any, lite: Plan) -> None:
    show(driver, index(lite))
    ready(driver)
    button = driver.find_element(By.CSS_SELECTOR, "#table .unfold")
    button.click()
    text = driver.find_element(By.CSS_SELECTOR, "#table dl.more").text
    assert "Tokens in" in text
    assert "Attempts" in text
    button.click()
    assert not driver.find_elements(By.CSS_SELECTOR, "#table dl.more")
    details = driver.find_element(By.CSS_SELECTOR, "#results .more details")
    details.find_element(By.TAG_NAME, "summary").click()
    assert "Passes without caveat" in details.text
    assert browser.read_console(driver) == []


def test_two_screens_answer_the_question(driver: Any, lite: Plan) -> None:
    """The findings, and the results and comparisons with their figures; the rest is folded."""
    show(driver, index(lite))
    ready(driver)
    bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom + scrollY"
    for name in ("#findings", "#results", "#comparison", "#figure-paired_outcomes"):
        assert driver.execute_script(bottom, name) < 2 * 900, name
    for figure, table in (("pass_rates", "results"), ("paired_outcomes", "comparison")):
        assert driver.find_elements(By.CSS_SELECTOR, f"#{table} #figure-{figure}")
    assert driver.execute_script("return document.documentElement.scrollHeight") < 5000
    assert not driver.find_elements(By.CSS_SELECTOR, "details[open]")


def test_every_figure_is_drawn(driver: Any, lite: Plan) -> None:
    show(driver, index(lite))
    ready(driver)
    figures = driver.execute_script("return window.cooperflowFigures.length")
    assert len(driver.find_elements(By.CSS_SELECTOR, ".plot")) == figures
    driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    for plot in driver.find_elements(By.CSS_SELECTOR, ".plot"):
        driver.execute_script("arguments[0].scrollIntoView()", plot)
        WebDriverWait(driver, 20).until(lambda d, p=plot: p.find_elements(By.TAG_NAME, "svg"))
    assert browser.read_console(driver) == []
    assert browser.overflow_width(driver) <= 0


def test_print_has_every_figure_and_every_column(driver: Any, lite: Plan) -> None:
    show(driver, index(lite))
    ready(driver)
    WebDriverWait(driver, 20).until(lambda d: d.execute_script("return 'vegaEmbed' in window"))
    pages = browser.print_pages(driver)
    words = " ".join(" ".join(page.split()) for page in pages)
    titles = [
        "pass rate of evaluated pairs, 95 % Wilson interval",
        "share of the pairs that both evaluated",
        "share of solo runs that fail",
        "mean cost of a run, USD",
        "minutes since",
        "runs",
    ]
    assert [title for title in titles if title not in words] == []
    # The last column of each table: nothing is cut at the right.
    first = " ".join(pages[0].split())
    assert "Time" in first
    assert "excluded" in first
    assert "2 h 30 min" in first
    # A plot drawn for paper is drawn for the screen again.
    script = "return document.querySelector('.plot svg').getAttribute('width')"
    WebDriverWait(driver, 20).until(lambda d: d.execute_script(script) != "680")


def test_links_lead_somewhere(lite: Plan) -> None:
    import re
    from urllib.parse import unquote

    report = lite.results.report
    pages = [next(report.glob("runs/*coop-comm/*.html")), next(report.glob("pairs/*.html"))]
    for page in [report / "index.html", *pages]:
        for target in re.findall(r'(?:href|src)="([^"#]+)', page.read_text()):
            made_by_others = "comparison.csv" in target or "tables/" in target
            assert made_by_others or (page.parent / unquote(target)).exists(), f"{page}: {target}"


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_text_stays_text(driver: Any, hostile: Plan, width: int) -> None:
    report = hostile.results.report
    pages = sorted(report.rglob("*.html"))
    assert len(pages) == 5
    browser.resize(driver, width, 900)
    try:
        for page in pages:
            assert page.stat().st_size < 3_000_000
            show(driver, page)
            if page.name == "index.html":
                ready(driver)
            driver.execute_script(
                "document.querySelectorAll('details').forEach(d => d.open = true)"
            )
            time.sleep(0.3)
            assert driver.execute_script("return window.__pwned === undefined"), page
            assert driver.current_url == browser.url(page)
            assert browser.read_console(driver) == [], page
            assert browser.overflow_width(driver) <= 0, page
            bad = (
                "return document.querySelectorAll('main script, main img, main svg:not(.marks),"
                " main iframe, main base, main style, [onerror], [onload], [onfocus],"
                " [href^=javascript]').length"
            )
            assert driver.execute_script(bad) == 0, page
            assert driver.find_element(By.TAG_NAME, "h1").is_displayed()
    finally:
        browser.resize(driver, 1280, 900)


def test_invisible_characters_are_shown(driver: Any, hostile: Plan) -> None:
    show(driver, hostile.results.report / pages.run_path(hostile.runs[1]))
    body = driver.execute_script("return document.body.textContent")
    assert "\x1b" not in body
    assert "\u202e" not in body
    assert "\u2066" not in body
    assert "U+202E" in body
    assert "red" in body
    assert "more characters in this line" in body or "characters left out" in body
    assert "the raw file" in body


def test_a_page_reads_well_narrow_and_without_scripts(driver: Any, lite: Plan) -> None:
    browser.resize(driver, 390, 844)
    try:
        for page in (
            pages.run_path(lite.runs[150]),
            pages.pair_path(lite.pairs[0]),
            "index.html",
        ):
            show(driver, lite.results.report / page)
            assert browser.overflow_width(driver) <= 0, page
            assert browser.read_console(driver) == []
    finally:
        browser.resize(driver, 1280, 900)
    page = (lite.results.report / pages.run_path(lite.runs[150])).read_text()
    assert "<script" not in page
    assert "default-src &#39;none&#39;" in page


def test_runs_without_trajectory_and_running_runs(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    kinds = ("infra_error", "fail")
    for run, kind in zip(plan.runs[:2], kinds, strict=True):
        synthetic.write_run(plan, run, kind, synthetic.BEGAN, synthetic.Words())
    plan.runs[2].folder(plan.results).attempt(1).mkdir(parents=True)
    from cooperflow.tables import run_table

    at = plan.results.partial
    run_table.write(at, *run_table.collect(plan, partial=True))
    report = build.build(plan, at).index.parent
    assert report == at.report
    broken = (report / pages.run_path(plan.runs[0])).read_text()
    assert "left no trajectory" in broken
    assert "Too many requests" in broken
    assert "print(&#x27;hello&#x27;)" in broken
    assert not (report / pages.run_path(plan.runs[2])).exists()
    assert "unfinished" in (report / "data" / "runs.js").read_text()


def test_only_changed_pages_are_rebuilt(tmp_path: Path) -> None:
    plan = synthetic.make_plan(tmp_path / "results", "flash")
    synthetic.finish(plan)
    assert build.build(plan).pages == 150
    report = plan.results.report
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    assert build.build(plan).pages == 0
    changed = plan.runs[7].folder(plan.results).eval
    document = json.loads(changed.read_text())
    changed.write_text(json.dumps({**document, "error": "it broke"}))
    assert build.build(plan).pages == 1
    changed.write_text(json.dumps(document))
    assert build.build(plan).pages == 1
    after = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
@pytest.mark.parametrize(("subset", "limit"), [("lite", 2.0), ("full", 5.0)])
def test_how_long_it_takes_to_open(
    driver: Any, tmp_path: Path, subset: str, limit: float, record_property: Any
) -> None:
    plan = synthetic.make_plan(tmp_path / "results", subset)
    synthetic.finish(plan, steps=1)
    build.build(plan)
    begun = time.monotonic()
    show(driver, index(plan))
    ready(driver)
    seconds = time.monotonic() - begun
    # Printed, not asserted: machines differ.
    print(f"{len(plan.runs)} runs opened in {seconds:.2f} s (wanted: {limit} s)")
    record_property("seconds", round(seconds, 2))
    assert info(driver) == f"{len(plan.runs):,} runs"
