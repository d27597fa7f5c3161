"""Whether the tables on disk are those of a plan: a config that asks for others makes them old."""

from __future__ import annotations

import hashlib
import json

from cooperflow import atomic_io
from cooperflow.experiment import fingerprint
from cooperflow.experiment.plan import Plan


def key(plan: Plan) -> str:
    """Return a name of all that the tables take from the config: runs, and what they are called."""
    told = [
        plan.config.dataset.languages,
        [
            [one.run_name, one.model_name, one.setting.name, bool(one.model.replay), one.adopted]
            for one in plan.experiments
        ],
        [run.key for run in plan.runs],
    ]
    # The report names results that another configuration made.
    if changes := fingerprint.changed(plan):
        told.append(sorted(changes.items()))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def remember(plan: Plan) -> None:
    """Note that the tables were made for ``plan``."""
    atomic_io.write_text(plan.results.tables_plan, key(plan) + "\n")


def are_of(plan: Plan) -> bool:
    """Return whether the tables were last made for this plan; False too where nobody noted it."""
    try:
        return plan.results.tables_plan.read_text().strip() == key(plan)
    except (FileNotFoundError, NotADirectoryError):
        return False
