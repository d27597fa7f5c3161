"""Loading and checking of the experiment's config."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from cooperflow import environment, layout
from cooperflow.errors import UserError
from cooperflow.experiment import config_errors
from cooperflow.experiment.config_schema import Config

# A path with this prefix is in the folder of the config file that names it.
CONFIG_DIR = "CONFIG_DIR/"


def parse(
    raw: Mapping[str, Any], source: str = "config", files: Sequence[Path | str] = ()
) -> Config:
    """Check ``raw`` and return the config.

    Args:
        files: the config files, later ones override earlier ones; paths with the prefix
            CONFIG_DIR/ are searched in their folders.

    Raises:
        UserError: naming the key, the value, the allowed values and the nearest name.
    """
    try:
        config = Config.model_validate(_resolve_paths(dict(raw), [Path(file) for file in files]))
    except pydantic.ValidationError as error:
        lines = [f"{source}: {line}" for line in config_errors.explain(error)]
        raise UserError("\n".join(lines)) from None
    problems = list(config_errors.find_problems(config))
    if problems:
        raise UserError("\n".join(f"{source}: {line}" for line in problems))
    return config


def _resolve_paths(value: Any, files: Sequence[Path]) -> Any:
    """Return ``value`` with CONFIG_DIR/ replaced, by a relative path if it is below this folder."""
    if isinstance(value, dict):
        return {key: _resolve_paths(entry, files) for key, entry in value.items()}
    if isinstance(value, list):
        return [_resolve_paths(entry, files) for entry in value]
    if not (isinstance(value, str) and value.startswith(CONFIG_DIR) and files):
        return value
    paths = [file.resolve().parent / value.removeprefix(CONFIG_DIR) for file in reversed(files)]
    path = next((path for path in paths if path.exists()), paths[0])
    folder = Path.cwd().resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def from_environment() -> Config:
    """Return the config of the workflow that started this script.

    Raises:
        UserError: the script was not started by the workflow.
    """
    text = os.environ.get(environment.CONFIG)
    if not text:
        raise UserError(f"{environment.CONFIG} is not set: this script is started by Snakemake.")
    return Config.model_validate_json(text)


def load(files: list[Path]) -> Config:
    """Return the config of ``files``, each merged over the previous one, over config.yaml.

    Keys of ``files`` come first, as in Snakemake: tables list models and settings in this order.
    """
    overrides: dict[str, Any] = {}
    for path in files:
        _merge(overrides, _read(path))
    merged = copy.deepcopy(overrides)
    _merge(merged, _read(layout.CONFIG_FILE))
    _merge(merged, overrides)
    source = ", ".join(path.name for path in files) or layout.CONFIG_FILE.name
    return parse(merged, source, [layout.CONFIG_FILE, *files])


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: is not a config: it needs keys at its top, such as `results:`.")
    return document


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
