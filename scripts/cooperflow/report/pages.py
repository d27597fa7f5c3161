"""Pages of single runs and pairs: their content, explanations of outcomes, and file paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from cooperflow import formats
from cooperflow.analysis import history as history_events
from cooperflow.analysis import losses
from cooperflow.analysis.losses import OwnFeature
from cooperflow.analysis.run_files import Patch, RunFiles, linker
from cooperflow.experiment.plan import Run
from cooperflow.layout import Pair
from cooperflow.outcomes import judgement
from cooperflow.outcomes.patch_text import HunkPair
from cooperflow.outcomes.run_result import EvalRecord, RunRecord
from cooperflow.report import safe_text
from cooperflow.upstream import result_files
from cooperflow.upstream.result_files import Count

# Number of failing tests that a page lists; the output has all of them.
MOST_NAMES = 50
# Number of preamble lines up to which the preamble is not folded.
SHORT_PREAMBLE = 3


@dataclass(frozen=True)
class Feature:
    """Test results of one feature. tested: whether there is evidence of an evaluation."""

    number: int
    tested: bool
    passed: bool
    count: Count
    failing: tuple[str, ...]
    preamble: str  # the output before the first failure
    output: str  # the output from the first failure on

    @property
    def listed(self) -> tuple[str, ...]:
        return self.failing[:MOST_NAMES]

    @property
    def unlisted(self) -> int:
        return len(self.failing) - len(self.listed)

    @property
    def preamble_lines(self) -> int:
        return self.preamble.count("\n")

    @property
    def summary(self) -> str:
        """The result in a few words, with the workflow's own count of tests."""
        if not self.tested:
            return "not tested"
        word = "passed" if self.passed else "failed"
        if not self.count.total:
            return f"{word} (no test ran)" if self.output or self.preamble else word
        unit = "tests" if self.count.unit == "tests" else "Go packages"
        if self.count.total == 1:
            unit = unit.removesuffix("s")
        return f"{word} ({self.count.passed:,} of {self.count.total:,} {unit} passed)"


def features(evaluation: Mapping[str, Any], numbers: tuple[int, ...]) -> tuple[Feature, ...]:
    """Return both features of a run; ``numbers`` are the data set's, sorted."""
    return tuple(_feature(evaluation, key, number) for key, number in enumerate(numbers, start=1))


def _feature(evaluation: Mapping[str, Any], key: int, number: int) -> Feature:
    part = evaluation.get(f"feature{key}") or {}
    output = result_files.output_of(evaluation, key)
    passed = result_files.has_passed(evaluation, key)
    failing = () if passed else result_files.failing_tests(output)
    start = 0 if passed else result_files.first_failure(output)
    if output[:start].count("\n") <= SHORT_PREAMBLE:
        start = 0
    has_counts = bool(part.get("tests_passed") or part.get("tests_failed"))
    return Feature(
        number=number,
        tested=passed or bool(output) or has_counts,
        passed=passed,
        count=result_files.count_tests(output),
        failing=failing,
        preamble=output[:start],
        output=output[start:],
    )


def was_evaluated(result: Mapping[str, Any], evaluation: Mapping[str, Any]) -> bool:
    """Return whether the run's patches were evaluated, even if the evaluation failed.

    A run that ended before its evaluation (a timeout, an infrastructure error) has an eval.json
    with only its outcome.
    """
    if EvalRecord.read(evaluation).reason == judgement.EVAL_ERROR:
        return True
    return bool(evaluation) and (RunRecord.read(result) or RunRecord()).outcome is None


# Number of conflicting files or failing tests that a summary names.
FEW_NAMES = 3
MAX_NAME_LENGTH = 80
_LOSSES = {
    losses.MERGE: "Lost in the merge: both features work alone, but the patches conflict.",
    losses.INTEGRATION: "Lost in the integration: both features work alone and the patches merge "
    "cleanly, but together tests fail.",
}


@dataclass(frozen=True)
class Failure:
    """Facts about a run that is not a pass."""

    outcome: str
    reason: str
    attempts: int
    loss: str  # empty for a solo run
    own: tuple[bool | None, bool | None]
    has_conflict: bool
    features: tuple[Feature, ...]
    files: tuple[str, ...] = ()  # files with overlapping hunks of both patches


