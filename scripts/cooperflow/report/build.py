"""Building the report from a results folder; only outdated pages are written."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cooperflow import atomic_io, layout, processes
from cooperflow.analysis.run_files import RunFiles, state_of
from cooperflow.errors import UserError
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import Pair, Results
from cooperflow.outcomes import judgement
from cooperflow.plots import specifications
from cooperflow.plots.specifications import Tables
from cooperflow.report import analysis_tables, front_page, pages, safe_text
from cooperflow.tables import breakdowns, communication_tables, comparison, findings
from cooperflow.tables.run_table import read_runs, read_table, run_of_row

HERE = Path(__file__).parent
ASSETS = ("report.css", "report.js")
VENDOR = (
    "dataTables.min.js",
    "dataTables.min.css",
    "dataTables.LICENSE.txt",
    "vega.LICENSE.txt",
)
# Number of missing pages from which forks are used, and of pairs that a fork takes at a time.
MANY_PAGES, PART = 500, 10


@dataclass(frozen=True)
class BuildResult:
    """Result of `build`: numbers of pages written and kept."""

    index: Path
    runs: int
    pages: int
    kept: int

    def line(self) -> str:
        return f"{self.index}: {self.runs} runs, {self.pages} pages made"


def perform(plan: Plan) -> None:
    """Do the work of rule `report`."""
    print(build(plan, plan.results).line())


def build(plan: Plan, at: Results | None = None) -> BuildResult:
    """Make the report from the existing tables and runs.

    Args:
        at: folder of the tables and the report; default: the plan's results folder.

    Raises:
        UserError: the tables do not exist yet.
    """
    at = at or plan.results
    report = at.report
    tables = _tables(plan, at)
    runs, summary = tables.runs, tables.summary
    runs_of_rows = [run_of_row(plan, row) for row in runs.to_dict("records")]
    page_record = _PageRecord.open(plan, at, report)
    shown = [run for run in runs_of_rows if state_of(run.folder(plan.results)) is not None]
    pages_written = _pages(plan, shown, page_record)
    _assets(report)
    has_page = {run.key for run in shown}
    data = front_page.runs_data(
        runs,
        [pages.run_path(run) if run.key in has_page else None for run in runs_of_rows],
        [pages.pair_path(run.pair) if run.key in has_page else None for run in runs_of_rows],
    )
    figures = front_page.figures(tables)
    _script(report / "data" / "runs.js", "cooperflowRuns", data)
    _script(report / "data" / "figures.js", "cooperflowFigures", [f.as_dict() for f in figures])
    conflicts = tables.breakdowns["conflict_comparison"]
    page = (
        pages.environment()
        .get_template("index.html")
        .render(
            plan=plan,
            title=front_page.title(plan),
            total=len(runs),
            notes=fingerprint.notes(plan),
            introduction=front_page.introduction(plan),
            terms=front_page.TERMS,
            findings=findings.describe_plan(plan, runs, tables.comparison, conflicts),
            notable=[
                (entry, pages.run_path(run) if run.key in has_page else None)
                for entry in findings.notable_runs(plan, runs)
                for run in [run_of_row(plan, entry.row)]
            ],
            unfinished=int((~runs["outcome"].isin(judgement.OUTCOMES)).sum()),
            replay=bool(runs["replay"].any()),
            adopted=bool(runs["adopted"].any()),
            dates=front_page.dates(runs),
            summary=front_page.records(summary),
            oracle=front_page.has_oracle(runs),
            comparison=front_page.records(tables.comparison),
            tables=sorted(p.name for p in (at.root / "tables").glob("*.csv")),
            parts=front_page.parts(_analyses(tables, at), figures),
            folded=front_page.FOLDED_PARTS,
            guide=front_page.guide_link(report),
            guide_name=f"{front_page.GUIDE}, “{front_page.GUIDE_SECTION}”",
            provenance=front_page.provenance(at.root),
            assets="assets",
        )
    )
    page_record.close({pages.run_path(r) for r in shown} | {pages.pair_path(r.pair) for r in shown})
    # Written last, so that a report with a first page is complete.
    atomic_io.write_text(report / "index.html", page)
    return BuildResult(report / "index.html", len(runs), pages_written, len(shown) - pages_written)


class _PageRecord:
    """Record of the existing pages, and of the state of the runs from which each was made."""

    def __init__(self, path: Path, report: Path, maker: str, record: dict[str, Any]) -> None:
        self.path, self.report, self.maker = path, report, maker
        same = record.get("maker") == maker
        self.pages: dict[str, Any] = record.get("pages", {}) if same else {}

    @classmethod
    def open(cls, plan: Plan, at: Results, report: Path) -> _PageRecord:
        path = at.state / "report-pages.json"
        maker = _maker([experiment.run_name for experiment in plan.experiments])
        return cls(path, report, maker, atomic_io.read_object(path))

    def stale(self, page: str, states: Any) -> bool:
        return self.pages.get(page) != states or not (self.report / page).exists()

    def write(self, page: str, html: str) -> None:
        path = self.report / page
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not synced, because there are thousands of pages and each can be made again.
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)

    def close(self, current: set[str]) -> None:
        """Remove pages of runs that are no longer in the tables, and save the record."""
        for page in set(self.pages) - current:
            (self.report / page).unlink(missing_ok=True)
            del self.pages[page]
        document = {"maker": self.maker, "pages": self.pages}
        atomic_io.write_text(self.path, json.dumps(document, separators=(",", ":")))


def _pages(plan: Plan, runs: list[Run], page_record: _PageRecord) -> int:
    """Make the outdated pages, pair by pair; return the number of pages of runs.

    Many pages are distributed to forks, one per processor.
    """
    together: dict[Pair, list[Run]] = {}
    for run in runs:
        together.setdefault(run.pair, []).append(run)
    groups = list(together.values())

    def write(numbers: Sequence[int]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for number in numbers:
            written |= _pages_of_pair(plan, groups[number], page_record)
        return written

    processors = len(os.sched_getaffinity(0))
    if processors == 1 or len(runs) - len(page_record.pages) < MANY_PAGES:
        written = write(range(len(groups)))
    else:
        written = {}
        parts = [range(n, min(n + PART, len(groups))) for n in range(0, len(groups), PART)]
        fork = multiprocessing.get_context("fork")  # a fork inherits the plan and the page record
        with ProcessPoolExecutor(processors, fork, _begin_fork, (write,)) as pool:
            for part in pool.map(_write_part, parts):
                written |= part
    page_record.pages |= written
    return sum(page.startswith(f"{pages.RUNS}/") for page in written)


# The function that forks call.
_write: list[Callable[[Sequence[int]], dict[str, Any]]] = []


def _begin_fork(write: Callable[[Sequence[int]], dict[str, Any]]) -> None:
    processes.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent starts no more parts
    _write[:] = [write]


def _write_part(numbers: Sequence[int]) -> dict[str, Any]:
    return _write[0](numbers)


def _pages_of_pair(plan: Plan, group: list[Run], page_record: _PageRecord) -> dict[str, Any]:
    """Write the outdated pages of a pair; return the states by page.

    The files of the runs are read once for the pages of the runs and the pair.
    """
    sources = [RunFiles(run, run.folder(plan.results)) for run in group]
    states = [state_of(source.folder) for source in sources]
    tabs = pages.tabs(group)
    # The runs with a page, to which the tabs lead.
    others = hashlib.sha256(repr(tabs).encode()).hexdigest()[:16]
    written: dict[str, Any] = {}
    for source, state in zip(sources, states, strict=True):
        page, state_of_page = pages.run_path(source.run), [state, others]
        if page_record.stale(page, state_of_page):
            page_record.write(page, pages.run_page(source, tabs, page_record.report))
            written[page] = state_of_page
    page = pages.pair_path(group[0].pair)
    if page_record.stale(page, states):
        page_record.write(page, pages.pair_page(group[0].pair, sources, page_record.report))
        written[page] = states
    return written


def _tables(plan: Plan, at: Results) -> Tables:
    """Return all tables, from disk or else computed."""
    for path in (at.runs_csv, at.summary_csv):
        if not path.is_file():
            raise UserError(f"{path} does not exist yet: `snakemake -j 4 all` makes it.")
    if at.comparison_csv.is_file():
        return specifications.load(at)
    runs = read_runs(at.runs_csv)
    messages = communication_tables.tables_by_experiment(
        communication_tables.collect(plan, runs).runs
    )
    small = {**breakdowns.tables(runs, plan.config.dataset.languages), **messages}
    return Tables(runs, read_table(at.summary_csv), comparison.table(runs), small)


def _analyses(tables: Tables, at: Results) -> list[analysis_tables.ShownTable]:
    """Return the displayed tables of the analyses, with the judge's table if it has run."""
    shown = analysis_tables.build_analysis_tables(tables.breakdowns)
    symptoms = at.judge / "symptoms.csv"
    if symptoms.is_file():
        shown.append(analysis_tables.build_judge_table(read_table(symptoms)))
    # An unfinished experiment has no table files.
    return [
        replace(table, files=tuple(name for name in table.files if (at.root / name).is_file()))
        for table in shown
    ]


