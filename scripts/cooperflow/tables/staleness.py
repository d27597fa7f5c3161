"""Staleness of the tables on disk: a config with other runs or names makes them outdated."""

from __future__ import annotations

import hashlib
import json

from cooperflow import atomic_io
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan


def key(plan: Plan) -> str:
    """Return a hash of the config's part in the tables: the runs and their names."""
    content: list[object] = [
        plan.config.dataset.languages,
        [
            [
                each.run_name,
                each.model_name,
                each.setting.name,
                bool(each.model.replay),
                each.adopted,
            ]
            for each in plan.experiments
        ],
        [run.key for run in plan.runs],
    ]
    # The report names results of another configuration.
    if changes := fingerprint.changed(plan):
        content.append(sorted(changes.items()))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def remember(plan: Plan) -> None:
    """Record that the tables were made for ``plan``."""
    atomic_io.write_text(plan.results.tables_plan, key(plan) + "\n")


def are_of(plan: Plan) -> bool:
    """Return whether the tables were last made for this plan; False without a record."""
    try:
        return plan.results.tables_plan.read_text().strip() == key(plan)
    except (FileNotFoundError, NotADirectoryError):
        return False
