"""Where each page of the report lies and how its numbers are written."""

from __future__ import annotations

import math
import time
from typing import Any

from cooperflow.experiment.plan import Run
from cooperflow.layout import Pair

# How the reasons and caveats of outcomes read to someone who has not read the documentation.
MEANINGS = {
    "tests_failed": "the patches were tested and a test failed",
    "merge_conflict": "the two patches could not be merged",
    "patch_not_applied": "a patch did not apply to the repository",
    "patch_too_large": "a patch was too large for upstream to grade",
    "empty_patch": "an agent left no change",
    "timeout": "the time limit was over",
    "step_limit": "an agent reached its step limit",
    "cost_limit": "an agent reached its cost limit",
    "context_limit": "an agent filled its model's context window",
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
    "rate_limited": "the provider kept refusing for its rate limit",
    "api_unavailable": "the provider could not be reached",
    "api_timeout": "the provider did not answer in time",
    "auth": "the provider refused the key",
    "model_not_found": "the provider does not know the model",
    "quota": "the provider's quota is used up",
    "bad_request": "the provider refused the request",
    "container_died": "an agent's container ended under it",
    "oom_killed": "an agent's container ran out of memory",
    "docker_unavailable": "Docker did not answer",
    "image_missing": "the task's image was gone",
    "disk_full": "the disk with the results was full",
    "redis_unavailable": "the message store was not available",
    "process_died": "the benchmark's process was killed",
    "agent_error": "the agent's own program failed",
    "eval_error": "the grading itself broke",
}


def run_page(run: Run) -> str:
    """Return the run's page below the report's folder."""
    return f"runs/{run.experiment.run_name}/{pair_key(run.pair)}.html"


def pair_page(pair: Pair) -> str:
    return f"pairs/{pair_key(pair)}.html"


def pair_key(pair: Pair) -> str:
    return pair.folder.replace("/", "--")


def to_top(page: str) -> str:
    """Return the way from a page to the report's folder: a prefix of relative URLs."""
    return "../" * page.count("/")


def percent(value: Any) -> str:
    number = number_of(value)
    return "–" if number is None else f"{100 * number:.1f} %"


def points(value: Any) -> str:
    """Return a difference of rates, with its sign."""
    number = number_of(value)
    return "–" if number is None else f"{100 * number:+.1f}".replace("-", "−")


def probability(value: Any) -> str:
    number = number_of(value)
    if number is None:
        return "–"
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def usd(value: Any) -> str:
    number = number_of(value)
    if number is None:
        return "–"
    return f"${number:,.2f}" if number >= 1 else f"${number:.4f}"


def count(value: Any) -> str:
    number = number_of(value)
    return "–" if number is None else f"{int(number):,}"


def seconds(value: Any) -> str:
    number = number_of(value)
    if number is None:
        return "–"
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(value: Any) -> str:
    """Return a time as UTC: the same text wherever the report is made."""
    number = number_of(value)
    return "–" if number is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(number))


def number_of(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number
