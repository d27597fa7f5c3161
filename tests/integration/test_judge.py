"""The judge with a replayed model: no answer is paid twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from judged import answer, plan_of, summary_of

from cooperflow import environment, layout
from cooperflow.experiment import plan as planning

# --- with the replay server -------------------------------------------------------------------


@pytest.mark.slow
def test_no_answer_is_paid_twice(tmp_path: Path) -> None:
    """The real client library, recorder and cost accounting; the model is the replay server."""
    root = tmp_path / "results"
    synthetic.finish(synthetic.make_plan(root, "flash", first=12), steps=2)
    recordings = tmp_path / "recordings"
    shutil.copytree(layout.REPOSITORY / "demo" / "recordings", recordings)
    quotes = ["I look at the code first.", "print('hello')"]
    verdicts = [
        answer(
            ("repetition", quotes),
            ("work_overlap", ["I take store.py, all of it.", "not in there at all"]),
        ),
        "?",
    ]
    (recordings / "judge.jsonl").write_text(
        json.dumps({"contains": ["## Result"], "answers": verdicts})
    )
    model = {"model": "command-a-03-2025", "replay": str(recordings)}
    plan = plan_of(root, model=model, sample=2)
    before = plan.results.runs_csv.read_bytes()
    ledger = root / "judge" / "ledger.jsonl"

    first = judge(plan)
    summary = summary_of(root)
    lines = ledger.read_text().splitlines()
    assert "2 calls pending" in first
    assert "(replay)" in first
    assert len(lines) == 2
    assert summary["replay"] is True
    assert (summary["labels_accepted"], summary["answers_unreadable"]) == (1, 1)
    assert summary["labels_rejected"]["quote_not_found"] == 1
    billed = [json.loads(line) for line in lines]
    cost = sum(2.5e-6 * e["billed_input_tokens"] + 1e-5 * e["billed_output_tokens"] for e in billed)
    assert summary["usage"]["cost_usd"] == pytest.approx(cost, abs=1e-6)
    labels = pd.read_csv(root / "judge" / "labels.csv")
    assert labels["replay"].all()
    assert labels.loc[labels["accepted"], ["quote1", "quote2"]].values.tolist() == [quotes]

    # A process that was killed after the answer: it is restored from the call log.
    min((root / "judge" / "answers").iterdir()).unlink()
    assert "0 calls pending" in judge(plan)
    assert ledger.read_text().splitlines() == lines
    assert summary_of(root) == summary
    assert plan.results.runs_csv.read_bytes() == before


def judge(plan: planning.Plan) -> str:
    """Run the rule's script and return its output."""
    script = layout.REPOSITORY / "scripts" / "judge.py"
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, environment.CONFIG: plan.config.model_dump_json()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
