"""Paths of the report's pages, and the meanings of reasons and caveats."""

from __future__ import annotations

from cooperflow.experiment.plan import Run
from cooperflow.layout import Pair

# How the reasons and caveats of outcomes read to someone who has not read the documentation.
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
