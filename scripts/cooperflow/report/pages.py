"""The pages of the report, from templates: what each one shows, and nothing that can act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from cooperflow.experiment.plan import Plan, Run
from cooperflow.layout import Pair
from cooperflow.report import names, patches, text, timeline
from cooperflow.report.source import Source, link, linker

TEMPLATES = Path(__file__).parent / "templates"

# Pages of runs and pairs hold no script at all; the browser is told to refuse any.
STILL = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'"
# The first page loads its own files only; Plotly writes styles into the page.
LIVE = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


@cache
def environment() -> jinja2.Environment:
    """Return the templates: everything put into them is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.Undefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "inline": text.inline,
        "block": text.block,
        "patch": patches.shown,
        "percent": names.percent,
        "usd": names.usd,
        "points": names.points,
        "probability": names.probability,
        "count": names.count,
        "seconds": names.seconds,
        "moment": names.moment,
        "first_line": first_line,
        "clock": clock,
    }
    made.globals |= {"meanings": names.MEANINGS, "still": STILL, "live": LIVE}
    return made


def run_page(source: Source, siblings: Sequence[Run], report: Path) -> str:
    """Return the page of a run; ``siblings`` are the runs of its pair, itself included."""
    page = report / names.run_page(source.run)
    raw = linker(source.folder.path, page)
    result = source.result.get("workflow") or {}
    story = source.story
    last = source.attempts[-1].record if source.attempts else {}
    start = last.get("started") if isinstance(last.get("started"), int | float) else None
    return (
        environment()
        .get_template("run.html")
        .render(
            run=source.run,
            result=source.result,
            told=result,
            evaluation=source.evaluation,
            verdict=source.evaluation.get("workflow") or {},
            story=story,
            rows=timeline.rows(story.events, story.agents, start),
            agents=_agents(source.result),
            patches=[(p, raw(p.name)) for p in source.patches],
            attempts=source.attempts,
            files=[(name, raw(name)) for name in source.files],
            raw=raw,
            siblings=[(r, link(report / names.run_page(r), page)) for r in siblings],
            pair_url=link(report / names.pair_page(source.run.pair), page),
            home=link(report / "index.html", page),
            assets=link(report / "assets", page),
        )
    )


def pair_page(pair: Pair, sources: Sequence[Source], report: Path) -> str:
    """Return the page that shows the settings of a pair side by side."""
    page = report / names.pair_page(pair)
    return (
        environment()
        .get_template("pair.html")
        .render(
            pair=pair,
            columns=[
                (
                    source,
                    link(report / names.run_page(source.run), page),
                    [(p, link(source.folder.path / p.name, page)) for p in source.patches],
                )
                for source in sources
            ],
            replay=any(source.run.experiment.model.replay for source in sources),
            adopted=any(source.run.experiment.adopted for source in sources),
            home=link(report / "index.html", page),
            assets=link(report / "assets", page),
        )
    )


def index_page(plan: Plan, content: Mapping[str, Any]) -> str:
    """Return the first page."""
    return environment().get_template("index.html").render(plan=plan, **content)


def _agents(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return how upstream says that each agent ended, by its name."""
    if isinstance(result.get("agent"), dict):
        return {"solo": result["agent"]}
    agents = result.get("agents")
    return {name: agents[name] for name in sorted(agents)} if isinstance(agents, dict) else {}


def first_line(value: str, length: int = 110) -> str:
    """Return the first line of a text that says something, for its folded state."""
    line = next((line.strip() for line in value[:4000].splitlines() if line.strip()), "")
    return line if len(line) <= length else f"{line[: length - 1]}…"


def clock(value: float | None) -> str:
    """Return seconds since the start as a clock that lines up."""
    if value is None:
        return ""
    minutes, seconds = divmod(value, 60)
    return f"{int(minutes)}:{seconds:04.1f}"