def explain(failure: Failure) -> tuple[str, ...]:
    """Return two lines that explain why a run is not a pass; empty for any other run."""
    if failure.outcome == judgement.INFRA_ERROR:
        tries = f"{failure.attempts} attempt{'' if failure.attempts == 1 else 's'}"
        return (
            f"No result after {tries}: {failure.reason or 'an infrastructure error'}.",
            "This is a failure of the infrastructure, not of the model; pass rates exclude it.",
        )
    if failure.outcome != judgement.FAIL:
        return ()
    return _headline(failure), _detail(failure)


def _headline(failure: Failure) -> str:
    if failure.loss in _LOSSES:
        return _LOSSES[failure.loss]
    if failure.loss == losses.AGENT:
        alone = [
            feature.number
            for feature, passed in zip(failure.features, failure.own, strict=False)
            if passed is False
        ]
        return f"Lost before the merge: {_feature_names(alone)} alone."
    if failure.has_conflict:
        return "The patches conflict; whether both features work alone is unknown."
    failed = [feature.number for feature in failure.features if not feature.passed]
    detail = f" ({failure.reason})" if failure.reason not in ("", judgement.TESTS_FAILED) else ""
    return f"The run fails: {_feature_names(failed)}{detail}."


def _feature_names(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"feature {numbers[0]} fails"
    return f"features {' and '.join(map(str, numbers))} fail" if numbers else "no feature passes"


def _detail(failure: Failure) -> str:
    """Return a sentence on the conflicting files, or else on the first failing tests."""
    if failure.has_conflict:
        if not failure.files:
            return "The patches do not show which file conflicts."
        word = "file" if len(failure.files) == 1 else "files"
        return f"Conflicting {word}: {_names(failure.files)}."
    named = [(feature, feature.failing) for feature in failure.features if feature.failing]
    if not named:
        return "The output of the evaluation names no failing test."
    parts = [f"{_names(names)} (feature {feature.number})" for feature, names in named]
    return f"First failing tests: {'; '.join(parts)}."


def _names(names: Sequence[str]) -> str:
    shown = [
        name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
        for name in names
    ]
    rest = len(shown) - FEW_NAMES
    return ", ".join(shown[:FEW_NAMES]) + (f" and {rest} more" if rest > 0 else "")


TEMPLATES = Path(__file__).parent / "templates"
# Folder of the runs' pages in the report.
RUNS = "runs"

# Pages of runs and pairs have no scripts, and their policy forbids any.
PAGE_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'"
# The first page loads only its own files; Vega's tooltips add styles to the page.
INDEX_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)

# Explanations of reasons and caveats for readers who do not know the documentation.
MEANINGS = {
    "tests_failed": "the patches were tested and a test failed",
    "merge_conflict": "the two patches could not be merged",
    "patch_not_applied": "a patch did not apply to the repository",
    "patch_too_large": "a patch was too large for upstream to evaluate",
    "empty_patch": "an agent left no change",
    "timeout": "the time limit was reached",
    "step_limit": "an agent reached its step limit",
    "cost_limit": "an agent reached its cost limit",
    "context_limit": "an agent filled its model's context window",
    "invalid_call": "the model called a tool with arguments that ended the agent's program",
    "store_ended": "an agent ended the message store",
    "lead_alone": "the merge conflicted; agent 1's patch alone passed both features' tests",
    "no_tests_run": "no test was run",
    "output_limit": "an answer was cut at the limit of output tokens, which the config or the"
    " model's default sets",
    "line_endings": "a patch has carriage returns, which upstream's own evaluation removes",
    "not_utf8": "a patch is not UTF-8, which upstream's own evaluation cannot read",
    "history_leaked": "made by a cooperbench before 0.0.23, whose agents could read later commits",
    "not_evaluable": "made by a cooperbench before 0.0.29, which could not evaluate a feature of"
    " this pair",
    "public_record": "outcome of CooperBench's public record; evaluated by an unknown release",
    "rate_limited": "the provider kept refusing calls because of its rate limit",
    "api_unavailable": "the provider could not be reached",
    "api_timeout": "the provider did not answer in time",
    "auth": "the provider refused the key",
    "model_not_found": "the provider does not know the model",
    "quota": "the provider's quota is used up",
    "bad_request": "the provider refused the request",
    "content_filter": "the provider's content filter withheld an agent's last answer",
    "container_died": "an agent's container ended while it was running",
    "oom_killed": "an agent's container ran out of memory",
    "docker_unavailable": "Docker did not answer",
    "image_missing": "the task's image was missing",
    "disk_full": "the disk with the results was full",
    "redis_unavailable": "the message store was not available",
    "process_died": "the benchmark's process was killed",
    "agent_error": "the agent's own program failed",
    "setup_error": "cooperbench could not be imported or configured on this machine",
    "eval_error": "the evaluation itself failed",
}