def _assets(report: Path) -> None:
    for name in ASSETS:
        _copy((HERE / "assets" / name).read_bytes(), report / "assets" / name)
    for name in VENDOR:
        _copy((HERE / "assets" / "vendor" / name).read_bytes(), report / "assets" / name)
    vega = report / "assets" / "vega.min.js"
    version = importlib.metadata.version("vl-convert-python")
    mark = f"/* vl-convert-python {version} */\n"
    if not _begins_with(vega, mark):
        cached = layout.REPOSITORY / ".tools" / "vega.min.js"
        if not _begins_with(cached, mark):
            with contextlib.suppress(OSError):  # a read-only checkout
                atomic_io.write_text(cached, mark + _vega())
        is_cached = _begins_with(cached, mark)
        _copy(cached.read_bytes() if is_cached else (mark + _vega()).encode(), vega)


def _begins_with(path: Path, mark: str) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(mark)) == mark.encode()
    except OSError:
        return False


def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which takes some seconds."""
    import vl_convert

    bundle: Any = vl_convert.javascript_bundle  # its type stub requires an argument
    return str(bundle())


def _copy(data: bytes, path: Path) -> None:
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _script(path: Path, name: str, value: Any) -> None:
    atomic_io.write_text(path, f"window.{name}={safe_text.script_json(value)};\n")


def _maker(experiments: list[str]) -> str:
    """Return a hash of everything except the run's files on which a page depends."""
    digest = hashlib.sha256(repr(experiments).encode())
    analysis = HERE.parent / "analysis"
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("templates/*"), *analysis.glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
