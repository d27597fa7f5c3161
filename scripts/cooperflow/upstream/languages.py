"""Which language each repo is written in."""

from __future__ import annotations

from collections.abc import Mapping

UNKNOWN = "unknown"

# The published data set's 12 repos; the language of the code that the features change, as
# the CooperBench paper (arXiv:2601.13295) counts them: four languages.
PUBLISHED: Mapping[str, str] = {
    "dottxt_ai_outlines_task": "Python",
    "dspy_task": "Python",
    "go_chi_task": "Go",
    "huggingface_datasets_task": "Python",
    "llama_index_task": "Python",
    "openai_tiktoken_task": "Python",
    "pallets_click_task": "Python",
    "pallets_jinja_task": "Python",
    "pillow_task": "Python",
    "react_hook_form_task": "TypeScript",
    "samuelcolvin_dirty_equals_task": "Python",
    "typst_task": "Rust",
}


def of(repo: str, told: Mapping[str, str] | None = None) -> str:
    """Return the language of ``repo``; what the config tells (dataset.languages) goes first."""
    return {**PUBLISHED, **(told or {})}.get(repo, UNKNOWN)
