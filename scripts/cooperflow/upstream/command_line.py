"""Upstream's flags and agent configs, read from its files without importing it."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# The data set's repository on the hub (cooperbench.dataset.REPO_ID). Importing it costs seconds.
DATASET = "CodeConflict/cooperbench-dataset"


def _package() -> Path | None:
    spec = importlib.util.find_spec("cooperbench")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def agent_defaults(agent: str, mode: str) -> Any:
    """Return upstream's config of an agent in a setting, None without such a file."""
    package = _package()
    if package is None:
        return None
    name = "solo.yaml" if mode == "solo" else "coop.yaml"
    path = package / "agents" / agent / "config" / name
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def run_flags() -> frozenset[str]:
    """Return the long flags of `cooperbench run`; none if its source does not show them."""
    package = _package()
    try:
        source = (package / "cli.py").read_text(encoding="utf-8") if package else ""
        nodes = list(ast.walk(ast.parse(source)))
    except (OSError, SyntaxError):
        return frozenset()
    return frozenset(
        str(word.value)
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_parser.add_argument"
        for word in node.args
        if isinstance(word, ast.Constant) and str(word.value).startswith("--")
    )
