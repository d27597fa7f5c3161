"""Putting runs that an infrastructure failure broke back to be done, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cooperflow import atomic_io, layout
from cooperflow.experiment.plan import Plan, Run
from cooperflow.outcomes import judgement, publication


@dataclass(frozen=True)
class Broken:
    """A finished run whose outcome is infra_error."""

    run: Run
    reason: str
    attempts: int
    cost_usd: float

    @property
    def graded_only(self) -> bool:
        """Only its grading broke: what was paid for is good, and is not paid for again."""
        return self.reason == judgement.EVAL_ERROR


def find(plan: Plan) -> list[Broken]:
    """Return the plan's runs whose outcome is infra_error."""
    found = []
    for run in plan.runs:
        folder = run.folder(plan.results)
        result = (atomic_io.read_json(folder.result) or {}).get("workflow") or {}
        graded = (atomic_io.read_json(folder.eval) or {}).get("workflow") or {}
        for told in (result, graded):
            if told.get("outcome") == judgement.INFRA_ERROR:
                if run.experiment.adopted and told is result:
                    break  # it was never ours to run, and what broke it cannot be done again
                cost = publication.books(folder).cost_usd
                attempts = len(folder.attempt_numbers())
                found.append(Broken(run, str(told["reason"]), attempts, cost))
                break
    return found


def put_back(plan: Plan, broken: Sequence[Broken]) -> None:
    """Make each run one to be done again; its attempts and their costs stay in the books."""
    for one in broken:
        folder = one.run.folder(plan.results)
        if not one.graded_only:
            for number in folder.attempt_numbers():
                kept = folder.attempt(number) / layout.RESULT
                if kept.exists():
                    kept.rename(kept.with_name(layout.RETIRED))
        for note in plan.results.broken_evals.glob(f"{one.run.dashed}.*"):
            note.unlink(missing_ok=True)
        folder.eval.unlink(missing_ok=True)
        if not one.graded_only:
            folder.result.unlink(missing_ok=True)
    if broken:
        for table in (plan.results.summary_csv, plan.results.runs_csv):
            table.unlink(missing_ok=True)