# Maximum number of displayed pairs of hunks; others are only counted.
MOST_HUNK_PAIRS = 30


@cache
def environment() -> jinja2.Environment:
    """Return the template environment, which escapes all values."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.Undefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: list[Callable[..., str]] = [
        *(safe_text.inline, safe_text.block, safe_text.patch, safe_text.hunk),
        *(formats.percent, formats.usd, formats.points, formats.probability, formats.count),
        *(formats.keep_together, formats.seconds, formats.moment),
        *(first_line, clock),
    ]
    templates.filters |= {function.__name__: function for function in filters}
    templates.globals |= {
        "meanings": MEANINGS,
        "page_policy": PAGE_POLICY,
        "index_policy": INDEX_POLICY,
    }
    return templates


@dataclass(frozen=True)
class Tab:
    """A run in the tabs on the pages of its pair."""

    key: str
    url: str
    name: Markup


@dataclass(frozen=True)
class Column:
    """A run's column on the page of its pair."""

    source: RunFiles
    url: str
    patches: Sequence[tuple[Patch, str]]
    features: Sequence[Feature]

    @property
    def is_coop(self) -> bool:
        return self.source.run.experiment.setting.mode == "coop"

    @property
    def explanation(self) -> str:
        """The first line of the explanation why the run is not a pass; empty for a pass."""
        return next(iter(explain(_failure(self.source, tuple(self.features)))), "")

    @property
    def own_features(self) -> Mapping[str, OwnFeature]:
        """The verdicts on each agent's own feature."""
        return self.source.own_features

    @property
    def overlaps(self) -> list[HunkPair]:
        """The overlapping pairs of hunks of both agents, at most ``MOST_HUNK_PAIRS``."""
        return self._overlaps[:MOST_HUNK_PAIRS]

    @property
    def overlaps_left(self) -> int:
        return max(len(self._overlaps) - MOST_HUNK_PAIRS, 0)

    @property
    def _overlaps(self) -> list[HunkPair]:
        return [pair for pair in self.source.hunk_pairs if pair.overlaps]

    @property
    def conflict_line(self) -> str:
        """The result of the merge and the number of overlapping hunks, as text."""
        number = len(self._overlaps)
        pairs = f"{number} overlapping pair{'' if number == 1 else 's'} of hunks"
        status = self.source.merge_status
        if status == result_files.CONFLICTS:
            # A renamed, deleted or binary file conflicts without hunks.
            return f"the patches conflict; {pairs if number else 'no hunks overlap by their lines'}"
        if status in result_files.MERGED:
            return f"the patches merge ({status}); {pairs if number else 'no hunks overlap'}"
        return "the patches were not merged"


def tabs(runs: Sequence[Run]) -> list[Tab]:
    """Return the tabs of a pair's runs, which are the same on each page of the pair."""
    tabs_of_runs = []
    for run in runs:
        page = run_path(run)
        name = safe_text.inline(run.experiment.run_name)
        tabs_of_runs.append(Tab(run.key, path_to_root(page) + quote(page), name))
    return tabs_of_runs


