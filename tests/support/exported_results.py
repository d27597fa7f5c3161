"""A finished experiment whose agents print a key and a path, and its export."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic

from cooperflow.archive import export, run_formats
from cooperflow.experiment.plan import Plan

KEY = "sk-a-key-that-must-not-leave"


def finished_plan(root: Path) -> Plan:
    """Return a finished experiment whose agents print the key and the path of the results."""
    plan = synthetic.make_plan(root, "flash")
    words = synthetic.Words(output=f"Bearer {KEY} in {root}/runs\n", message="I take store.py.")
    synthetic.finish(plan, words, steps=2)
    return plan


def export_of(plan: Plan) -> Path:
    """Export the results and return the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COHERE_API_KEY", KEY)
        # Another test covers .eval files.
        patch.setattr(run_formats, "inspect_interpreter", lambda: None)
        result = export.write(plan)
    assert result.logs == 3
    assert "make inspect" in result.notes[0]
    return plan.results.export
