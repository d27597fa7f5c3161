"""The experiment's config, read and checked."""

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

# A path that begins so is in the folder of the config file that names it.
HERE = "CONFIG_DIR/"


def parse(
    raw: Mapping[str, Any], source: str = "config", files: Sequence[Path | str] = ()
) -> Config:
    """Check ``raw`` and return the config.

    Args:
        files: the config files, the last one on top; paths that begin with CONFIG_DIR/ are
            looked for in their folders.

    Raises:
        UserError: naming the key, the value, what is allowed and the nearest name.
    """
    try:
        config = Config.model_validate(_located(dict(raw), [Path(file) for file in files]))
    except pydantic.ValidationError as error:
        lines = [f"{source}: {line}" for line in config_errors.explain(error)]
        raise UserError("\n".join(lines)) from None
    problems = list(config_errors.problems(config))
    if problems:
        raise UserError("\n".join(f"{source}: {line}" for line in problems))
    return config


def _located(value: Any, files: Sequence[Path]) -> Any:
    """Return ``value`` with CONFIG_DIR/ replaced by a folder, relative to this one if below it."""
    if isinstance(value, dict):
        return {key: _located(entry, files) for key, entry in value.items()}
    if isinstance(value, list):
        return [_located(entry, files) for entry in value]
    if not (isinstance(value, str) and value.startswith(HERE) and files):
        return value
    places = [file.resolve().parent / value.removeprefix(HERE) for file in reversed(files)]
    path = next((place for place in places if place.exists()), places[0])
    here = Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


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
    """Return the config of ``files``, each laid over the one before, config.yaml below all.

    What stands in ``files`` comes first, as with Snakemake: the order of models and settings is
    that of the tables.
    """
    own: dict[str, Any] = {}
    for path in files:
        _lay_over(own, _read(path))
    merged = copy.deepcopy(own)
    _lay_over(merged, _read(layout.CONFIG_FILE))
    _lay_over(merged, own)
    source = ", ".join(path.name for path in files) or layout.CONFIG_FILE.name
    return parse(merged, source, [layout.CONFIG_FILE, *files])


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no config: it needs keys at its top, such as `results:`.")
    return found


def _lay_over(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _lay_over(base[key], value)
        else:
            base[key] = value