def run_page(source: RunFiles, siblings: Sequence[Tab], report: Path) -> str:
    """Return the page of a run; ``siblings`` are the runs of its pair, including itself."""
    page = run_path(source.run)
    top = path_to_root(page)
    link = linker(source.folder.path, report / page)
    history = source.history

    def raw(name: str) -> str:
        return link(source.stored_name(name))

    parts = features(source.evaluation, source.run.pair.sorted_features)
    last = source.attempts[-1].record if source.attempts else {}
    start = last.get("started") if isinstance(last.get("started"), int | float) else None
    return (
        environment()
        .get_template("run.html")
        .render(
            run=source.run,
            result=source.result,
            run_record=result_files.workflow(source.result),
            evaluation=source.evaluation,
            features=parts,
            evaluated=was_evaluated(source.result, source.evaluation),
            verdict=result_files.workflow(source.evaluation),
            explanation=explain(_failure(source, parts)),
            history=history,
            messages=len(source.messages),
            sent_messages=source.communication.messages,
            task_changes=source.task_changes,
            team=result_files.team_columns(source.result),
            rows=history_events.rows(history.events, history.agents, start),
            agents=source.agents,
            patches=_patches(source, report / page),
            hunk_pairs=source.hunk_pairs[:MOST_HUNK_PAIRS],
            hunk_pairs_left=max(len(source.hunk_pairs) - MOST_HUNK_PAIRS, 0),
            agent_patches=source.agent_patches,
            own_features=source.own_features,
            attempts=source.attempts,
            files=[(name, link(name)) for name in source.files],
            raw=raw,
            key=source.run.key,
            siblings=siblings,
            pair_url=top + quote(pair_path(source.run.pair)),
            home=f"{top}index.html",
            assets=f"{top}assets",
        )
    )


def _failure(source: RunFiles, parts: tuple[Feature, ...]) -> Failure:
    """Return the facts for the explanation on a run's page."""
    record = RunRecord.read(source.result) or RunRecord()
    verdict = EvalRecord.read(source.evaluation)
    status = source.merge_status
    outcome = str(verdict.outcome or record.outcome or "")
    is_coop = source.run.experiment.setting.mode == "coop"
    has_conflict = status == result_files.CONFLICTS
    own = losses.passed(source.own_features)
    return Failure(
        outcome=outcome,
        reason=str(verdict.reason or record.reason),
        attempts=record.attempts,
        loss=losses.loss(outcome, own, status) if is_coop else "",
        own=own,
        has_conflict=has_conflict,
        features=parts,
        files=source.conflicting_files if has_conflict else (),
    )


def pair_page(pair: Pair, sources: Sequence[RunFiles], report: Path) -> str:
    """Return the page that compares the runs of a pair side by side."""
    page = pair_path(pair)
    top = path_to_root(page)
    return (
        environment()
        .get_template("pair.html")
        .render(
            pair=pair,
            columns=[
                Column(
                    source=source,
                    url=top + quote(run_path(source.run)),
                    patches=_patches(source, report / page),
                    features=features(source.evaluation, pair.sorted_features),
                )
                for source in sources
            ],
            replay=any(source.run.experiment.model.replay for source in sources),
            adopted=any(source.run.experiment.adopted for source in sources),
            home=f"{top}index.html",
            assets=f"{top}assets",
        )
    )


def _patches(source: RunFiles, page: Path) -> list[tuple[Patch, str]]:
    """Return a run's patches, each with the URL of its file."""
    raw = linker(source.folder.path, page)
    return [(patch, raw(patch.name)) for patch in source.patches]


def first_line(value: str, length: int = 110) -> str:
    """Return the first non-empty line of a text, which is shown while the text is folded."""
    line = next((line.strip() for line in value[:4000].splitlines() if line.strip()), "")
    return line if len(line) <= length else f"{line[: length - 1]}…"


def clock(value: float | None) -> str:
    """Return seconds as clock time of constant width."""
    if value is None:
        return ""
    minutes, seconds = divmod(value, 60)
    return f"{int(minutes)}:{seconds:04.1f}"


def run_path(run: Run) -> str:
    """Return the path of a run's page in the report's folder."""
    return f"{RUNS}/{run.experiment.run_name}/{pair_key(run.pair)}.html"


def pair_path(pair: Pair) -> str:
    return f"pairs/{pair_key(pair)}.html"


def pair_key(pair: Pair) -> str:
    return pair.folder.replace("/", "--")


def path_to_root(page: str) -> str:
    """Return the relative URL prefix from a page to the report's folder."""
    return "../" * page.count("/")
