"""Settings of the Snakemake process that are made while the Snakefile is parsed.

Each function has one reason. tests/contract/test_snakemake.py pins the internals that they use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def restore_resources(workflow: Any, profiles: Path) -> None:
    """Give each resource that the command line left out its value from the shipped profile.

    Snakemake lets `--resources a=1` replace all resources of a profile, and `--default-resources`
    likewise (snakemake#3429): evaluations and pulls would be unlimited.
    """
    if workflow.remote_exec:
        return  # one job on a cluster's node, with the resources that its session gave it
    # The executor is not known yet, but a local one turns --jobs into --cores.
    cluster = workflow.resource_settings.nodes is not None and not workflow.output_settings.dryrun
    profile = _profile(profiles / ("slurm" if cluster else "default"))
    for name, value in _assignments(profile, "resources").items():
        if name not in workflow.global_resources:
            workflow.register_resource(name, int(value))
    if cluster:
        from snakemake.resources import Resources

        defaults = workflow.resource_settings._parsed_default_resources
        shipped = dict(Resources.default("full").items())
        for name, value in _assignments(profile, "default-resources").items():
            # Snakemake adds defaults of its own for memory, disk and the temporary folder.
            if name not in defaults or _is_same(defaults[name], shipped.get(name)):
                defaults[name] = int(value)


def _is_same(resource: Any, other: Any) -> bool:
    return other is not None and resource.raw == other.raw


def _profile(folder: Path) -> Mapping[str, Any]:
    document: Mapping[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return document


def _assignments(profile: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return a profile's list of NAME=VALUE as a table."""
    pairs = (entry.partition("=") for entry in profile.get(key) or ())
    return {name: value for name, _, value in pairs}
